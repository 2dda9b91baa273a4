"""Was the file read as it was meant: does a column name winners that nobody used, do the vectors differ at all?"""

import numpy as np

from palign.data.guards.finding import Finding
from palign.data.preferences import Preferences
from palign.data.rows.suggestions import winner_columns
from palign.data.rows.winners import TIE, side_of_word

__all__ = ["check_vectors", "check_winners_used"]

N_VECTORS = 20_000
LARGEST_SHARE = 1 - 1e-6  # of all variance, in a single vector


def check_winners_used(prefs: Preferences, *, position: str | None = None, split: str = "") -> Finding:
    """A further column that names the better of two answers: then chosen and rejected are not told by their columns.

    Where the columns are called `chosen` and `rejected`, the rows' author has sorted the two, and such a column may
    tell where the chosen one stood; but not where it also holds ties.

    Args:
        position: a column that says where the chosen one stood, by the user's word.
    """
    unused = [name for name in winner_columns(list(prefs.columns), prefs.columns.__getitem__) if name != position]
    if _is_declared(prefs):
        unused = [name for name in unused if any(_is_tie(value) for value in set(map(str, prefs.columns[name])))]
    if not unused:
        return Finding.of("winners_used", "ok", 0.0, "no column names winners that were not used.")
    name = unused[0]
    values = sorted({str(value) for value in prefs.columns[name] if value is not None})[:4]
    return Finding.of(
        "winners_used",
        "stop",
        1.0,
        f"The column {name!r} ({', '.join(map(repr, values))}) looks as if it named the better of two answers, and it "
        "is not used: if it says who won, read the rows with --first_column, --second_column and --winner_column "
        f"{name}; if it says where the chosen one stood, call it 'position'; else leave it out.",
        range(len(prefs)),
        split,
    )


def _is_declared(prefs: Preferences) -> bool:
    """Whether the pairs stood in columns called chosen and rejected."""
    columns = (
        [] if prefs.reading is None else [column for what, column, _ in prefs.reading.columns if what == "better"]
    )
    return columns in ([], ["chosen"], ["chosen_index"])


def _is_tie(value: str) -> bool:
    return side_of_word(value) == TIE


def check_vectors(embeddings: np.ndarray) -> Finding:
    """Do the vectors differ? All zero, all alike, or one that dwarfs the others leave nothing to learn from.

    Args:
        embeddings: (n_embeddings, hidden).
    """
    n = len(embeddings)
    rows = np.arange(n) if n <= N_VECTORS else np.random.default_rng(0).choice(n, N_VECTORS, replace=False)
    vectors = np.asarray(embeddings[np.sort(rows)], dtype=np.float64)
    scale = float(np.abs(vectors).max())
    if scale == 0:
        return Finding.of("vectors", "stop", 0.0, f"all {n:,} vectors are zero: every score would be the same.")
    vectors = vectors / scale  # squares of 1e200 overflow
    spread = ((vectors - np.median(vectors, axis=0)) ** 2).sum(axis=1)
    if n > 1 and float(spread.max()) <= 1e-24:
        return Finding.of("vectors", "stop", 0.0, f"all {n:,} vectors are alike: every score would be the same.")
    share = float(spread.max() / spread.sum())
    if n > 2 and share > LARGEST_SHARE:
        worst = int(np.sort(rows)[spread.argmax()])
        return Finding.of(
            "vectors",
            "stop",
            share,
            f"vector {worst} (counting from 0) holds more than {LARGEST_SHARE:.4%} of all variance (its largest entry "
            f"is {np.abs(embeddings[worst]).max():.3g}): beside it the others are one and the same. Mend or leave it "
            "out.",
        )
    return Finding.of("vectors", "ok", share, f"the {n:,} vectors differ.")
