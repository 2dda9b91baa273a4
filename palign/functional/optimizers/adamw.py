"""AdamW by torch's own function: the steps of `torch.optim.AdamW(fused=True)`, to the bit.

To make an object of a class of `torch.optim`, or to take a step with `AdamW`, torch imports its compiler
(`torch._dynamo`), which takes more processor time than the fit of a head on some hundred rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["AdamW", "ParameterGroup"]


@dataclass
class ParameterGroup:
    """Parameters of any shapes that share a learning rate, and what is kept of their gradients.

    Attributes:
        learning_rate: of the next step.
        weight_decay: decoupled.
        moments: running means of gradients and of their squares, one of each for every parameter that had a gradient.
        steps: how many each of those has taken, a tensor () each.
    """

    parameters: Sequence[Tensor]
    learning_rate: float
    weight_decay: float = 0.0
    moments: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    steps: dict[int, Tensor] = field(default_factory=dict)


class AdamW:
    """Steps on parameters, each group at its `learning_rate`, which may be changed between steps.

    Args:
        groups: each parameter in one of them.
        betas, eps: as in `torch.optim.AdamW`.
    """

    def __init__(self, groups: Sequence[ParameterGroup], *, betas: tuple[float, float], eps: float = 1e-8):
        self.groups, self.betas, self.eps = list(groups), betas, eps

    def forget_gradients(self) -> None:
        """Before a backward pass: nothing is added to what is there."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step of every parameter that has a gradient."""
        for group in self.groups:
            numbers = [number for number, parameter in enumerate(group.parameters) if parameter.grad is not None]
            parameters = [group.parameters[number] for number in numbers]
            for number, parameter in zip(numbers, parameters, strict=True):
                if number not in group.moments:
                    group.moments[number] = (torch.zeros_like(parameter), torch.zeros_like(parameter))
                    group.steps[number] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            adamw(
                parameters, [parameter.grad for parameter in parameters],
                [group.moments[number][0] for number in numbers], [group.moments[number][1] for number in numbers],
                [], [group.steps[number] for number in numbers],
                fused=True, amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=group.learning_rate,
                weight_decay=group.weight_decay, eps=self.eps, maximize=False,
            )  # fmt: skip
