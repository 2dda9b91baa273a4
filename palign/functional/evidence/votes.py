"""Who said what: judgements as the mathematics takes them, one thing in place of four that travel together."""

from dataclasses import dataclass

from torch import Tensor

from palign.functional.evidence.rows import row_evidence

__all__ = ["Votes"]


@dataclass(frozen=True, eq=False)
class Votes:
    """Rankings of items, a row each, and whose they are.

    Attributes:
        item_indices: (rows, max_items) int64 into a table of features; any valid index at padding.
        ranks: (rows, max_items) integers, 0 is best, equal ranks tie, −1 is padding.
        annotator_index: (rows,) int64 in [0, n_annotators).
        n_annotators: how many people there are, also those without a row.

    Raises:
        ValueError: shapes that do not fit; an annotator out of range.
    """

    item_indices: Tensor
    ranks: Tensor
    annotator_index: Tensor
    n_annotators: int

    def __post_init__(self) -> None:
        items, ranks, people = self.item_indices, self.ranks, self.annotator_index
        if items.shape != ranks.shape or people.shape != ranks.shape[:1] or ranks.ndim != 2:
            raise ValueError(
                f"item_indices {tuple(items.shape)}, ranks {tuple(ranks.shape)} and annotator_index "
                f"{tuple(people.shape)} do not fit; they are (rows, max_items) twice and (rows,)."
            )
        if len(people) and not (0 <= int(people.min()) and int(people.max()) < self.n_annotators):
            raise ValueError(
                f"annotator_index runs from {int(people.min())} to {int(people.max())}; it must lie in "
                f"0…{self.n_annotators - 1}, one number for each annotator."
            )

    def __len__(self) -> int:
        return len(self.ranks)

    def of_rows(self, rows: Tensor) -> "Votes":
        """Some rows, (rows,) bool or their numbers; the people and their numbers stay."""
        return Votes(self.item_indices[rows], self.ranks[rows], self.annotator_index[rows], self.n_annotators)

    def said_by(self, annotator_index: Tensor, n_annotators: int | None = None) -> "Votes":
        """The same rows under other names: (rows,); as many people as before if `n_annotators` is None."""
        n_annotators = self.n_annotators if n_annotators is None else n_annotators
        return Votes(self.item_indices, self.ranks, annotator_index, n_annotators)

    def evidence(self) -> Tensor:
        """(rows,) float64: what each row counts for (`row_evidence`)."""
        return row_evidence(self.item_indices, self.ranks, self.annotator_index)
