"""A training that has run away, told by every process at the same step."""

from accelerate import Accelerator
from torch import Tensor, isfinite

__all__ = ["DivergenceError", "refuse_divergence"]


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
