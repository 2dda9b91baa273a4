"""Regression on Σ_k w_k h_k: rows and loss of the route `regress`.

(h_θ − Σ_k w_k h_k)², about the mean of completions of one prompt: all their pair margins at once.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from palign.models.completions import TokenizedItems
from palign.trainers.fair.route_trainer import GroupedRows

__all__ = ["RegressRows", "regress_loss"]


class RegressRows(GroupedRows):
    """Completions of one prompt, whoever said them, and how much more the weighted types want one than another.

    Args:
        items: completions of P policies, policy by policy and prompt by prompt.
        targets: (n_items,) Σ_k w_k h_k, nats.
        reference_logps: (n_items,).
        n_policies: P.
        n_samples: completions of each policy to a prompt.
    """

    def __init__(
        self, items: TokenizedItems, targets: np.ndarray, reference_logps: np.ndarray, *, n_policies: int,
        n_samples: int, group_size: int, seed: int,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        by_prompt = np.arange(len(items)).reshape(n_policies, -1, n_samples).swapaxes(0, 1)
        by_prompt = rng.permuted(by_prompt.reshape(len(by_prompt), -1), axis=1)
        size = min(group_size, by_prompt.shape[1])
        whole = by_prompt[:, : by_prompt.shape[1] // size * size]
        super().__init__(items, whole.reshape(-1, size))
        self.targets = torch.from_numpy(targets.astype(np.float32))
        self.reference_logps = torch.from_numpy(reference_logps.astype(np.float32))

    def losses(self, logps: Tensor, inputs: dict[str, Tensor], summed: Callable[[Tensor], Tensor]) -> Tensor:
        """(rows,) squares of the group, see `regress_loss`."""
        numbers = inputs["items"].cpu()
        reference, targets = (t[numbers].to(logps.device) for t in (self.reference_logps, self.targets))
        size = self.groups.shape[1]
        return regress_loss((logps - reference).view(-1, size), targets.view(-1, size))


def regress_loss(log_ratios: Tensor, targets: Tensor) -> Tensor:
    """Mean over pairs of a group of half the squared error of their margin: (rows, group_size) both → (rows,), nats².

    Squares over all pairs are squares about the mean: Σ_{a<b} (e_a − e_b)² = n Σ_a (e_a − ē)².
    """
    errors = log_ratios - targets
    return (errors - errors.mean(-1, keepdim=True)).square().sum(-1) / (errors.shape[-1] - 1)
