"""Do the people of a preference set say something of their own: no copies, no coin flips, no clicking through?"""

import numpy as np

from palign.data.guard_finding import ALPHA, Finding, Pairs, both_tails, plain_text
from palign.data.preferences import Preferences
from palign.data.vote_counts import count_votes

__all__ = [
    "check_constant",
    "check_contradictions",
    "check_duplicates",
    "check_position",
    "check_votes",
    "find_positions",
]

OPEN_SET = 0.5  # least share of slots with an item of their own, for a repetition to be no design
DUPLICATED, CONTRADICTED = 0.05, 0.02  # shares of rows
COIN_FLIPS = 0.45
POSITION_WINS, POSITION_RULES = 0.6, 0.98
N_CONSTANT = 8  # rows of one person
POSITION_NAMES = ("position", "chosen_position", "winner", "label", "preference", "choice", "chosen_side", "side")
FIRST, SECOND = ("0", "a", "left", "first", "model_a", "a1"), ("1", "b", "right", "second", "model_b", "a2")


def _repeats(prefs: Preferences) -> tuple[np.ndarray, np.ndarray, bool]:
    """Rows that repeat an earlier comparison of the same person, those of them that reverse it, and whether the
    completions are an open set."""
    pairs = Pairs.of(prefs)
    low, high = np.minimum(pairs.best, pairs.worst), np.maximum(pairs.best, pairs.worst)
    keys = np.stack([pairs.people, pairs.prompts, low, high, prefs.n_items], axis=1)
    middle = prefs.item_indices[:, 1:-1] if prefs.item_indices.shape[1] > 2 else np.zeros((len(prefs), 0), np.int64)
    _, first, group = np.unique(np.c_[keys, middle], axis=0, return_index=True, return_inverse=True)
    first = first[group.ravel()]
    again = np.flatnonzero(first != np.arange(len(prefs)))
    reversed_ = again[pairs.best[again] != pairs.best[first[again]]]
    slots = prefs.item_indices[prefs.item_indices >= 0]
    return again, reversed_, len(np.unique(slots)) >= OPEN_SET * len(slots)


def check_duplicates(prefs: Preferences, *, split: str = "") -> Finding:
    """Rows that stand there twice. Where few items meet again and again, repetitions are a design, and only copies
    without a single change of mind count."""
    again, reversed_, is_open = _repeats(prefs)
    copies = np.setdiff1d(again, reversed_)
    share = len(copies) / len(prefs)
    said = f"{len(copies):,} of {len(prefs):,} rows repeat an earlier judgement of the same annotator"
    as_copied = is_open or len(reversed_) < 0.05 * len(again)
    if share < DUPLICATED or len(copies) < 3 or not as_copied:
        return Finding.of("duplicates", "ok", share, f"{said}.")
    return Finding.of(
        "duplicates", "look", share,
        f"{said}, none or few of them with another answer: they count evidence twice, and a split by rows puts copies "
        "on both sides. Drop them.", copies, split,
    )  # fmt: skip


def check_contradictions(prefs: Preferences, *, split: str = "") -> Finding:
    """Comparisons that one person answered both ways: any of them where completions hardly repeat; where the same few
    meet again and again, answers no better than coin flips."""
    again, reversed_, is_open = _repeats(prefs)
    share = len(reversed_) / len(prefs)
    said = f"{len(reversed_):,} of {len(prefs):,} rows reverse an earlier judgement of the same annotator"
    if is_open:
        is_many = share >= CONTRADICTED and len(reversed_) >= 3
    else:
        rate, n = len(reversed_) / max(len(again), 1), max(len(again), 1)
        is_many = share >= CONTRADICTED and rate - 3 * np.sqrt(rate * (1 - rate) / n) > COIN_FLIPS and n >= 10
    if not is_many:
        return Finding.of("contradictions", "ok", share, f"{said}.")
    return Finding.of(
        "contradictions", "look", share,
        f"{said}, of {len(again):,} that were asked again: see whether chosen and rejected were swapped in a part of "
        "the rows, or whether these people answered at random.", reversed_, split,
    )  # fmt: skip


def find_positions(prefs: Preferences, column: str | None = None) -> tuple[str, np.ndarray] | None:
    """Where the chosen one stood: (column, (n_rows,) 0 first, 1 second, −1 not known); None where no column says it.

    Args:
        column: its name; None looks at columns called `position`, `winner`, `label` and the like.

    Raises:
        ValueError: the named column is missing, or holds other words than 0/1, 1/2, a/b, left/right, first/second.
    """
    for name in (column,) if column is not None else [name for name in POSITION_NAMES if name in prefs.columns]:
        values = np.array([_word(value) for value in prefs.column(name)], dtype=object)
        words = set(values.tolist()) - {""}
        if words and words <= {"1", "2"}:
            return name, np.select([values == "1", values == "2"], [0, 1], -1)
        if words and words <= {*FIRST, *SECOND}:
            return name, np.select([np.isin(values, FIRST), np.isin(values, SECOND)], [0, 1], -1)
        if column is not None:
            raise ValueError(
                f"The column {column!r} holds {', '.join(map(repr, sorted(words)[:4])) or 'nothing'}; where the "
                f"chosen completion stood is said as 1/2, or as one of {', '.join(FIRST)} / {', '.join(SECOND)}."
            )
    return None


def _word(value: object) -> str:
    if value is None or (isinstance(value, float) and (value != value or not value.is_integer())):
        return ""
    return str(int(value) if isinstance(value, (bool, float, np.bool_)) else value).strip().lower()


def check_position(prefs: Preferences, *, column: str | None = None, split: str = "") -> Finding:
    """Does the first (or the second) of two win by standing there?"""
    found = find_positions(prefs, column)
    if found is None:
        return Finding.of("position", "ok", 0.5, "no column says where the chosen completion stood.")
    name, position = found
    n, first = int((position >= 0).sum()), int((position == 0).sum())
    share = first / n
    larger, which = max(share, 1 - share), "first" if share >= 0.5 else "second"
    said = f"By the column {name!r}, the {which} of the two was chosen in {larger:.1%} of {n:,} rows"
    if larger < POSITION_WINS or both_tails(first, n) >= ALPHA:
        return Finding.of("position", "ok", share, f"{said}.")
    rules = "one place always wins, so the column may say nothing, or the label is read off the place"
    biased = "people may choose by place; show the two in random order"
    return Finding.of(
        "position", "look", share, f"{said}: {rules if larger >= POSITION_RULES else biased}.",
        np.flatnonzero(position == (0 if share >= 0.5 else 1)), split,
    )  # fmt: skip


def check_constant(prefs: Preferences, *, column: str | None = None, split: str = "") -> Finding:
    """People who gave one and the same answer to everything: always the same place, or always the same text."""
    pairs, people = Pairs.of(prefs), prefs.annotators()
    answers = [(f"the same text {'' if prefs.is_text else '(vector) '}", _same_texts(prefs, pairs))]
    found = find_positions(prefs, column)
    if found is not None:
        answers.append(("the same place", found[1]))
    constant: dict[int, str] = {}
    for what, answer in answers:
        known = answer >= 0
        count = np.bincount(pairs.people[known], minlength=len(people))
        lowest, highest = np.full(len(people), len(prefs) * 2), np.full(len(people), -1)
        np.minimum.at(lowest, pairs.people[known], answer[known])
        np.maximum.at(highest, pairs.people[known], answer[known])
        rare = 2.0 * 0.5**count * len(people) * len(answers) < ALPHA
        constant |= dict.fromkeys(np.flatnonzero((lowest == highest) & (count >= N_CONSTANT) & rare).tolist(), what)
    if not constant:
        return Finding.of("constant", "ok", 0.0, "nobody gave one and the same answer throughout.")
    shown = ", ".join(f"{people.ids[person]!r} ({what.strip()})" for person, what in list(constant.items())[:3])
    return Finding.of(
        "constant", "look", len(constant) / len(people),
        f"{len(constant):,} of {len(people):,} annotators chose the same throughout: {shown}. They may not have read. "
        "Look at them, or leave them out.", np.flatnonzero(np.isin(pairs.people, list(constant))), split,
    )  # fmt: skip


def _same_texts(prefs: Preferences, pairs: Pairs) -> np.ndarray:
    """(n,) a number for each chosen text, whatever its prompt."""
    if not prefs.is_text:
        return pairs.best
    number: dict[str, int] = {}
    used, inverse = np.unique(pairs.best, return_inverse=True)
    of_item = [number.setdefault(plain_text(prefs.items[item][1]), len(number)) for item in used]
    return np.array(of_item, dtype=np.int64)[inverse]


def check_votes(prefs: Preferences, n_types: int | str, *, split: str = "") -> Finding:
    """Enough judgements of each person for that many types (`count_votes`)?"""
    try:
        counts = count_votes(prefs, n_types)
    except ValueError as error:
        return Finding.of("votes", "stop", 0.0, str(error), (), split)
    if counts.warnings:
        return Finding.of("votes", "look", counts.median, " ".join(counts.warnings), (), split)
    return Finding.of("votes", "ok", counts.median, f"the median annotator gave {counts.median:g} votes.")
