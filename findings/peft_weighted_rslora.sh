#!/usr/bin/env bash
# peft 0.21.2 (torch 2.13.0, transformers 5.24.0): a weighted adapter of rank-stabilised LoRA is sqrt(r) times too large.
#
# Guess before looking: `add_weighted_adapter(["first"], [1.0], ...)` is the adapter "first" again, as it is for plain LoRA.
# Seen: the merged factors already hold "first"'s scaling alpha / sqrt(r), and the new adapter's configuration says
# lora_alpha = r and keeps use_rslora = True, so that its own scaling is r / sqrt(r) = sqrt(r) and not 1. With r = 16 the
# merged change is 4 times that of "first", for combination_type svd, linear and cat alike, in memory and saved and loaded.
#
# Output seen:
#   plain LoRA: svd 1.000 linear 1.000 cat 1.000
#   rsLoRA:     svd 4.000 linear 4.000 cat 4.000
#   rsLoRA, saved and loaded: 4.000
#
# Anybody who merges adapters of types, tasks or users trained with rsLoRA gets a model that is far from all of them; no
# error and no warning. Setting use_rslora = False in the merged configuration before the layers are made gives 1.000.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
cd "$folder"
cat > look.py <<'PY'
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

WAYS = ("svd", "linear", "cat")


def base():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, **shape))


def change(model, name):
    layer = next(m for n, m in model.named_modules() if n.endswith("q_proj") and hasattr(m, "get_delta_weight"))
    return layer.get_delta_weight(name).detach().norm()


def merged(use_rslora):
    config = LoraConfig(r=16, lora_alpha=16, use_rslora=use_rslora, target_modules=["q_proj"])
    model = get_peft_model(base(), config, adapter_name="first")
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    for way in WAYS:
        model.add_weighted_adapter(["first"], [1.0], way, combination_type=way)
    return model, {way: float(change(model, way) / change(model, "first")) for way in WAYS}


_, plain = merged(use_rslora=False)
model, stabilised = merged(use_rslora=True)
model.save_pretrained("out", selected_adapters=["svd"])
loaded = PeftModel.from_pretrained(base(), "out/svd", adapter_name="again")
again = float(change(loaded, "again") / change(model, "first"))
print("plain LoRA:", *(f"{way} {value:.3f}" for way, value in plain.items()))
print("rsLoRA:    ", *(f"{way} {value:.3f}" for way, value in stabilised.items()))
print(f"rsLoRA, saved and loaded: {again:.3f}")
assert all(abs(value - 1) < 1e-3 for value in plain.values()), plain
assert all(abs(value - 4) < 1e-3 for value in (*stabilised.values(), again)), (stabilised, again)
PY
"$folder/venv/bin/python" look.py
