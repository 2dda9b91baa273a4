"""Rounds of EM within one run of `transformers.Trainer`."""

from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl

__all__ = ["RoundCallback"]


class HasRounds(Protocol):
    """What begins and ends rounds."""

    def begin(self) -> None: ...

    def end_step(self) -> bool: ...


class RoundCallback(TrainerCallback):
    """Rounds begin and end with the trainer's own steps, so that its checkpoints and its schedule know of them."""

    def __init__(self, trainer: HasRounds):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.begin()

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        should_log = control.should_log
        if self.trainer.end_step():
            control.should_save = True
        control.should_log = should_log  # logging the round would count as the step's own log
