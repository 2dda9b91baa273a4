"""What a check of the guard says, and the small statistics that every check goes by.

A check raises an alarm only on what is both certain and large: certain by an exact binomial test at `ALPHA`, divided
by the number of looks the check takes (Bonferroni), large by the check's threshold. In a hundred thousand rows a
share of .51 is certain and no reason to stop anybody; in thirty rows a share of .7 is large and may be chance.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from palign.data.preferences import Preferences
from palign.data.rows.checks import Text

__all__ = [
    "ALPHA",
    "N_SAMPLED",
    "Finding",
    "Pairs",
    "both_tails",
    "completion_texts",
    "plain_text",
    "row_hashes",
    "sample",
]

ALPHA = 0.002  # of one check; some ten checks are statistical
N_SHOWN = 5  # rows to look at
N_SAMPLED = 20_000  # rows whose texts are read by the statistical checks


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: of the check.
        verdict: "ok", "look" (may be an artefact; here is where to look) or "stop" (a figure got from these rows
            would mean nothing).
        value: the number it went by.
        message: a sentence.
        rows: rows to look at, numbers from 0 within `split` (rows whose ratings all tie are dropped and not counted).
        split: the split that `rows` stand in.
    """

    name: str
    verdict: str
    value: float
    message: str
    rows: tuple[int, ...] = ()
    split: str = ""

    @classmethod
    def of(
        cls, name: str, verdict: str, value: float, message: str, rows: Iterable[int] = (), split: str = ""
    ) -> "Finding":
        """A finding that shows the first few of `rows`."""
        shown = [] if verdict == "ok" else list(rows)[:N_SHOWN]
        return cls(name, verdict, float(value), message, tuple(int(row) for row in shown), split)


@dataclass(frozen=True)
class Pairs:
    """Each row as its best item against its worst.

    Attributes:
        rows: (n,) int64, which rows of the preferences they are.
        people: (n,) int64, numbers of the annotators.
        best, worst: (n,) int64, items, or rows of the embeddings.
        prompts: (n,) int64, −1 is none.
        n_people: annotators of all the rows.
    """

    rows: np.ndarray
    people: np.ndarray
    best: np.ndarray
    worst: np.ndarray
    prompts: np.ndarray
    n_people: int

    @classmethod
    def of(cls, prefs: Preferences, rows: np.ndarray | None = None) -> "Pairs":
        """The pairs of all rows, or of some."""
        rows = np.arange(len(prefs)) if rows is None else rows
        last = prefs.n_items[rows] - 1
        people = prefs.annotators()
        return cls(
            rows=rows,
            people=people.indices(prefs.annotator_ids[rows]),
            best=prefs.item_indices[rows, 0],
            worst=prefs.item_indices[rows, last],
            prompts=prefs.prompt_indices[rows],
            n_people=len(people),
        )

    @classmethod
    def typical(cls, prefs: Preferences, *, seed: int = 0) -> "Pairs":
        """Each row as one of its ordered pairs, drawn at random; `best` is the better one of that pair."""
        rng, every = np.random.default_rng(seed), np.arange(len(prefs))
        n_best = (prefs.ranks == 0).sum(axis=1)
        loser = n_best + (rng.random(len(prefs)) * (prefs.n_items - n_best)).astype(np.int64)
        lost = prefs.ranks[every, loser]
        n_better = ((prefs.ranks >= 0) & (prefs.ranks < lost[:, None])).sum(axis=1)
        winner = (rng.random(len(prefs)) * n_better).astype(np.int64)
        items = prefs.item_indices
        return replace(cls.of(prefs), best=items[every, winner], worst=items[every, loser])

    def __len__(self) -> int:
        return len(self.rows)


def sample(n_rows: int, *, n_most: int = N_SAMPLED, seed: int = 0) -> np.ndarray:
    """Positions (min(n_rows, n_most),) int64 in order, drawn without replacement."""
    if n_rows <= n_most:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, size=n_most, replace=False))


def row_hashes(*columns: np.ndarray) -> np.ndarray:
    """(n,) uint64: one number for each row of whole numbers (n,) or (n, width); equal rows have equal ones, and of a
    million different rows two share one with probability 3e-8."""
    hashes = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        for part in column.T if column.ndim == 2 else (column,):
            hashes ^= part.astype(np.int64).view(np.uint64)
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the finaliser of splitmix64
                hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
            hashes = (hashes ^ (hashes >> np.uint64(31))) + np.uint64(0x9E3779B97F4A7C15)
    return hashes


def both_tails(k: int, n: int) -> float:
    """Two-sided p of k of n under a fair coin."""
    from scipy.special import betainc  # .4 s of processor time, which --help need not take

    most = max(k, n - k)
    return 1.0 if n == 0 else min(1.0, 2 * float(betainc(most, n - most + 1, 0.5)))


def plain_text(text: Text) -> str:
    """A text as it is; of messages, what they say."""
    return text if isinstance(text, str) else "\n".join(message["content"] for message in text)


def completion_texts(rows: Preferences) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Every completion of the rows as text (n,), the row (n,) and the place in it (n,) where it stands.

    Of vectors the text is their name, or "item" and the number of the vector.
    """
    row, place = (rows.item_indices >= 0).nonzero()
    numbers = rows.item_indices[row, place]
    return [plain_text(rows.item_text(i)) for i in numbers], row, place
