"""Rows that a model was trained on are left out of what is reported of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from palign.data.preferences import Preferences
from palign.data.trained_rows import HELD_OUT, hash_judgements, read_trained_rows
from palign.evaluation.judging.kinds import ModelKind, ModelSource

__all__ = ["UnseenRows", "unseen_rows"]

KEEPS_HASHES = (ModelKind.PAL, ModelKind.METRIC, ModelKind.MIXTURE, ModelKind.FAIR_POLICY)


@dataclass(frozen=True)
class UnseenRows:
    """Rows to judge models by.

    Attributes:
        rows: what is judged.
        notes: sentences for the report.
        n_left_out: training rows that are not in `rows`; n_people_left_out: annotators who are not, therefore.
        has_training_rows: whether training rows are in them.
        is_known: whether every model keeps hashes of the rows it was trained on.
    """

    rows: Preferences
    notes: list[str]
    n_left_out: int
    has_training_rows: bool
    is_known: bool
    n_people_left_out: int = 0

    @property
    def judgements(self) -> str:
        """What the rows are called in the report's first sentence."""
        if self.has_training_rows:
            return "judgements, rows it was trained on among them,"
        return "held-out judgements" if self.is_known else "judgements"


def unseen_rows(sources: Sequence[ModelSource], rows: Preferences, *, on_training_rows: bool = False) -> UnseenRows:
    """Leave out every row that one of the models was trained on, by the hashes beside the models.

    Args:
        on_training_rows: keep them, and say so.

    Raises:
        ValueError: all rows are training rows; a file of hashes that is none.
    """
    row_hashes, seen, notes, is_known = hash_judgements(rows), np.zeros(len(rows), dtype=bool), [], bool(sources)
    for source in sources:
        hashes = read_trained_rows(source.path)
        if hashes is None:
            is_known = False
            if source.kind in KEEPS_HASHES:
                notes.append(
                    f"{source.name} keeps no hashes of its training rows: whether rows judged here are among them is "
                    "not known."
                )
            continue
        known = np.isin(row_hashes, hashes)
        seen |= known
        if known.any():
            notes.append(f"{int(known.sum()):,} of the {len(rows):,} rows are training rows of {source.name}.")
    if not seen.any():
        return UnseenRows(rows, notes, 0, False, is_known)
    if on_training_rows:
        first = f"{notes[0]} They are judged here, too: no figure below is one for new rows."
        return UnseenRows(rows, [first, *notes[1:]], 0, True, is_known)
    if seen.all():
        raise ValueError(
            f"All {len(rows):,} rows are rows that the models were trained on; a report on them would promise what "
            f"new rows would not keep. Give rows held out ({HELD_OUT} beside a model that dealt them itself), or say "
            "--on_training_rows, which marks the report."
        )
    left = int(seen.sum())
    notes.append(f"{left:,} rows that a model was trained on are left out.")
    kept = rows.select(~seen)
    n_people_left = len(rows.annotators()) - len(kept.annotators())
    if n_people_left:
        notes.append(f"{n_people_left:,} annotators have no other rows: they are in no number of this report.")
    return UnseenRows(kept, notes, left, False, is_known, n_people_left)
