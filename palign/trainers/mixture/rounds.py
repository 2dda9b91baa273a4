"""Rounds of EM within one run of `transformers.Trainer`, and the end of one that has run away."""

import hashlib
from typing import Any, Protocol

from accelerate import Accelerator
from torch import Tensor, isfinite
from transformers import TrainerCallback, TrainerControl

from palign.data.vote_counts import written_count
from palign.trainers.mixture.start import LinearStart
from palign.trainers.mixture_dpo_config import MixtureDPOConfig, TypesFrom

__all__ = ["DivergenceError", "RoundCallback", "decides_rounds", "refuse_divergence"]


def decides_rounds(args: MixtureDPOConfig, start: LinearStart) -> dict[str, Any]:
    """What a run of EM depends on beside rows and options, by name: its length, since the rounds share out the steps,
    so that a longer run would have ended its rounds elsewhere; and who is of which type, where that is given.
    """
    decisions = {"n_types": written_count(args.n_types)}  # as run.json has always had it
    if args.types_from == TypesFrom.EM and start.n_types > 1:
        decisions["length"] = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs} epochs"
    if args.types_from == TypesFrom.GIVEN:
        decisions["responsibilities"] = hashlib.sha256(start.responsibilities.double().numpy().tobytes()).hexdigest()[
            :16
        ]
    return decisions


class HasRounds(Protocol):
    """What begins and ends rounds."""

    def begin(self) -> None: ...

    def end_step(self) -> bool: ...


class RoundCallback(TrainerCallback):
    """Rounds begin and end with the trainer's steps, so that its checkpoints and its schedule know of them."""

    def __init__(self, trainer: HasRounds):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.begin()

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        should_log = control.should_log
        if self.trainer.end_step():
            control.should_save = True
        control.should_log = should_log  # logging the round would count as the step's log


class DivergenceError(RuntimeError):
    """The loss of one type is not finite."""


def refuse_divergence(logps: Tensor, accelerator: Accelerator, step: int) -> None:
    """DivergenceError on all processes where one of them finds a value that is not finite.

    Args:
        logps: (n_sequences, n_types) of this process; a type without rows in the batch shows in its filler.
        accelerator: of the trainer.
        step: under way, for the message.
    """
    bad = (~isfinite(logps)).any(0).int()
    if accelerator.num_processes > 1:
        bad = accelerator.reduce(bad, reduction="sum")
    if bool(bad.any()):
        types = ", ".join(f"type_{k}" for k in bad.nonzero().flatten().tolist())
        raise DivergenceError(f"The loss of {types} is not finite at step {step}.")
