"""Preferences as tensors: what the heads are trained on and people are fitted with."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from palign.data.preferences import Preferences

__all__ = ["RowTensors"]


@dataclass(frozen=True)
class RowTensors:
    """Rows over a table of vectors.

    Attributes:
        item_states: (n_vectors, hidden) float32, may be a memory map.
        prompt_states: (n_prompt_vectors, hidden) or None.
        item_indices: (rows, max_items) int64 into `item_states`; 0 at padding.
        ranks: (rows, max_items) int64, −1 is padding.
        prompt_indices: (rows,) int64 into `prompt_states`.
        annotator_index: (rows,) int64, −1 is nobody known.
    """

    item_states: Tensor
    prompt_states: Tensor | None
    item_indices: Tensor
    ranks: Tensor
    prompt_indices: Tensor
    annotator_index: Tensor

    @classmethod
    def of(
        cls,
        prefs: Preferences,
        annotator_index: np.ndarray,
        item_states: np.ndarray,
        prompt_states: np.ndarray | None = None,
    ) -> "RowTensors":
        """Check the indices against the vectors and wrap everything.

        Raises:
            ValueError: an index beyond the vectors, or NaN among the vectors that rows name.
        """
        _check_range(prefs.item_indices, len(item_states), "item")
        if prompt_states is not None:
            _check_range(prefs.prompt_indices, len(prompt_states), "prompt")
            if len(prefs) and prefs.prompt_indices.min() < 0:
                row = int(np.flatnonzero(prefs.prompt_indices < 0)[0])
                raise ValueError(
                    f"Row {row} (counting from 0) names no prompt, and the `prompt` variant needs one in every row. "
                    "Give prompt_index, or build the model with variant='fixed'."
                )
        return cls(
            _as_tensor(item_states),
            None if prompt_states is None else _as_tensor(prompt_states),
            torch.from_numpy(np.maximum(prefs.item_indices, 0)),
            torch.from_numpy(prefs.ranks.astype(np.int64)),
            torch.from_numpy(prefs.prompt_indices.astype(np.int64)),
            torch.from_numpy(np.asarray(annotator_index, dtype=np.int64)),
        )

    def __len__(self) -> int:
        return len(self.annotator_index)

    def select(self, rows: Tensor) -> "RowTensors":
        """Some rows over the same vectors."""
        return replace(
            self,
            item_indices=self.item_indices[rows],
            ranks=self.ranks[rows],
            prompt_indices=self.prompt_indices[rows],
            annotator_index=self.annotator_index[rows],
        )

    def states(self, rows: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """Items (rows, max_items, hidden) and prompts (rows, hidden) or None, as float32."""
        indices = self.item_indices[rows]
        items = self.item_states.index_select(0, indices.reshape(-1)).float().view(*indices.shape, -1)
        if self.prompt_states is None:
            return items, None
        return items, self.prompt_states.index_select(0, self.prompt_indices[rows]).float()


def _as_tensor(vectors: np.ndarray) -> Tensor:
    """Half precision stays as it is on disk where it is memory-mapped; small tables become float32."""
    vectors = np.asarray(vectors) if vectors.flags.writeable else vectors
    if vectors.nbytes < 2**30:
        return torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32).copy())
    return torch.from_numpy(np.asarray(vectors))


def _check_range(indices: np.ndarray, n_vectors: int, what: str) -> None:
    if len(indices) and indices.max() >= n_vectors:
        row = int(np.argwhere(indices >= n_vectors)[0][0])
        raise ValueError(
            f"Row {row} (counting from 0) names {what} vector {int(indices[row].max())}, and the embeddings have "
            f"{n_vectors} rows (0 to {n_vectors - 1}). Check that the rows and the embedding file belong together."
        )
