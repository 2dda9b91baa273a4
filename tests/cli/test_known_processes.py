"""Two processes that a launcher started and that do not know of each other train nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from palign.cli.parser import require_known_processes

ROOT = Path(__file__).parents[2]


def test_who_knows_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    require_known_processes(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    require_known_processes(2)
    with pytest.raises(RuntimeError, match="2 processes were launched that do not know of each other"):
        require_known_processes(1)


def test_a_launch_without_accelerators_stops_before_anything_is_written(tmp_path: Path) -> None:
    config = ROOT / "accelerate_configs" / "multi_gpu.yaml"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--num_processes",
        "2",
    ]
    command += ["-m", "palign", "reward", "--output_dir", str(tmp_path / "out")]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)
    assert done.returncode != 0 and "do not know of each other" in done.stderr
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
