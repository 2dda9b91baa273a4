#!/usr/bin/env bash
# accelerate 1.15.0 (torch 2.13.0): a configuration that says MULTI_CPU and num_processes 2 starts ONE process.
#
# Guess before looking: `accelerate launch` with distributed_type MULTI_CPU, use_cpu true and num_processes 2 starts two
# processes of one gloo group.
# Seen: one process, without RANK and WORLD_SIZE in its environment, distributed_type NO, process 0 of 1; exit status 0
# and no warning. Two processes on the CPU of one machine come about with MULTI_GPU, use_cpu false and
# `PartialState(cpu=True)` in the program.
#
# Output seen:
#   RANK=None WORLD_SIZE=None -> DistributedType.NO, process 0 of 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0
cd "$folder"
export CUDA_VISIBLE_DEVICES= HF_HOME="$folder/cache" OMP_NUM_THREADS=1
cat > config.yaml <<'YAML'
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
machine_rank: 0
main_training_function: main
mixed_precision: "no"
num_machines: 1
num_processes: 2
use_cpu: true
YAML
cat > look.py <<'PY'
import os
from accelerate import PartialState
state, env = PartialState(), os.environ
where = f"process {state.process_index} of {state.num_processes}"
print(f"RANK={env.get('RANK')} WORLD_SIZE={env.get('WORLD_SIZE')} -> {state.distributed_type}, {where}", flush=True)
PY
venv/bin/accelerate launch --config_file config.yaml look.py > seen.txt 2> err.txt || { cat err.txt; exit 1; }
cat seen.txt
test "$(cat seen.txt)" = "RANK=None WORLD_SIZE=None -> DistributedType.NO, process 0 of 1"
