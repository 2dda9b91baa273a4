"""Whose reward is exported, out of a reward model and a command line."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from palign.pipelines.arguments.export import ExportArguments

if TYPE_CHECKING:
    from palign.models.pal import PALRewardModel

__all__ = ["weights_asked_for"]


def weights_asked_for(model: "PALRewardModel", script: ExportArguments) -> tuple[Tensor, Tensor | None]:
    """Weights (n_prototypes,) and, of a person who has one, their deviation (personal_dim,).

    Raises:
        ValueError: no such person or prototype, or weights that are none.
    """
    if script.annotator is not None:
        weights = model.weights_for([script.annotator], unknown="error")[0]
        deviation = model.deviations_for([script.annotator])
        return weights.cpu(), None if deviation is None else deviation[0].cpu()
    if script.prototype is not None:
        if not 0 <= script.prototype < model.n_prototypes:
            raise ValueError(
                f"--prototype is {script.prototype}; this model has prototypes 0 to {model.n_prototypes - 1}."
            )
        return torch.eye(model.n_prototypes)[script.prototype], None
    if script.population:
        return model.people.mean.detach().cpu(), None
    return torch.tensor(_numbers(script.weights or "", model.n_prototypes)), None


def _numbers(text: str, n: int) -> Sequence[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != n:
        raise ValueError(f"--weights is {text!r}; this model has {n} prototypes: give {n} numbers, such as .2,.8.")
    return numbers
