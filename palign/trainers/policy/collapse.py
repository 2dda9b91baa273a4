"""A guard against collapse: TRL has none, and a run that collapsed to empty completions does not come back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class CollapseGuard:
    """Watches the KL and the share of empty completions, and keeps the last weights that were within the limits.

    Args:
        max_kl: limit on the KL to the reference policy, nats per completion; None sets no limit.
        max_empty_fraction: limit on the share of empty completions.
        patience: updates in a row beyond a limit before `stop_reason` is set.

    Attributes:
        good_weights: what `restore` goes back to.
        latest_weights: handed over last, not known to be good yet.
    """

    max_kl: float | None
    max_empty_fraction: float
    patience: int
    n_beyond: int = 0
    stop_reason: str | None = None
    good_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    latest_weights: dict[str, torch.Tensor] = field(default_factory=dict)

    def watch(self, step: int, kl: float, empty_fraction: float) -> str | None:
        """Judge one update; returns a warning, or None within the limits. A KL that is not a number is beyond."""
        reasons = []
        if self.max_kl is not None and not kl <= self.max_kl:
            reasons.append(f"objective/kl is {kl:.1f} nats, above max_kl={self.max_kl}")
        if empty_fraction > self.max_empty_fraction:
            limit = f"max_empty_fraction={self.max_empty_fraction}"
            reasons.append(f"{empty_fraction:.0%} of the completions are empty, above {limit}")
        if not reasons:
            self.n_beyond = 0
            return None
        self.n_beyond += 1
        reason = f"update {step}: {' and '.join(reasons)}"
        if self.n_beyond >= self.patience:
            self.stop_reason = reason
            remedy = "Lower learning_rate or the passes over a batch, or raise the coefficient of the KL"
            return f"training stops: {reason}. {remedy} (kl_coef, beta)."
        return f"{reason} ({self.n_beyond} of {self.patience} updates in a row before training stops)."

    def keep(self, parameters: Mapping[str, nn.Parameter], *, are_good: bool = False) -> None:
        """Remember weights within the limits.

        Args:
            parameters: after an update; what was measured in it are the completions of the weights *before* its
                optimizer steps, so those known to be good are the ones handed over the time before.
            are_good: it is these weights that were measured.
        """
        held = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self.good_weights, self.latest_weights = (held, {}) if are_good else (self.latest_weights, held)

    def restore(self, parameters: Mapping[str, nn.Parameter]) -> bool:
        """Copy the good weights back into `parameters`; False if there are none."""
        with torch.no_grad():
            for name, value in self.good_weights.items():
                parameters[name].copy_(value)
        return bool(self.good_weights)
