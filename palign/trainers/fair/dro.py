"""Group DRO on votes: rows and loss of the route `dro`.

−log p_θ(ranking), rows weighted by q_k; q grows where L_k(θ) − L_k(φ_k) is large.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import Dataset

from palign.functional.losses import plackett_luce
from palign.functional.mixture import row_weights
from palign.functional.regret_hedge import exponentiated_gradient
from palign.trainers.mixture.collator import MixtureCollator

__all__ = ["DroRows"]


@dataclass(eq=False)
class DroRows(Dataset):
    """Rankings under weights of types that grow where a type is served worse than by its own adapter.

    Attributes:
        collator: of the votes.
        reference_logps: (n_items,).
        responsibilities: (rows, n_types) of the annotator of the row.
        own_losses: (rows, n_types) −log p of the row under each type's own adapter.
        beta: DPO's.
        step: of the weights, per nat.
        type_weights: (n_types,) q, as it stands.
        importance: (n_types,) multiplies what q is moved by; None is 1.
        has_offset: subtract own losses; without it a noisy type takes all the weight.
    """

    collator: MixtureCollator
    reference_logps: Tensor
    responsibilities: Tensor
    own_losses: Tensor
    beta: float
    step: float
    type_weights: Tensor
    importance: Tensor | None = None
    has_offset: bool = True
    history: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        index = torch.arange(len(self.responsibilities))
        self._row_weights = row_weights(self.responsibilities.double(), index)

    def __len__(self) -> int:
        return len(self.responsibilities)

    def __getitem__(self, number: int) -> int:
        return int(number)

    def collate(self, numbers: list[int]) -> dict[str, Tensor]:
        """As `MixtureCollator`."""
        return self.collator(numbers)

    def losses(self, logps: Tensor, inputs: dict[str, Tensor], summed: Callable[[Tensor], Tensor]) -> Tensor:
        """(rows,) Σ_k q_k γ_k / mean γ_k · loss; q is moved by the batch's losses first (Sagawa et al. 2020)."""
        rows = inputs["rows"].cpu()
        rewards = self.beta * (logps - self.reference_logps[inputs["items"].cpu()].to(logps.device))
        losses = plackett_luce(rewards[inputs["slots"]], inputs["ranks"])
        weights = self._row_weights[rows].to(logps.device)
        excess = losses.detach().double()[:, None]
        if self.has_offset:
            excess = excess - self.own_losses[rows].to(logps.device)
        sums = summed(torch.stack([(weights * excess).sum(0), weights.sum(0)]))
        gaps = (sums[0] / sums[1].clamp_min(1e-9)).where(sums[1] > 0, 0.0).cpu()
        gaps = gaps if self.importance is None else gaps * self.importance
        self.type_weights = exponentiated_gradient(self.type_weights, gaps, step_size=self.step)
        self.history.append(self.type_weights.tolist())
        return (weights @ self.type_weights.to(weights)).to(losses.dtype) * losses
