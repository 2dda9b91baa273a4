"""SIGTERM reaches one of two processes: both end after the same step, with one complete checkpoint."""

import os
import signal
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from palign.trainers.checkpointing.complete import incomplete_because
from palign.trainers.checkpointing.terminated import TerminatedError
from tests.distributed.ranks import run_ranks
from tests.trainers.checkpointing.test_complete import line_trainer


class TerminateOne(TrainerCallback):
    """Sends SIGTERM to the second process within its third step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2 and PartialState().process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def train(folder: str) -> dict[str, Any]:
    trainer = line_trainer(Path(folder), save_strategy="no", ddp_backend="gloo")
    trainer.add_callback(TerminateOne())
    try:
        trainer.train()
    except TerminatedError as ended:
        return {"code": ended.code, "step": trainer.state.global_step, "text": str(ended)}
    return {"code": 0, "step": trainer.state.global_step}


def test_one_signal_ends_all(tmp_path: Path) -> None:
    ranks = run_ranks(train, tmp_path / "ranks", str(tmp_path / "out"))
    assert [(rank["code"], rank["step"]) for rank in ranks] == [(143, 3), (143, 3)]
    assert incomplete_because(tmp_path / "out" / "checkpoint-3") is None
    assert all("checkpoint-3' is complete" in rank["text"] for rank in ranks)
