"""Two parts of every person's rows that share no item, so that what is learned from one is no answer to the other.

A person's rows fall into components: rows that are joined by items they share
(`palign.functional.evidence.components`). Whole components are dealt. Where one component holds nearly all of a
person's rows (votes and rankings as pairs), or the person gave one long row (votes as tiers), the *items* are dealt
instead: each part keeps the comparisons among its items, and those across are left out and counted.
"""

from dataclasses import dataclass

import numpy as np

from palign.functional.evidence.components import item_components
from palign.functional.evidence.positions import position_within

__all__ = ["RowParts", "RowTable", "part_rows"]

FILLED = 3  # further groups of rows that a part may take where one did not fit
HANGS_TOGETHER = 0.75  # of a person's rows in one component: dealing components would leave a part next to nothing


@dataclass(frozen=True)
class RowTable:
    """Rows cut down to some of their items.

    Attributes:
        rows: (n,) int64, which of the given rows each was.
        item_indices: (n, max_items) int64, best first; −1 is padding.
        ranks: (n, max_items) int16, dense, 0 is best, −1 is padding.
    """

    rows: np.ndarray
    item_indices: np.ndarray
    ranks: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class RowParts:
    """What `part_rows` gives.

    Attributes:
        first, second: the parts; no person has an item in both.
        n_across: comparisons (winner over one loser) between the parts, in neither.
        n_comparisons: comparisons there were.
        n_people_by_item: people whose items were dealt, since their rows hang together.
        n_people_by_rows: people whose rows, or groups of rows that share items, were dealt.
    """

    first: RowTable
    second: RowTable
    n_across: int
    n_comparisons: int
    n_people_by_item: int
    n_people_by_rows: int


def part_rows(
    item_indices: np.ndarray,
    ranks: np.ndarray,
    annotator_index: np.ndarray,
    *,
    fraction: float,
    rng: np.random.Generator,
    item_share: float | None = None,
    independent: np.ndarray | None = None,
) -> RowParts:
    """Deal everybody's rows into two parts by items.

    Args:
        item_indices: (rows, max_items) integers; what stands at padding is not read.
        ranks: (rows, max_items) integers, 0 is best, equal ranks tie, −1 is padding.
        annotator_index: (rows,) integers from 0 on.
        fraction: of everybody's rows that the second part shall hold, in (0, 1).
        rng: of the dealing. Nobody is left without a row in the first part.
        item_share: of the items that the second part gets, where items are dealt; half as much again as `fraction` if
            None (at most a half), since comparisons across are lost.
        independent: (n_people,) bool, people whose rows are dealt one by one, whatever items they share.
    """
    item_share = min(0.5, 1.5 * fraction) if item_share is None else item_share
    people, component = annotator_index.astype(np.int64), item_components(item_indices, ranks, annotator_index)
    if independent is not None:
        component = np.where(independent[people], component.max(initial=0) + 1 + np.arange(len(people)), component)
        component = np.unique(component, return_inverse=True)[1]
    by_item = _hang_together(people, component, ranks)
    is_second = _deal_components(people, component, fraction, rng)
    in_second = np.repeat(is_second[:, None], ranks.shape[1], axis=1)
    together = by_item[people]
    in_second[together] = _deal_items(people[together], item_indices[together], ranks[together], item_share, rng)
    first = _cut(item_indices, ranks, ~in_second)
    second = _cut(item_indices, ranks, in_second)
    n_all = _n_comparisons(ranks)
    known = np.bincount(people) > 0
    return RowParts(
        first,
        second,
        n_all - _n_comparisons(first.ranks) - _n_comparisons(second.ranks),
        n_all,
        int(by_item.sum()),
        int((known & ~by_item).sum()),
    )


def _hang_together(people: np.ndarray, component: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """(n_people,) bool: nearly all comparisons of theirs lie in one component of more than three items' worth."""
    n_people = int(people.max()) + 1 if len(people) else 0
    n_components = int(component.max()) + 1 if len(component) else 0
    sizes = np.bincount(component, minlength=n_components)
    owner = np.zeros(n_components, dtype=np.int64)
    owner[component] = people
    largest, total = np.zeros(n_people), np.bincount(people, minlength=n_people)
    np.maximum.at(largest, owner, sizes)
    widest = np.zeros(n_people, dtype=np.int64)
    np.maximum.at(widest, people, (ranks >= 0).sum(1))
    many = (largest >= 3) | ((total == 1) & (widest >= 4))  # a path of three rows, a row of four items
    return many & (largest > HANGS_TOGETHER * total)


def _deal_components(
    people: np.ndarray, component: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """(rows,) bool: rows of the second part. Components are shuffled and taken till the share of rows is reached."""
    n_people, n_components = int(people.max(initial=-1)) + 1, int(component.max(initial=-1)) + 1
    sizes, owner = np.bincount(component, minlength=n_components), np.zeros(n_components, dtype=np.int64)
    owner[component] = people
    order = np.lexsort((rng.random(n_components), owner))
    totals = np.bincount(people, minlength=n_people)
    ends = np.cumsum(sizes[order])
    starts = np.concatenate([[0], np.cumsum(totals)])[owner[order]]
    taken = ends - starts
    # what does not come out even is drawn, so that the share is right over everybody
    wanted = np.floor(totals * fraction + rng.random(n_people))
    wanted = np.minimum(wanted, totals - 1)[owner[order]]
    is_second = np.zeros(n_components, dtype=bool)
    is_second[order] = taken <= wanted
    left = np.minimum(np.floor(wanted), totals[owner[order]] - 1)
    for _ in range(FILLED):  # what did not fit is passed over for a smaller one that does
        n_dealt = np.bincount(owner, sizes * is_second, n_people)[owner[order]]
        fits = np.flatnonzero(~is_second[order] & (sizes[order] <= left - n_dealt))
        if len(fits) == 0:
            break
        is_second[order[fits[np.unique(owner[order[fits]], return_index=True)[1]]]] = True
    return is_second[component]


def _deal_items(
    people: np.ndarray, item_indices: np.ndarray, ranks: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """(rows, max_items) bool: items of the second part; winners and losers of a person are dealt apart, alike."""
    if len(people) == 0:
        return np.zeros(ranks.shape, dtype=bool)
    items = np.where(ranks < 0, item_indices[:, :1], item_indices).astype(np.int64)
    keys = people[:, None] * (int(items.max()) + 1) + items
    unique, node = np.unique(keys, return_inverse=True)
    node = node.reshape(items.shape)
    wins = np.zeros(len(unique), dtype=np.int64)
    best = np.where(ranks < 0, np.iinfo(np.int64).max, ranks.astype(np.int64)).min(1, keepdims=True)
    np.add.at(wins, node[(ranks >= 0) & (ranks == best)], 1)
    group = 2 * (unique // (int(items.max()) + 1)) + (wins > 0)
    order = np.lexsort((rng.random(len(unique)), group))
    sizes = np.unique(group[order], return_counts=True)[1]
    position = position_within(sizes)
    offset = np.repeat(rng.random(len(sizes)), sizes)  # which of a group comes first is drawn for each group
    is_second = np.zeros(len(unique), dtype=bool)
    is_second[order] = np.floor((position + 1) * share + offset) > np.floor(position * share + offset)
    return is_second[node]


def _cut(item_indices: np.ndarray, ranks: np.ndarray, keep: np.ndarray) -> RowTable:
    """Rows with their items where `keep` (rows, max_items) holds; rows that prefer nothing any more are left out."""
    place = np.where(keep & (ranks >= 0), ranks.astype(np.int64), np.iinfo(np.int32).max)
    order = np.argsort(place, axis=1, kind="stable")
    place = np.take_along_axis(place, order, 1)
    items = np.take_along_axis(item_indices.astype(np.int64), order, 1)
    absent = place == np.iinfo(np.int32).max
    dense = np.cumsum(np.diff(place, axis=1, prepend=place[:, :1]) > 0, axis=1)
    dense = np.where(absent, -1, dense)
    rows = np.flatnonzero(dense.max(1, initial=-1) > 0)
    width = max(2, int((~absent[rows]).sum(1).max(initial=2)))
    return RowTable(rows, np.where(absent, -1, items)[rows, :width], dense[rows, :width].astype(np.int16))


def _n_comparisons(ranks: np.ndarray) -> int:
    """Comparisons of a winner with one it beat."""
    total = 0
    for part in range(0, len(ranks), 65536):
        some = ranks[part : part + 65536].astype(np.int64)
        present = some >= 0
        total += int(((some[:, None] > some[:, :, None]) & present[:, None] & present[:, :, None]).sum())
    return total
