#!/usr/bin/env bash
# deepspeed 0.19.8 (torch 2.13.0, two CPU processes, gloo): ZeRO stage 2 averages gradients in the order in which they come.
#
# Guess before looking: gradients are averaged over processes parameter by parameter, as under DDP and ZeRO stages 0 and 1,
# in whatever order a process's backward pass finds them.
# Seen: one process uses `first` before `second` in its forward pass, the other after it. Stages 0 and 1 step by the mean
# gradients, 1.5 and 15. Stage 2 puts gradients into its bucket as they come, and adds up the first that came here with the
# first that came there: both parameters step by a mixture of the two. No error and no warning.
#
# Output seen:
#   stage 0: first -1.5 second -15.0
#   stage 1: first -1.5 second -15.0
#   stage 2: first -10.5 second -10.5
#
# Whoever trains a model whose forward pass is not the same on all processes (adapters that have rows on one of them only,
# branches by length, experts) has to see to it that gradients come in one order, or take stage 1, 3 or DDP.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 setuptools wheel
"$folder/venv/bin/pip" install --quiet --no-build-isolation deepspeed==0.19.8
cd "$folder"
cat > look.py <<'PY'
import os
import sys

import deepspeed
import torch

stage, rank = int(sys.argv[1]), int(os.environ["RANK"])
deepspeed.init_distributed("gloo")


class Both(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))

    def forward(self, x):
        parts = [lambda held: held + (self.first * x).sum(), lambda held: held + (10 * self.second * x).sum()]
        value = torch.zeros((), requires_grad=True)
        for part in parts if rank == 0 else parts[::-1]:
            value = part(value)
        return value


model = Both()
config = {
    "train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}, "gradient_clipping": 0.0,
    "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
}
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
engine.backward(engine(torch.full((4,), rank + 1.0)))
engine.step()
if rank == 0:
    first, second = (float(held.detach()[0]) for held in (model.first, model.second))
    print(f"stage {stage}: first {first:.1f} second {second:.1f}")
    assert ((first, second) == (-1.5, -15.0)) == (stage < 2), (stage, first, second)
PY
for stage in 0 1 2; do
    OMP_NUM_THREADS=1 "$folder/venv/bin/python" -m torch.distributed.run --standalone --nproc_per_node 2 look.py $stage \
        2> errors.txt | grep '^stage' || { cat errors.txt; exit 1; }
done
