"""A dead worker: the launcher ends the others and says so, what was saved is intact, two new processes go on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from palign.trainers.checkpointing.complete import last_complete_checkpoint
from tests.worlds.kills import difference

ROOT = Path(__file__).parents[2]


def launch(name: str, folder: Path, kill_at: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    worker = str(Path(__file__).with_name("kill_worker.py"))
    return subprocess.run(
        [*command, worker, name, str(folder), str(kill_at)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name, kill_at", [("ppo", 3), ("mixture", 3)])  # a checkpoint of the second process
def test_a_dead_worker_is_said_and_survived(tmp_path: Path, name: str, kill_at: int) -> None:
    whole = launch(name, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-3000:]
    died = launch(name, tmp_path / "broken", kill_at=kill_at)
    assert died.returncode != 0
    assert "exitcode  : -9" in died.stderr and "Signal 9 (SIGKILL)" in died.stderr, died.stderr[-3000:]
    last = last_complete_checkpoint(tmp_path / "broken")
    assert last is not None and not (tmp_path / "broken.safetensors").exists()
    again = launch(name, tmp_path / "broken")
    assert again.returncode == 0, again.stderr[-3000:]
    gap = difference(*(load_file(tmp_path / f"{run}.safetensors") for run in ("whole", "broken")))
    assert gap <= 1e-6, gap
