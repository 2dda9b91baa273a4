"""Rounds of EM within one run of `transformers.Trainer`."""

import hashlib
from typing import Any, Protocol

from transformers import TrainerCallback, TrainerControl

from palign.trainers.cheap_start import CheapStart
from palign.trainers.mixture_dpo_config import MixtureDPOConfig, TypesFrom

__all__ = ["RoundCallback", "decides_rounds"]


def decides_rounds(args: MixtureDPOConfig, start: CheapStart) -> dict[str, Any]:
    """What a run of EM depends on beside rows and options, by name: its length, since the rounds share out the steps,
    so that a longer run would have ended its rounds elsewhere; and who is of which type, where that is given.
    """
    found = {}
    if args.types_from == TypesFrom.EM and start.n_types > 1:
        found["length"] = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs} epochs"
    if args.types_from == TypesFrom.GIVEN:
        found["responsibilities"] = hashlib.sha256(start.responsibilities.double().numpy().tobytes()).hexdigest()[:16]
    return found


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
