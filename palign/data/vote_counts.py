"""Are there enough votes to tell types apart? A look at how much each person judged, before anything is trained.

Types show in what one person says again and again. One binary vote a person says nothing about types, whatever
the number of people: θ and −θ in equal shares give the same votes as no taste at all (Chidambaram et al., arXiv
2510.15716). A winner out of three, or a full ranking, says more each time.
"""

from dataclasses import dataclass

import numpy as np

from palign.data.preferences import Preferences

__all__ = ["AUTO", "VoteCounts", "count_or_auto", "count_votes", "written_count"]

# accuracy of the likeliest type with three generic types of people, d = 6, n = 300: 5 and 10 votes a person
EXPECTED = {"binary": (0.77, 0.91), "best-of-M": (0.86, 0.96), "ranking": (0.93, 0.985)}
AUTO = "auto"  # of a number of types or prototypes: choose it
LEAST_FOR_AUTO = 8  # people of two rows or more
ENOUGH = {"binary": 8, "best-of-M": 5, "ranking": 3}


@dataclass(frozen=True)
class VoteCounts:
    """How much each person judged, and what that is enough for.

    Attributes:
        kind: the most telling form that at least half of the rows have: 'binary', 'best-of-M' or 'ranking'.
        n_annotators: people.
        median: votes of the median person.
        largest_share: rows of the busiest person, as a share of all.
        warnings: sentences.
    """

    kind: str
    n_annotators: int
    median: float
    largest_share: float
    warnings: tuple[str, ...]


def count_or_auto(given: int | str | None, name: str = "n_types") -> int | None:
    """A number of types or prototypes as an option gives it: from 1 on, or None for 'auto', which is to choose it.

    Args:
        given: 3, '3', 'auto' or None.
        name: of the option, for the message.

    Raises:
        ValueError: anything else.
    """
    if given is None or given == AUTO:
        return None
    written = str(given)
    if isinstance(given, bool) or not (written.isascii() and written.isdigit() and int(written) >= 1):
        raise ValueError(f"{name} is {given!r}; it must be a whole number from 1 on, or 'auto'.")
    return int(written)


def written_count(count: int | None) -> str:
    """The other way round, as files keep it: '3' or 'auto'."""
    return AUTO if count is None else str(count)


def count_votes(rows: Preferences, n_types: int | None) -> VoteCounts:
    """Refuse what cannot show types; warn of what shows them poorly.

    Args:
        rows: everybody's judgements.
        n_types: K asked for; None: it is to be chosen.

    Raises:
        ValueError: no rows; more types than annotators; K above 1 with one annotator, or with binary votes of which
            the median annotator gave fewer than two; None with fewer than eight annotators of two rows.
    """
    if len(rows) == 0:
        raise ValueError("There are no rows to train on.")
    people = rows.annotators()
    counts = np.bincount(people.indices(rows.annotator_ids), minlength=len(people))
    kind, median = _kind(rows), float(np.median(counts))
    several = n_types is None or n_types > 1
    if several and len(people) == 1:
        raise ValueError(
            f"All {len(rows):,} rows come from one annotator ({people.ids[0]!r}); types are differences between "
            "people. Give rows of several people (--annotator_column names the column), or n_types=1, which is plain "
            "DPO."
        )
    if n_types is not None and n_types > len(people):
        raise ValueError(
            f"n_types is {n_types}, and the rows come from {len(people)} annotators; there cannot be more types than "
            f"people. Take at most {len(people)}, or 'auto'."
        )
    if several and kind == "binary" and median < 2:
        raise ValueError(
            f"The median annotator gave {median:g} binary vote; types cannot be told from single binary votes, "
            "however many people give one (two opposed tastes look like none). Collect two votes or more from each "
            "person, or best-of-three choices or rankings, or take n_types=1."
        )
    n_eligible = int((counts >= 2).sum())
    if n_types is None and n_eligible < LEAST_FOR_AUTO:
        raise ValueError(
            f"n_types is 'auto', and only {n_eligible} annotators have two rows or more; K is chosen on people held "
            f"out of the fit, and {LEAST_FOR_AUTO} are needed for that. Give a number, as --n_types 2."
        )
    return VoteCounts(kind, len(people), median, float(counts.max() / counts.sum()), _warnings(kind, counts, several))


def _kind(rows: Preferences) -> str:
    """By the number of stages of the median row: winners that beat something."""
    present = rows.ranks >= 0
    worst = np.where(present, rows.ranks, -1).max(1)
    n_stages = ((rows.ranks < worst[:, None]) & present).sum(1)
    if np.median(rows.n_items) <= 2:
        return "binary"
    return "best-of-M" if np.median(n_stages) <= 1 else "ranking"


def _warnings(kind: str, counts: np.ndarray, several: bool) -> tuple[str, ...]:
    sentences, median = [], float(np.median(counts))
    if several and median < ENOUGH[kind]:
        five, ten = EXPECTED[kind]
        sentences.append(
            f"The median annotator gave {median:g} {kind} votes, fewer than {ENOUGH[kind]}: many people's type will "
            f"stay unsure. With three distinct types, about {five:.0%} of people are placed right by five such votes, "
            f"{ten:.1%} by ten."
        )
    if counts.max() > 0.5 * counts.sum() and len(counts) > 1:
        sentences.append(
            f"One annotator gave {counts.max():,} of the {counts.sum():,} rows. A person counts once in the mixing "
            "weights, but their type's policy is trained mostly on them."
        )
    return tuple(sentences)
