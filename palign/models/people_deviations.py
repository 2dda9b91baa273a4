"""Everybody's deviation from the reward of their mixture, as a module: a row of numbers for each person."""

import torch
from torch import Tensor, nn

from palign.functional.people_deviations import fit_deviations

__all__ = ["PersonalDeviations"]


class PersonalDeviations(nn.Module):
    """(x − centre) · basis · δ_i is added to the reward of person i; nothing for whoever is not known.

    Args:
        n_annotators: rows.
        hidden_size: width of the pooled states.
        width: of δ.
        ridge: precision of the prior around zero, for people fitted later.
    """

    def __init__(self, n_annotators: int, hidden_size: int, width: int, *, ridge: float):
        super().__init__()
        self.ridge = ridge
        self.register_buffer("center", torch.zeros(hidden_size))
        self.register_buffer("basis", torch.zeros(hidden_size, width))
        table = nn.Embedding(n_annotators, width)
        nn.init.zeros_(table.weight)
        self.own = table.requires_grad_(False)  # the name is a key of saved files

    def of(self, annotator_index: Tensor) -> Tensor:
        """δ (batch, width) of people (batch,); zero for −1, somebody unknown."""
        table = self.own.weight
        rows = table[annotator_index.clamp_min(0)] if len(table) else table.sum(0)[None]
        return rows.masked_fill((annotator_index < 0)[:, None], 0.0)

    def features(self, states: Tensor) -> Tensor:
        """(..., hidden) → (..., width)."""
        return (states - self.center) @ self.basis

    def rewards(self, states: Tensor, deviations: Tensor) -> Tensor:
        """States (batch, [n_items,] hidden), δ (batch, width) → (batch, [n_items])."""
        features = self.features(states)
        return (features * (deviations if features.dim() == 2 else deviations[:, None])).sum(-1)

    def fit(
        self,
        item_states: Tensor,
        item_indices: Tensor,
        ranks: Tensor,
        annotator_index: Tensor,
        offsets: Tensor,
        n_people: int,
        row_weights: Tensor | None = None,
    ) -> Tensor:
        """δ (n_people, width) from rows, as `palign.functional.people_deviations.fit_deviations` has them."""
        used, inverse = torch.unique(item_indices, return_inverse=True)
        features = self.features(item_states[used.to(item_states.device)].to(self.basis))
        return fit_deviations(
            features, inverse, ranks, annotator_index, offsets, n_people, ridge=self.ridge, row_weights=row_weights
        )

    @torch.no_grad()
    def append(self, deviations: Tensor) -> None:
        """Add people with δ (n, width); every earlier row keeps its bits."""
        table = self.own.weight
        rows = torch.cat([table, deviations.to(table)])
        self.own = nn.Embedding.from_pretrained(rows, freeze=True)
