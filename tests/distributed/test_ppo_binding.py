"""Two real gloo processes: every row scored belongs to the person its prompt names, and a wrong pairing is caught."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from ppo_helpers import tiny_policy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    output = tmp_path_factory.mktemp("ppo")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("ppo_binding_worker.py")), str(output)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    files = sorted(output.glob("rank_*.json"))
    assert len(files) == 2, f"return code {done.returncode}\n{done.stderr[-4000:]}"
    return output, [json.loads(file.read_text(encoding="utf-8")) for file in files]


def test_there_really_are_two_processes(ranks: tuple[Path, list[dict]]) -> None:
    for rank in ranks[1]:
        assert (rank["num_processes"], rank["distributed_type"], rank["is_ddp"]) == (2, "MULTI_CPU", True)


def test_every_row_is_scored_for_its_own_person_on_both(ranks: tuple[Path, list[dict]]) -> None:
    """3 updates × 4 rows in chunks of 3 and 1, and an eval batch of 4 after the first update, on each process."""
    for rank in ranks[1]:
        assert rank["chunks"] == [3, 1, 4, 3, 1, 3, 1]
        assert rank["n_seen"] == rank["n_consumed"] == 16
        assert rank["n_wrong"] == 0
    assert ranks[1][0]["people"] != ranks[1][1]["people"]  # each process has its own rows


def test_a_wrong_pairing_is_seen_and_refused(ranks: tuple[Path, list[dict]]) -> None:
    for rank in ranks[1]:
        assert rank["n_wrong_by_side_channel"] > 0
        assert "out of step" in rank["refused"]


def test_processes_agree_on_weights_and_on_metrics(ranks: tuple[Path, list[dict]]) -> None:
    first, second = ranks[1]
    assert first["weight_sum"] == second["weight_sum"]
    assert first["reward"] == second["reward"] and first["even"] == second["even"]
    assert np.isfinite(first["reward"]).all()


def test_policy_saved_from_two_processes_loads_with_plain_peft(ranks: tuple[Path, list[dict]]) -> None:
    output, (first, _) = ranks
    base, _ = tiny_policy()
    policy = PeftModel.from_pretrained(base, output / "policy")
    weights = torch.cat([p.detach().flatten() for name, p in policy.named_parameters() if "lora_" in name])
    assert weights.double().sum().item() == pytest.approx(first["weight_sum"], abs=1e-6)
