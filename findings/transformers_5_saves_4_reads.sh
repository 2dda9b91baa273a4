#!/usr/bin/env bash
# transformers 5.24.0 saves, transformers 4.51.3 reads (torch 2.13.0): rotary positions get another base, in silence.
#
# Guess before looking: a folder that version 5 wrote is either read by version 4 as it is, or refused.
# Seen: version 5 writes the base of rotary positions into `rope_parameters` alone. Version 4.51 knows `rope_theta` and
# takes its own default, 10,000, without a word. The logits of the same weights differ.
#
# Output seen:
#   written: rope_theta at the top False, in rope_parameters 1000000.0
#   read by 4.51.3: rope_theta 10000.0
#   largest difference of logits: 0.28, of 0 after `rope_theta` was written into config.json
#
# Servers and trainers are pinned to version 4 for longer than notebooks. Whoever trains with 5 and serves with 4 has
# worse answers at long distances and no error. Writing `rope_theta` beside `rope_parameters` in config.json mends it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/pip" install --quiet --target "$folder/four" transformers==4.51.3
cd "$folder"
cat > save.py <<'PY'
import json

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
config = LlamaConfig(vocab_size=64, num_key_value_heads=2, rope_theta=1_000_000.0, **shape)
model = LlamaForCausalLM(config).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
model.save_pretrained("model")
ids = torch.arange(48)[None] % 64
with torch.no_grad():
    torch.save(model(ids).logits, "logits.pt")
entries = json.load(open("model/config.json"))
print(f"written: rope_theta at the top {'rope_theta' in entries}, in rope_parameters", entries["rope_parameters"]["rope_theta"])
assert "rope_theta" not in entries and entries["rope_parameters"]["rope_theta"] == 1_000_000.0
PY
cat > read.py <<'PY'
import json

import torch
import transformers
from transformers import AutoModelForCausalLM

wanted = torch.load("logits.pt", weights_only=True)
ids = torch.arange(48)[None] % 64


def difference():
    model = AutoModelForCausalLM.from_pretrained("model", use_safetensors=True).eval()
    with torch.no_grad():
        return model.config.rope_theta, float((model(ids).logits - wanted).abs().max())


theta, silent = difference()
entries = json.load(open("model/config.json"))
json.dump(entries | {"rope_theta": 1_000_000.0}, open("model/config.json", "w"))
_, mended = difference()
print(f"read by {transformers.__version__}: rope_theta {theta}")
print(f"largest difference of logits: {silent:.2g}, of {mended:.1g} after `rope_theta` was written into config.json")
assert theta == 10_000.0 and silent > 0.1 and mended < 1e-4
PY
"$folder/venv/bin/python" save.py
PYTHONPATH="$folder/four" "$folder/venv/bin/python" read.py
