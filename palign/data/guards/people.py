"""Do the people of a preference set mean what they say: no copies, no coin flips, no clicking through?"""

import numpy as np

from palign.data.guards.finding import ALPHA, Finding, Pairs, both_tails, plain_text, row_hashes
from palign.data.preferences import Preferences
from palign.data.rows.winners import TIE, side_of_word
from palign.data.vote_counts import count_votes

__all__ = [
    "check_constant",
    "check_position",
    "check_repeats",
    "check_votes",
    "find_positions",
]

OPEN_SET = 0.5  # distinct items per slot, at least, for a repetition to be no design
DUPLICATED, CONTRADICTED = 0.05, 0.02  # shares of rows
COIN_FLIPS = 0.45
POSITION_WINS, POSITION_RULES = 0.6, 0.98
N_CONSTANT = 8  # rows of one person
POSITION_NAMES = ("position", "chosen_position", "winner", "label", "preference", "choice", "chosen_side", "side")
FIRST, SECOND = ("0", "a", "left", "first", "model_a", "a1"), ("1", "b", "right", "second", "model_b", "a2")


def check_repeats(prefs: Preferences, *, split: str = "") -> tuple[Finding, Finding]:
    """Rows that stand there twice, and comparisons that one person answered in two ways.

    Where completions hardly repeat, both are mended by whoever made the rows. Where few items meet again and again,
    repetitions are a design: only copies without a change of mind, and answers no better than coin flips, count.
    """
    item_sets = np.sort(prefs.item_indices, axis=1)
    keys = row_hashes(prefs.annotators().indices(prefs.annotator_ids), prefs.prompt_indices, item_sets)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    first = first[group]
    again = np.flatnonzero(first != np.arange(len(prefs)))
    same = (prefs.item_indices[again] == prefs.item_indices[first[again]]).all(axis=1)
    slots = prefs.item_indices[prefs.item_indices >= 0]
    is_open = len(np.unique(slots)) >= OPEN_SET * len(slots)
    return (
        _duplicates(again[same], again, len(prefs), is_open, split),
        _contradictions(again[~same], again, len(prefs), is_open, split),
    )


def _duplicates(copies: np.ndarray, again: np.ndarray, n: int, is_open: bool, split: str) -> Finding:
    share = len(copies) / n
    sentence = f"{len(copies):,} of {n:,} rows repeat an earlier judgement of the same annotator"
    as_copied = is_open or len(copies) > 0.95 * len(again)
    if share < DUPLICATED or len(copies) < 3 or not as_copied:
        return Finding.of("duplicates", "ok", share, f"{sentence}.")
    return Finding.of(
        "duplicates",
        "look",
        share,
        f"{sentence}, none or few of them with another answer: they count evidence twice, and a split made elsewhere "
        "may put copies on both sides. Drop them.",
        copies,
        split,
    )


def _contradictions(reversed_: np.ndarray, again: np.ndarray, n: int, is_open: bool, split: str) -> Finding:
    share, rate = len(reversed_) / n, len(reversed_) / max(len(again), 1)
    sentence = f"{len(reversed_):,} of {n:,} rows reverse an earlier judgement of the same annotator"
    surely = rate - 3 * np.sqrt(rate * (1 - rate) / max(len(again), 1))
    is_many = len(reversed_) >= 3 if is_open else len(again) >= 10 and surely > COIN_FLIPS
    if share < CONTRADICTED or not is_many:
        return Finding.of("contradictions", "ok", share, f"{sentence}.")
    return Finding.of(
        "contradictions",
        "look",
        share,
        f"{sentence}, of {len(again):,} that were asked again: see whether chosen and rejected were swapped in a part "
        "of the rows, or whether these people answered at random.",
        reversed_,
        split,
    )


def find_positions(prefs: Preferences, column: str | None = None) -> tuple[str, np.ndarray] | None:
    """Where the chosen one stood: (column, (n_rows,) 0 first, 1 second, −1 not known); None where no column says it.

    Args:
        column: its name; None looks at columns called `position`, `winner`, `label` and the like.

    Raises:
        ValueError: the named column is missing, or holds something else than 0/1, 1/2, a/b, left/right, first/second.
    """
    for name in (column,) if column is not None else [name for name in POSITION_NAMES if name in prefs.columns]:
        values = np.array([_word(value) for value in prefs.column(name)], dtype=object)
        values[[side_of_word(value) == TIE for value in values]] = ""
        labels = set(values.tolist()) - {""}
        if len(labels) == 1 and labels <= {"0", "1", "2"} and column is None:
            continue  # one number throughout (label 1) says nothing of places
        if labels and labels <= {"1", "2"}:
            return name, np.select([values == "1", values == "2"], [0, 1], -1)
        if labels and labels <= {*FIRST, *SECOND}:
            return name, np.select([np.isin(values, FIRST), np.isin(values, SECOND)], [0, 1], -1)
        if column is not None:
            raise ValueError(
                f"The column {column!r} holds {', '.join(map(repr, sorted(labels)[:4])) or 'nothing'}; where the "
                f"chosen completion stood is said as 1/2, or as one of {', '.join(FIRST)} / {', '.join(SECOND)}."
            )
    return None


def _word(value: object) -> str:
    if value is None or (isinstance(value, float) and (value != value or not value.is_integer())):
        return ""
    return str(int(value) if isinstance(value, (bool, float, np.bool_)) else value).strip().lower()


def check_position(prefs: Preferences, *, column: str | None = None, split: str = "") -> Finding:
    """Does the first (or the second) of two win by standing there?"""
    place = find_positions(prefs, column)
    if place is None:
        return Finding.of("position", "ok", 0.5, "no column says where the chosen completion stood.")
    name, position = place
    n, first = int((position >= 0).sum()), int((position == 0).sum())
    share = first / n
    larger, which = max(share, 1 - share), "first" if share >= 0.5 else "second"
    made = prefs.reading is not None and any(part[0] == "winner" for part in prefs.reading.columns)
    where = "As the answers stood in the file" if made and name == "position" else f"By the column {name!r}"
    sentence = f"{where}, the {which} of the two was chosen in {larger:.1%} of {n:,} rows"
    if larger < POSITION_WINS or both_tails(first, n) >= ALPHA:
        return Finding.of("position", "ok", share, f"{sentence}.")
    rules = "one place always wins, so the column may say nothing, or the label is read off the place"
    biased = "people may choose by place; show the two in random order"
    return Finding.of(
        "position",
        "look",
        share,
        f"{sentence}: {rules if larger >= POSITION_RULES else biased}.",
        np.flatnonzero(position == (0 if share >= 0.5 else 1)),
        split,
    )


def check_constant(prefs: Preferences, *, column: str | None = None, split: str = "") -> Finding:
    """People who gave one and the same answer to everything: always the same place, or always the same text."""
    pairs, people = Pairs.of(prefs), prefs.annotators()
    answers = [(f"the same text {'' if prefs.is_text else '(vector) '}", _same_texts(prefs, pairs))]
    place = find_positions(prefs, column)
    if place is not None:
        answers.append(("the same place", place[1]))
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
        "constant",
        "look",
        len(constant) / len(people),
        f"{len(constant):,} of {len(people):,} annotators chose the same throughout: {shown}. They may not have read. "
        "Look at them, or leave them out.",
        np.flatnonzero(np.isin(pairs.people, list(constant))),
        split,
    )


def _same_texts(prefs: Preferences, pairs: Pairs) -> np.ndarray:
    """(n,) a number for each chosen text, whatever its prompt."""
    if not prefs.is_text:
        return pairs.best
    number: dict[str, int] = {}
    used, inverse = np.unique(pairs.best, return_inverse=True)
    of_item = [number.setdefault(plain_text(prefs.items[item][1]), len(number)) for item in used]
    return np.array(of_item, dtype=np.int64)[inverse]


def check_votes(prefs: Preferences, n_types: int | None, *, split: str = "") -> Finding:
    """Enough judgements of each person for that many types, or for a choice of their number (`count_votes`)?"""
    try:
        counts = count_votes(prefs, n_types)
    except ValueError as error:
        return Finding.of("votes", "stop", 0.0, str(error), (), split)
    if counts.warnings:
        return Finding.of("votes", "look", counts.median, " ".join(counts.warnings), (), split)
    return Finding.of("votes", "ok", counts.median, f"the median annotator gave {counts.median:g} votes.")
