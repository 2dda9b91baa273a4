"""Parts of rows that share no item."""

import numpy as np
import pytest

from palign.functional.evidence.parts import part_rows


def parted(items: list, ranks: list, people: list, fraction: float = 0.5, seed: int = 0):
    return part_rows(
        np.array(items), np.array(ranks), np.array(people), fraction=fraction, rng=np.random.default_rng(seed)
    )


def items_of(table, people: np.ndarray) -> set[tuple[int, int]]:
    pairs = np.argwhere(table.item_indices >= 0)
    return {(int(people[table.rows[r]]), int(table.item_indices[r, c])) for r, c in pairs}


def test_rows_without_a_shared_item_are_dealt_whole() -> None:
    items = [[2 * row, 2 * row + 1] for row in range(20)]
    parts = parted(items, [[0, 1]] * 20, [0] * 10 + [1] * 10)
    assert len(parts.first) == len(parts.second) == 10
    assert sorted([*parts.first.rows, *parts.second.rows]) == list(range(20))
    assert (parts.n_across, parts.n_comparisons, parts.n_people_by_item, parts.n_people_by_rows) == (0, 20, 0, 2)


def test_rows_that_share_an_item_stay_together() -> None:
    # items 0-1-2 hang together, and so do 3-4-5
    parts = parted([[0, 1], [1, 2], [3, 4], [4, 5]], [[0, 1]] * 4, [0] * 4)
    assert sorted(map(sorted, (parts.first.rows.tolist(), parts.second.rows.tolist()))) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("seed", range(5))
def test_pairs_made_of_votes_are_parted_by_item(seed: int) -> None:
    # four yes (0…3), four no (4…7): sixteen pairs
    items = [[yes, no] for yes in range(4) for no in range(4, 8)]
    parts = parted(items, [[0, 1]] * 16, [0] * 16, seed=seed)
    people = np.zeros(16, dtype=int)
    assert items_of(parts.first, people).isdisjoint(items_of(parts.second, people))
    # two of each tier on each side: 4 pairs and 4, and 8 across
    assert (len(parts.first), len(parts.second), parts.n_across) == (4, 4, 8)
    assert (parts.n_people_by_item, parts.n_people_by_rows) == (1, 0)


def test_one_row_of_votes_is_cut_in_two() -> None:
    parts = parted([[5, 6, 7, 8, 9, 10]], [[0, 0, 0, 1, 1, 2]], [0])
    assert parts.first.rows.tolist() == parts.second.rows.tolist() == [0]
    one, other = (set(table.item_indices[0].tolist()) - {-1} for table in (parts.first, parts.second))
    assert one.isdisjoint(other) and one | other == {5, 6, 7, 8, 9, 10}
    for table in (parts.first, parts.second):  # dense, best first, padded at the end
        place = table.ranks[0][table.ranks[0] >= 0]
        assert place[0] == 0 and (np.diff(place) >= 0).all() and (np.diff(place) <= 1).all()


def test_a_row_too_short_to_part_stays() -> None:
    parts = parted([[0, 1]], [[0, 1]], [0])
    assert len(parts.first) == 1 and len(parts.second) == 0


def test_the_share_is_right_over_everybody() -> None:
    people = np.repeat(np.arange(200), 4)
    items = [[2 * row, 2 * row + 1] for row in range(800)]
    parts = parted(items, [[0, 1]] * 800, people.tolist(), fraction=0.2)
    assert len(parts.second) == pytest.approx(160, abs=30)
    assert (np.bincount(people[parts.first.rows], minlength=200) >= 3).all()
