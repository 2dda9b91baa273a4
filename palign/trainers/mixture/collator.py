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
        own = self.rows.item_indices[numbers]
        own = own[:, : int((own >= 0).sum(1).max())]
        unique, slots = np.unique(np.where(own < 0, own[:, :1], own), return_inverse=True)
        return self.items.collate(unique) | {
            "items": torch.from_numpy(unique),
            "slots": torch.from_numpy(slots.reshape(own.shape)),
            "ranks": torch.from_numpy(self.rows.ranks[numbers][:, : own.shape[1]].astype(np.int64)),
            "rows": torch.as_tensor(numbers, dtype=torch.int64),
        }
