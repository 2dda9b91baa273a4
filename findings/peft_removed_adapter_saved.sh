#!/usr/bin/env bash
# peft 0.21.2 (torch 2.13.0, transformers 5.24.0): which adapters are written under one adapter's name hangs on the list
# of configurations, not on the name.
#
# Guess before looking: `get_peft_model_state_dict(model, adapter_name="first")` gives the weights of "first".
# Seen: it filters by "first", then leaves out the keys of the *other configured* adapters. An adapter "second" whose
# configuration was taken out of `model.peft_config`, with its layers still there, goes into the file of "first", under keys
# with its name in them. `save_pretrained` writes them, too: the file is twice as large and holds another person's weights.
# `delete_adapter("second")` is the way that leaves nothing behind.
#
# Output seen:
#   both configured: 2 tensors
#   configuration of second taken out: 4 tensors, 2 of them named second
#   in the saved file: 2 named second
#   after delete_adapter: 2 tensors
#
# Where one base carries an adapter for each user, a file that is handed out may hold somebody else's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
cd "$folder"
cat > look.py <<'PY'
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def two():
    config = LoraConfig(r=4, target_modules=["q_proj"])
    base = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=2, **shape))
    model = get_peft_model(base, config, adapter_name="first")
    model.add_adapter("second", LoraConfig(r=4, target_modules=["q_proj"]))
    return model


def of_second(names):
    return sum(".second." in name for name in names)


model = two()
both = list(get_peft_model_state_dict(model, adapter_name="first"))
model.peft_config.pop("second")
without = list(get_peft_model_state_dict(model, adapter_name="first"))
model.save_pretrained("out", selected_adapters=["first"])
with safe_open("out/first/adapter_model.safetensors", "pt") as file:
    saved = list(file.keys())
deleted = two()
deleted.delete_adapter("second")
after = list(get_peft_model_state_dict(deleted, adapter_name="first"))
print(f"both configured: {len(both)} tensors")
print(f"configuration of second taken out: {len(without)} tensors, {of_second(without)} of them named second")
print(f"in the saved file: {of_second(saved)} named second")
print(f"after delete_adapter: {len(after)} tensors")
assert (len(both), of_second(both), len(without), of_second(without)) == (2, 0, 4, 2)
assert of_second(saved) == 2 and len(after) == 2 and of_second(after) == 0
PY
"$folder/venv/bin/python" look.py
