#!/usr/bin/env bash
# accelerate 1.15.0 (torch 2.13.0, a machine without a GPU): a MULTI_GPU configuration starts processes that do not know
# of one another.
#
# Guess before looking: `accelerate launch` refuses a MULTI_GPU configuration where there is no GPU, or the processes
# form a group over gloo.
# Seen: with distributed_type MULTI_GPU and num_processes 2 it starts two processes and says nothing. In each of them
# `PartialState()` has distributed_type NO, num_processes 1 and process_index 0, though the environment says RANK 0 and 1
# and WORLD_SIZE 2. Both are the main process: both train on all rows and write into one folder.
#
# Output seen (in any order):
#   RANK=0 WORLD_SIZE=2 -> DistributedType.NO, process 0 of 1, main True
#   RANK=1 WORLD_SIZE=2 -> DistributedType.NO, process 0 of 1, main True
#
# `PartialState(cpu=True)`, which `use_cpu=True` in training arguments comes to, gives process 0 and 1 of 2 over gloo.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0
cd "$folder"
export CUDA_VISIBLE_DEVICES= HF_HOME="$folder/cache" OMP_NUM_THREADS=1
cat > config.yaml <<'YAML'
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
machine_rank: 0
main_training_function: main
mixed_precision: "no"
num_machines: 1
num_processes: 2
use_cpu: false
YAML
cat > look.py <<'PY'
import os
import sys
from accelerate import PartialState
state = PartialState(cpu=sys.argv[1:] == ["cpu"])
where = f"process {state.process_index} of {state.num_processes}, main {state.is_main_process}"
print(f"RANK={os.environ['RANK']} WORLD_SIZE={os.environ['WORLD_SIZE']} -> {state.distributed_type}, {where}", flush=True)
PY
venv/bin/accelerate launch --config_file config.yaml look.py > seen.txt 2> err.txt || { cat err.txt; exit 1; }
sort seen.txt
test "$(grep -c 'DistributedType.NO, process 0 of 1, main True' seen.txt)" = 2
venv/bin/accelerate launch --config_file config.yaml look.py cpu > cpu.txt 2> err.txt || { cat err.txt; exit 1; }
sort cpu.txt
grep -q 'process 0 of 2, main True' cpu.txt
grep -q 'process 1 of 2, main False' cpu.txt
