"""SIGTERM in training: the step ends, a checkpoint is written, the process leaves with 143, and the run goes on."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from palign.cli.errors import run
from palign.trainers.checkpointing.complete import incomplete_because
from palign.trainers.checkpointing.terminated import TerminatedError
from tests.trainers.checkpointing.test_complete import LineTrainer, line_trainer, names


class Terminate(TrainerCallback):
    """Sends SIGTERM to this process within a step."""

    def __init__(self, step: int, n_times: int = 1) -> None:
        self.step, self.n_times = step, n_times

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            for _ in range(self.n_times):
                os.kill(os.getpid(), signal.SIGTERM)


def weights(trainer: LineTrainer) -> torch.Tensor:
    return trainer.model.a.detach().clone()


@pytest.mark.parametrize("step", [0, 2, 5])
@pytest.mark.parametrize("options", [{"save_strategy": "no"}, {"save_strategy": "epoch"}, {"save_steps": 2}])
def test_a_terminated_run_goes_on_to_the_same_end(tmp_path: Path, step: int, options: dict[str, Any]) -> None:
    whole = line_trainer(tmp_path / "whole", **options)
    whole.train()
    cut = line_trainer(tmp_path / "cut", **options)
    cut.add_callback(Terminate(step))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TerminatedError, match=f"checkpoint-{step + 1}. is complete") as ended:
        cut.train()
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert incomplete_because(tmp_path / "cut" / f"checkpoint-{step + 1}") is None
    resumed = line_trainer(tmp_path / "cut", **options)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed), weights(whole)) and resumed.state.global_step == 6


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    trainer = line_trainer(tmp_path, save_strategy="no")
    trainer.add_callback(Terminate(1, n_times=2))
    with pytest.raises(TerminatedError, match="twice"):
        trainer.train()
    assert names(tmp_path) == set()


def test_the_checkpoints_of_transformers_at_sigterm_are_ours(tmp_path: Path) -> None:
    """With its own option, training would return as if it were done."""
    trainer = line_trainer(tmp_path, enable_jit_checkpoint=True)
    trainer.add_callback(Terminate(2))
    with pytest.raises(TerminatedError):
        trainer.train()
    assert "checkpoint-3" in names(tmp_path)


def test_a_recipe_leaves_with_143(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = line_trainer(tmp_path)
    trainer.add_callback(Terminate(2))
    assert run("palign em-dpo", trainer.train) == 143
    assert "palign em-dpo: SIGTERM: ended." in (said := capsys.readouterr().err) and "Traceback" not in said


def test_outside_of_training_a_recipe_ends_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            closed.append(True)

    assert run("palign evaluate", main) == 143
    assert closed == [True] and "SIGTERM: ended" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
