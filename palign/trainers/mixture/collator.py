"""Rows of judgements → one padded batch of their completions, each once."""

import numpy as np
import torch
from torch import Tensor

from palign.data.preferences import Preferences
from palign.models.completions import TokenizedItems

__all__ = ["MixtureCollator"]


class MixtureCollator:
    """Row numbers → tensors.

    Keys: `input_ids`, `attention_mask`, `completion_mask` (n_sequences, seq_len); `items` (n_sequences,) numbers into
    `rows.items`; `slots` (rows, max_items) into the sequences, the row's first at padding; `ranks` (rows, max_items),
    −1 at padding; `rows` (rows,) row numbers.
    """

    def __init__(self, rows: Preferences, items: TokenizedItems):
        self.rows, self.items = rows, items

    def __call__(self, numbers: list[int]) -> dict[str, Tensor]:
        indices = self.rows.item_indices[numbers]
        indices = indices[:, : int((indices >= 0).sum(1).max())]
        unique, slots = np.unique(np.where(indices < 0, indices[:, :1], indices), return_inverse=True)
        return self.items.collate(unique) | {
            "items": torch.from_numpy(unique),
            "slots": torch.from_numpy(slots.reshape(indices.shape)),
            "ranks": torch.from_numpy(self.rows.ranks[numbers][:, : indices.shape[1]].astype(np.int64)),
            "rows": torch.as_tensor(numbers, dtype=torch.int64),
        }
