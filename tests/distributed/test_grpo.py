"""Two gloo processes: every completion is rewarded by the person its prompt names, groups that lie on both too."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel

from tests.worlds.group_policy import ALGORITHMS
from tests.worlds.tiny_policy import tiny_policy

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    output = tmp_path_factory.mktemp("grpo")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("grpo_worker.py")), str(output)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    files = sorted(output.glob("rank_*.json"))
    assert len(files) == 2, f"return code {done.returncode}\n{done.stderr[-4000:]}"
    return output, [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_people_and_groups_over_two_processes(ranks: tuple[Path, list[dict]], algorithm: str) -> None:
    """Of 24 completions for three rows, 12 lie on each process: a group of eight, half of the middle one."""
    for rank in ranks[1]:
        found = rank[algorithm]
        assert (found["num_processes"], found["distributed_type"], found["is_ddp"]) == (2, "MULTI_CPU", True)
        assert found["n_wrong"] == 0 and [len(call) for call in found["rewards"]] == [12, 12]
    for first, second in zip(*(rank[algorithm]["rewards"] for rank in ranks[1]), strict=True):
        groups = np.array([*first, *second]).reshape(3, 8)
        people = np.floor(groups)
        assert (people == people[:, :1]).all() and len(set(people[:, 0])) == 3
        assert (groups != groups[:, :1]).any()  # a group of one reward would teach nothing


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_processes_agree_on_weights_and_log_what_both_saw(ranks: tuple[Path, list[dict]], algorithm: str) -> None:
    first, second = (rank[algorithm] for rank in ranks[1])
    assert first["weight_sum"] == second["weight_sum"] and first["history"] == second["history"]
    assert first["moved"] > 0  # lora_B begins at 0
    for logs, ours, theirs in zip(first["history"], first["rewards"], second["rewards"], strict=True):
        rewards = np.array([*ours, *theirs])
        assert logs["objective/reward"] == pytest.approx(rewards.mean())
        assert logs["objective/gold"] == pytest.approx(np.floor(rewards).mean())
        for name, remainder in (("even", 0), ("odd", 1)):
            own = rewards[np.floor(rewards) % 2 == remainder]
            assert (f"groups/{name}/reward" in logs) == bool(len(own))
            if len(own):
                assert logs[f"groups/{name}/reward"] == pytest.approx(own.mean())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policy_saved_from_two_processes_loads_with_plain_peft(ranks: tuple[Path, list[dict]], algorithm: str) -> None:
    output, (first, _) = ranks
    base, _ = tiny_policy()
    policy = PeftModel.from_pretrained(base, output / algorithm)
    total = sum(p.detach().double().sum().item() for name, p in policy.named_parameters() if "lora_" in name)
    assert total == pytest.approx(first[algorithm]["weight_sum"], abs=1e-6)
