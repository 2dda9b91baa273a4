"""SIGTERM: how Slurm and Kubernetes ask a run to end, with half a minute or so before SIGKILL.

In training, the step that is under way ends, a checkpoint is written, and the process leaves with 143 (128 + 15), so
that nobody takes the run for finished. A second signal ends it at once. Of several processes it is enough that one got
the signal: all end at the same step. Outside of training `palign.cli.errors.run` ends a recipe at once, with 143, too.

transformers' `enable_jit_checkpoint` does a part of this (its training returns as if it were done); here it is the
same as without.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["SaveAndEnd", "TerminatedError"]

logger = logging.getLogger(__name__)
STATUS = 128 + signal.SIGTERM


class TerminatedError(SystemExit):
    """The process was asked to end, and does; `code` is 143, and the text says from where the run goes on."""

    def __init__(self, text: str) -> None:
        super().__init__(STATUS)
        self.text = text

    def __str__(self) -> str:
        return self.text


class SaveAndEnd(TrainerCallback):
    """Ends training after the step in which SIGTERM came, with a checkpoint.

    Attributes:
        has_ended: whether training ended for that.
    """

    def __init__(self) -> None:
        self._is_asked, self._listens, self.has_ended = False, False, False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, SIGTERM is noted; where signals are not ours to take (another thread), nothing changes."""
        self._is_asked = self.has_ended = False
        self._listens = True  # all processes, whether or not their signals are ours
        if threading.current_thread() is not threading.main_thread():
            yield
            self._listens = False
            return
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield
        finally:
            self._listens = False
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)

    def _note(self, *_: Any) -> None:
        if self._is_asked:
            raise TerminatedError("SIGTERM came twice; ended at once.")
        self._is_asked = True
        logger.warning("SIGTERM: the step under way ends, a checkpoint is written, and all is over.")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Save and stop, if any process was asked to."""
        if self._is_asked_anywhere(args):
            self.has_ended = True
            control.should_save = control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """What the last step wrote is not written again."""
        if self.has_ended:
            control.should_save = False
        return control

    def _is_asked_anywhere(self, args: TrainingArguments) -> bool:
        if not self._listens:  # a fit that the main process makes alone
            return False
        if PartialState().num_processes == 1 or not torch.distributed.is_initialized():
            return self._is_asked
        asked = torch.tensor([float(self._is_asked)], device=args.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return bool(asked)

    def leave(self, output_dir: str | Path, checkpoint: Path | None) -> None:
        """Raise `TerminatedError`, which says from where the run goes on."""
        if checkpoint is None:
            raise TerminatedError(f"SIGTERM: ended. {str(output_dir)!r} holds no checkpoint; the run begins anew.")
        raise TerminatedError(
            f"SIGTERM: ended. {str(checkpoint)!r} is complete; --resume_from_checkpoint true goes on from it."
        )
