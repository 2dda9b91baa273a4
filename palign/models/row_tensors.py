"""Preferences as tensors: what the heads are trained on and people are fitted with."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from palign.data.preferences import Preferences
from palign.functional.evidence.components import evidence_of_rows, ties_as_pairs, votes_of_pairs
from palign.functional.evidence.rows import row_evidence

__all__ = ["RowTensors"]

MAX_COPY = 2**30  # bytes of a table of vectors that is copied to the device; a larger one is read where it lies
CHECKED_AT_ONCE = 2**24  # elements


@dataclass(frozen=True)
class RowTensors:
    """Rows over a table of vectors.

    Attributes:
        item_states: (n_vectors, hidden) float32, may be a memory map.
        prompt_states: (n_prompt_vectors, hidden) or None.
        item_indices: (rows, max_items) int64 into `item_states`; at padding that of the first item of the row.
        ranks: (rows, max_items) int64, −1 is padding.
        prompt_indices: (rows,) int64 into `prompt_states`.
        annotator_index: (rows,) int64, −1 is somebody unknown.
        evidence: (rows,) float32, what a row counts for beside the person's other rows
            (`palign.functional.evidence.components`); None where every row counts for one.
    """

    item_states: Tensor
    prompt_states: Tensor | None
    item_indices: Tensor
    ranks: Tensor
    prompt_indices: Tensor
    annotator_index: Tensor
    evidence: Tensor | None = None

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
            ValueError: an index beyond the vectors, a row without a prompt where prompts are needed, or NaN or
                infinity in a vector that a row names.
        """
        item_indices = prefs.filled_item_indices
        _check_indices(item_indices, item_states, "item")
        if prompt_states is not None:
            if len(prefs) and prefs.prompt_indices.min() < 0:
                row = int(np.flatnonzero(prefs.prompt_indices < 0)[0])
                raise ValueError(
                    f"Row {row} (counting from 0) names no prompt, and the `prompt` variant needs one in every row. "
                    "Give prompt_index, or build the model with variant='fixed'."
                )
            _check_indices(prefs.prompt_indices[:, None], prompt_states, "prompt")
        items, ranks = torch.from_numpy(item_indices.astype(np.int64)), torch.from_numpy(prefs.ranks.astype(np.int64))
        people = torch.from_numpy(np.asarray(annotator_index, dtype=np.int64))
        return cls(
            _as_tensor(item_states),
            None if prompt_states is None else _as_tensor(prompt_states),
            items,
            ranks,
            torch.from_numpy(prefs.prompt_indices.astype(np.int64)),
            people,
            evidence_or_none(items, ranks, people),
        )

    def __len__(self) -> int:
        return len(self.annotator_index)

    def to(self, device: torch.device) -> "RowTensors":
        """Indices, and tables of vectors up to 1 GiB, on that device; `states` takes larger ones there by rows."""
        if torch.device(device) == self.annotator_index.device:
            return self
        tables = (self.item_states, self.prompt_states)
        moved = [t if t is None or t.nbytes > MAX_COPY else t.to(device) for t in tables]
        names = ("item_indices", "ranks", "prompt_indices", "annotator_index")
        evidence = None if self.evidence is None else self.evidence.to(device)
        return RowTensors(*moved, *(getattr(self, name).to(device) for name in names), evidence)

    def select(self, rows: Tensor) -> "RowTensors":
        """Some rows over the same vectors; each keeps its evidence."""
        return replace(
            self,
            evidence=None if self.evidence is None else self.evidence[rows],
            item_indices=self.item_indices[rows],
            ranks=self.ranks[rows],
            prompt_indices=self.prompt_indices[rows],
            annotator_index=self.annotator_index[rows],
        )

    def as_comparisons(self) -> "RowTensors":
        """The same with votes as pairs of a yes and a no, to fit on and to place by.

        Votes come as rows of ties (`ties_as_pairs`), or as some of their pairs (`votes_of_pairs`).
        """
        arrays = [t.cpu().numpy() for t in (self.item_indices, self.ranks, self.annotator_index, self.prompt_indices)]
        votes = None if self.evidence is None else votes_of_pairs(*arrays)  # without evidence no rows share an item
        parts = ties_as_pairs(*(arrays[:2] if votes is None else votes[1:]))
        if parts is None:
            return self
        rows, items, ranks, base = parts
        rows = rows if votes is None else votes[0][rows]
        device = self.annotator_index.device
        numbers = torch.from_numpy(rows).to(device)
        people = self.annotator_index[numbers]
        evidence = evidence_of_rows(items, ranks, people.cpu().numpy(), base)
        return replace(
            self,
            item_indices=torch.from_numpy(items).to(device),
            ranks=torch.from_numpy(ranks).to(device),
            prompt_indices=self.prompt_indices[numbers],
            annotator_index=people,
            evidence=torch.from_numpy(evidence).float().to(device),
        )

    def with_people(self, annotator_index: np.ndarray) -> "RowTensors":
        """The same rows under other numbers of people, (rows,) int64, counted anew beside one another."""
        people = torch.from_numpy(np.asarray(annotator_index, dtype=np.int64)).to(self.annotator_index.device)
        return replace(self, annotator_index=people, evidence=evidence_or_none(self.item_indices, self.ranks, people))

    def over(self, item_states: Tensor, item_indices: Tensor) -> "RowTensors":
        """The same rows over another table of vectors (n, any) and indices (rows, max_items) into it."""
        return replace(self, item_states=item_states, item_indices=item_indices)

    def with_rows(self, item_indices: Tensor, ranks: Tensor, rows: Tensor) -> "RowTensors":
        """Rows (n,) cut down to items (n, max_items) in ranks (n, max_items), counted anew beside one another."""
        people = self.annotator_index[rows]
        evidence = evidence_or_none(item_indices, ranks, people)
        return replace(
            self,
            item_indices=item_indices,
            ranks=ranks,
            prompt_indices=self.prompt_indices[rows],
            annotator_index=people,
            evidence=evidence,
        )

    def states(self, rows: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        """Items (rows, max_items, hidden) and prompts (rows, hidden) or None, as float32, where the indices are."""
        indices = self.item_indices[rows]
        items = self._taken(self.item_states, indices.reshape(-1)).view(*indices.shape, self.item_states.shape[1])
        if self.prompt_states is None:
            return items, None
        return items, self._taken(self.prompt_states, self.prompt_indices[rows])

    def item_vectors(self, indices: Tensor) -> Tensor:
        """Rows (n,) of `item_states` as float32 (n, hidden), where the indices of the rows are."""
        return self._taken(self.item_states, indices)

    def prompt_vectors(self, indices: Tensor) -> Tensor:
        """The same of `prompt_states`."""
        return self._taken(self.prompt_states, indices)

    def _taken(self, table: Tensor, indices: Tensor) -> Tensor:
        return table.index_select(0, indices.to(table.device)).to(self.annotator_index.device).float()


def evidence_or_none(item_indices: Tensor, ranks: Tensor, annotator_index: Tensor) -> Tensor | None:
    """`row_evidence` as float32, or None where every row counts for one."""
    evidence = row_evidence(item_indices, ranks, annotator_index)
    return None if bool((evidence == 1).all()) else evidence.float()


def _as_tensor(vectors: np.ndarray) -> Tensor:
    """Half precision stays as it is on disk where it is memory-mapped; small tables become float32."""
    if vectors.nbytes < MAX_COPY:
        return torch.from_numpy(np.array(vectors, dtype=np.float32, order="C"))
    return torch.from_numpy(np.asarray(vectors))


def _check_indices(indices: np.ndarray, vectors: np.ndarray, what: str) -> None:
    """Indices (rows, n) lie within the vectors, and the vectors they name are finite."""
    if indices.size == 0:
        return
    n_vectors = len(vectors)
    if indices.max() >= n_vectors:
        row = int(np.argwhere(indices >= n_vectors)[0][0])
        raise ValueError(
            f"Row {row} (counting from 0) names {what} vector {int(indices[row].max())}, and the embeddings have "
            f"{n_vectors} rows (0 to {n_vectors - 1}). Check that the rows and the embedding file belong together."
        )
    named = np.unique(indices)
    at_once = max(1, CHECKED_AT_ONCE // vectors.shape[1])
    for start in range(0, len(named), at_once):
        part = named[start : start + at_once]
        bad = part[~np.isfinite(vectors[part]).all(axis=1)]
        if len(bad):
            row = int(np.argwhere((indices == bad[0]).any(axis=1))[0][0])
            raise ValueError(
                f"Row {row} (counting from 0) names {what} vector {int(bad[0])}, which holds NaN or infinity; so do "
                f"{len(bad)} or more vectors that rows name. Mend the embedding file, or drop the rows."
            )
