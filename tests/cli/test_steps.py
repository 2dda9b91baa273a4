"""What a run says as it goes, and before anything heavy is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from palign.cli.command import COMMANDS
from palign.cli.steps import STEPS, Steps, announcement

ROOT = Path(__file__).parents[2]


def test_each_step_is_numbered_and_the_main_process_alone_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(["rows", "report"])
    steps.next()
    monkeypatch.setenv("RANK", "1")
    steps.next()
    assert capsys.readouterr().out == "1 of 2: rows\n"
    with pytest.raises(IndexError):
        steps.next()


def test_every_command_that_trains_or_judges_has_its_steps() -> None:
    assert set(STEPS) == set(COMMANDS) - {"export", "serve"}
    assert announcement("fair").startswith("palign fair, in steps: the mixture and the rows; regrets")
    assert announcement("serve").startswith("palign serve. First torch")


def test_the_first_line_comes_before_torch_is_loaded(tmp_path: Path) -> None:
    """A torch that cannot be imported: the line stands all the same."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is loaded now')", encoding="utf-8")
    (tmp_path / "accelerate.py").write_text("import torch", encoding="utf-8")
    (tmp_path / "pandas.py").write_text("import torch", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "palign", "reward", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.startswith("palign reward, in steps: rows") and "torch is loaded now" in done.stderr


def test_a_step_gives_way_to_several_or_to_none(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(["rows", "training", "report"])
    steps.next()
    steps.replace(1, ["training of a", "training of b"])
    for _ in range(3):
        steps.next()
    lines = ["1 of 3: rows", "2 of 4: training of a", "3 of 4: training of b", "4 of 4: report"]
    assert capsys.readouterr().out.splitlines() == lines
    alone = Steps(["rows", "training", "report"])
    alone.replace(1, [])
    assert alone.names == ["rows", "report"]
