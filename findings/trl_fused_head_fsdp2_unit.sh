#!/usr/bin/env bash
# TRL 1.16.0 (torch 2.13.0, transformers 5.24.0, two CPU processes, gloo): the fused head and a head that is a unit of FSDP2 by itself.
#
# Guess before looking: TRL's fused head takes weights that FSDP2 has divided (it has a branch for them), so it does not matter
# which module `fully_shard` was called on: the gradient is the mean over processes.
# Seen: it is, as long as the head's weight lies in the outermost unit, which is whole while the model runs. With
# `fully_shard(model.lm_head)` before `fully_shard(model)` the weight is still in parts when TRL reads it outside of the head's
# own forward pass. TRL then asks for the full tensor, and in the backward pass each process keeps its rows of its *own*
# gradient: nothing is averaged. The loss is right, there is no warning, and the head learns from a part of the data.
#
# Output seen:
#   head in the outermost unit: 0.00 of the gradient apart
#   head in a unit of its own: 0.94 of the gradient apart
#
# Whoever divides embeddings and head apart (to gather less at once) and trains by TRL's fused losses should keep the head in
# the outermost unit, or train adapters on a frozen head.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 trl==1.16.0
cd "$folder"
cat > look.py <<'PY'
import os
import sys

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

way = sys.argv[1]
torch.distributed.init_process_group("gloo")
rank, mesh = torch.distributed.get_rank(), init_device_mesh("cpu", (2,))


def gradient(batches, divide):
    """Of the head, by TRL's fused loss, the mean over the batches of one process."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False,
    ))
    add_fused_lm_head(model)
    if divide:
        if divide == "unit":
            fully_shard(model.lm_head, mesh=mesh)
        fully_shard(model, mesh=mesh)
    sum(model(input_ids=ids, labels=ids, fused_lm_head=True).loss for ids in batches).div(len(batches)).backward()
    found = model.lm_head.weight.grad
    return found.full_tensor() if isinstance(found, DTensor) else found


batches = [torch.randint(32, (2, 8), generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
right = gradient(batches, None)
seen = gradient([batches[rank]], way)
apart = float((seen - right).norm() / right.norm())
if rank == 0:
    print(f"head in {'a unit of its own' if way == 'unit' else 'the outermost unit'}: {apart:.2f} of the gradient apart")
    assert (apart > 0.1) == (way == "unit"), apart
PY
for way in root unit; do
    OMP_NUM_THREADS=1 "$folder/venv/bin/python" -m torch.distributed.run --standalone --nproc_per_node 2 look.py $way \
        2> errors.txt | grep '^head' || { cat errors.txt; exit 1; }
done
