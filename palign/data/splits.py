"""Two parts of one preference set, by annotator, by prompt, by row or by item.

`fraction` is always the share of the SECOND part. The same set, fraction and seed give the same parts.
"""

from dataclasses import dataclass, replace

import numpy as np

from palign.data.guards.finding import row_hashes
from palign.data.preferences import Preferences
from palign.functional.evidence.components import item_components
from palign.functional.evidence.parts import RowParts, RowTable, part_rows
from palign.functional.evidence.positions import position_within

__all__ = ["HoldOut", "hold_out", "split_by_annotator", "split_by_item", "split_by_prompt", "split_by_row"]


def split_by_annotator(prefs: Preferences, *, fraction: float, seed: int) -> tuple[Preferences, Preferences]:
    """(seen, unseen): `fraction` of the people, with all their rows, are unseen.

    Raises:
        ValueError: a fraction outside (0, 1), or too few people for two parts.
    """
    annotators = prefs.annotators()
    return _split_by_group(
        prefs, annotators.indices(prefs.annotator_ids), len(annotators), fraction, seed, "annotator"
    )


def split_by_prompt(prefs: Preferences, *, fraction: float, seed: int) -> tuple[Preferences, Preferences]:
    """(first, second): no prompt occurs in both, `fraction` of the prompts are in the second.

    Raises:
        ValueError: a fraction outside (0, 1), or too few prompts for two parts.
    """
    prompts, group = np.unique(prefs.prompt_indices, return_inverse=True)
    return _split_by_group(prefs, group, len(prompts), fraction, seed, "prompt")


def split_by_row(prefs: Preferences, *, fraction: float, seed: int) -> tuple[Preferences, Preferences]:
    """(first, second): `fraction` of every annotator's rows are in the second.

    What does not come out even is drawn, so that the share is right over everybody; nobody is left without a row in
    the first part. Judgements of the same completions by the same person, whichever way, are never parted, and count
    once.

    Raises:
        ValueError: a fraction outside (0, 1), or a part without rows.
    """
    _check_fraction(fraction)
    rng = np.random.default_rng(seed)
    annotators = prefs.annotators()
    people = annotators.indices(prefs.annotator_ids)
    first, judgement = _distinct_judgements(prefs, people)
    group = people[first]
    counts = np.bincount(group, minlength=len(annotators))
    wanted = counts * fraction
    n_second = np.minimum(np.floor(wanted + rng.random(len(counts))).astype(np.int64), counts - 1)
    shuffled = rng.permutation(len(group))
    by_group = shuffled[np.argsort(group[shuffled], kind="stable")]
    within = position_within(counts)
    is_second = np.zeros(len(group), dtype=bool)
    is_second[by_group] = within < n_second[group[by_group]]
    in_second = is_second[judgement]
    if not in_second.any() and counts.max(initial=0) <= 1:
        _refuse_single_judgements(len(annotators))
    if not in_second.any():
        raise ValueError(
            f"A split of {len(prefs)} rows by {len(annotators)} annotators with fraction {fraction} leaves nothing "
            "for the second part: every annotator keeps a row in the first. Give more rows or a larger fraction."
        )
    return prefs.select(~in_second), prefs.select(in_second)


@dataclass(frozen=True)
class HoldOut:
    """Two parts of one set, and a sentence that says which split was used, and why."""

    train: Preferences
    evaluation: Preferences
    sentence: str


def hold_out(prefs: Preferences, *, fraction: float, seed: int) -> HoldOut:
    """By row where no person's judgements share an item, else by item (`split_by_item`).

    Raises:
        ValueError: a fraction outside (0, 1), or a part without rows.
    """
    if not _shares_items(prefs):
        parts = split_by_row(prefs, fraction=fraction, seed=seed)
        sentence = (
            f"{len(parts[1]):,} of {len(prefs):,} rows were held out, a share of {fraction:g} of every annotator's: "
            "no two judgements of one annotator share an item."
        )
        return HoldOut(*parts, sentence)
    parts = _parted_by_item(prefs, fraction, seed)
    train, evaluation = _taken(prefs, parts.first), _taken(prefs, parts.second)
    sentence = (
        f"{len(evaluation):,} rows were held out by item, since judgements of one annotator share items, and who said "
        f"a > b and c > d has nearly said a > d.{_split_of_items(parts)}"
    )
    return HoldOut(train, evaluation, sentence)


def _split_of_items(parts: RowParts) -> str:
    """A sentence on comparisons that were lost, where some were."""
    if not parts.n_people_by_item:
        return " Judgements that share items stayed together."
    return (
        f" Nearly all judgements of {parts.n_people_by_item:,} annotators are linked by shared items: their items "
        f"were dealt into two parts, and {parts.n_across:,} of {parts.n_comparisons:,} comparisons, which compare an "
        "item of one part with an item of the other, were left out."
    )


def split_by_item(prefs: Preferences, *, fraction: float, seed: int) -> tuple[Preferences, Preferences]:
    """(first, second): no annotator judges an item in both; about `fraction` of everybody's rows are in the second.

    Judgements that are joined by shared items stay together. Where nearly all of a person's hang together, as pairs
    made of votes or rankings do, their items are dealt: comparisons across are left out of both, and a ranking is cut
    to the items of each part.

    Raises:
        ValueError: a fraction outside (0, 1), or a part without rows.
    """
    parts = _parted_by_item(prefs, fraction, seed)
    return _taken(prefs, parts.first), _taken(prefs, parts.second)


def _parted_by_item(prefs: Preferences, fraction: float, seed: int) -> RowParts:
    _check_fraction(fraction)
    people = prefs.annotators().indices(prefs.annotator_ids)
    rng = np.random.default_rng(seed)
    parts = part_rows(_item_keys(prefs), prefs.ranks, people, fraction=fraction, rng=rng)
    if len(parts.second) == 0 or len(parts.first) == 0:
        if len(prefs) == len(prefs.annotators()):
            _refuse_single_judgements(len(prefs))
        raise ValueError(
            f"A split of {len(prefs)} rows by {len(prefs.annotators())} annotators with fraction {fraction} by item "
            "leaves a part without rows: every annotator's judgements share items. Give more rows or a larger "
            "fraction, or name rows to evaluate on."
        )
    return parts


def _item_keys(prefs: Preferences) -> np.ndarray:
    """(n_rows, max_items) items; vectors under two prompts are two items."""
    if prefs.is_text or not (prefs.prompt_indices >= 0).any():
        return prefs.item_indices
    keys = (prefs.prompt_indices[:, None] + 1) * (prefs.item_indices.max() + 1) + prefs.item_indices
    return np.where(prefs.item_indices < 0, -1, keys)


def _refuse_single_judgements(n_annotators: int) -> None:
    raise ValueError(
        f"Each of the {n_annotators} annotators has one judgement, and it is trained on: none is left to evaluate on. "
        "Name rows to evaluate on (--eval_dataset_name), or give two or more judgements of a person."
    )


def _shares_items(prefs: Preferences) -> bool:
    """Whether two judgements of a person share an item without being of the same items; whether one could be cut."""
    if len(prefs) == 0:
        return False
    people = prefs.annotators().indices(prefs.annotator_ids)
    n_distinct = len(_distinct_judgements(prefs, people)[0])
    n_components = len(np.unique(item_components(_item_keys(prefs), prefs.ranks, people)))
    return n_components < n_distinct or bool((np.bincount(people) == 1).all() and (prefs.n_items >= 4).all())


def _taken(prefs: Preferences, table: RowTable) -> Preferences:
    """The rows of a table, cut to its items."""
    rows = prefs.select(table.rows)
    width = table.ranks.shape[1]
    items = rows.item_indices
    if (
        not np.array_equal(np.where(table.ranks < 0, -1, 0), np.where(rows.ranks[:, :width] < 0, -1, 0))
        or (_item_keys(rows)[:, :width] != table.item_indices).any()
    ):
        place = (_item_keys(rows)[:, None, :] == table.item_indices[:, :, None]).argmax(2)
        items = np.take_along_axis(items, place, 1)
    return replace(rows, item_indices=np.where(table.ranks < 0, -1, items[:, :width]), ranks=table.ranks)


def _distinct_judgements(prefs: Preferences, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of who judged what: the first row of each different judgement, in order, and which one each row (n_rows,) is."""
    keys = row_hashes(people, prefs.prompt_indices, np.sort(prefs.item_indices, axis=1))
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[inverse]


def _split_by_group(
    prefs: Preferences, group: np.ndarray, n_groups: int, fraction: float, seed: int, what: str
) -> tuple[Preferences, Preferences]:
    _check_fraction(fraction)
    if n_groups < 2:
        raise ValueError(
            f"A split by {what} needs at least two of them; these rows have {n_groups}. Split another way "
            "(split_by_row, split_by_prompt, split_by_annotator)."
        )
    n_second = min(max(round(fraction * n_groups), 1), n_groups - 1)
    chosen = np.zeros(n_groups, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(n_groups)[:n_second]] = True
    return prefs.select(~chosen[group]), prefs.select(chosen[group])


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is the share of the second part, strictly between 0 and 1, not {fraction!r}.")
