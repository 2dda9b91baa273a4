"""What a row counts for beside the rows that share its items."""

import numpy as np
import pytest
import torch

from palign.functional.evidence.components import item_components, ties_as_pairs, votes_of_pairs
from palign.functional.evidence.rows import row_evidence

PAIR = [0, 1]


def evidence(items: list, people: list, ranks: list | None = None) -> list[float]:
    ranks = [PAIR] * len(items) if ranks is None else ranks
    return row_evidence(torch.tensor(items), torch.tensor(ranks), torch.tensor(people)).tolist()


def test_rows_without_a_shared_item_count_for_one() -> None:
    assert evidence([[0, 1], [2, 3], [4, 5]], [0, 0, 0]) == [1.0, 1.0, 1.0]


def test_people_share_nothing() -> None:
    assert evidence([[0, 1], [0, 1]], [0, 1]) == [1.0, 1.0]
    items, ranks, people = torch.tensor([[0, 1], [1, 2], [0, 1]]), torch.tensor([PAIR] * 3), torch.tensor([0, 0, 1])
    first, second, other = item_components(items.numpy(), ranks.numpy(), people.numpy()).tolist()
    assert first == second != other


def test_two_yes_and_two_no_as_four_pairs() -> None:
    # y = z = 2: 2yz / (y + z) = 2 comparisons in 4 pairs
    pairs = [[yes, no] for yes in (0, 1) for no in (2, 3)]
    assert evidence(pairs, [0] * 4) == [0.5] * 4


def test_the_same_votes_as_tiers() -> None:
    # a row of two stages with two losers each, 2 · 2/3 comparisons a stage: 2 in 8/3
    assert evidence([[0, 1, 2, 3]], [0], [[0, 0, 1, 1]]) == pytest.approx([0.75])


def test_best_of_four_and_rankings_count_for_one() -> None:
    assert evidence([[0, 1, 2, 3]], [0], [[0, 1, 1, 1]]) == [1.0]
    assert evidence([[0, 1, 2, 3]], [0], [[0, 1, 2, 3]]) == [1.0]


def test_all_pairs_of_a_ranking_count_for_items_less_one() -> None:
    # a > b > c as three pairs: two judgements
    assert evidence([[0, 1], [0, 2], [1, 2]], [0] * 3) == pytest.approx([2 / 3] * 3)


def test_a_repeated_judgement_counts_again() -> None:
    assert evidence([[0, 1]] * 5, [0] * 5) == [1.0] * 5


def test_padding_is_not_an_item() -> None:
    # two rows of a person; what stands at padding (item 9) joins nothing
    assert evidence([[0, 1, 9], [2, 3, 9]], [0, 0], [[0, 1, -1], [0, 1, -1]]) == [1.0, 1.0]


def test_no_rows() -> None:
    nothing = torch.zeros(0, 2, dtype=torch.int64)
    assert row_evidence(nothing, nothing, torch.zeros(0, dtype=torch.int64)).shape == (0,)


def as_pairs(items: list[list[int]], ranks: list[list[int]]) -> list[tuple[int, int, int, float]]:
    parts = ties_as_pairs(np.array(items), np.array(ranks))
    assert parts is not None
    rows, pairs, places, base = parts
    assert (places == [0, 1]).all()
    return [(int(r), int(a), int(b), round(float(w), 6)) for r, (a, b), w in zip(rows, pairs, base, strict=True)]


def test_votes_become_pairs_of_yes_over_no() -> None:
    # two yes, two no: 4 pairs that count for 2yz / (y + z) = 2 in all
    assert as_pairs([[5, 6, 7, 8]], [[0, 0, 1, 1]]) == [
        (0, 5, 7, 0.5), (0, 5, 8, 0.5), (0, 6, 7, 0.5), (0, 6, 8, 0.5),
    ]  # fmt: skip


def test_beside_votes_a_row_without_ties_becomes_pairs_too() -> None:
    # one yes over three no counts for 2·1·3 / 4 = 1.5, a ranking of three for its two stages, a pair for one
    given = as_pairs([[5, 6, 7, 8], [1, 2, 3, 4], [1, 2, 3, 1], [1, 2, 1, 1]],
                     [[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 2, -1], [0, 1, -1, -1]])  # fmt: skip
    assert given[4:7] == [(1, 1, 2, 0.5), (1, 1, 3, 0.5), (1, 1, 4, 0.5)]
    assert given[7:10] == [(2, 1, 2, round(2 / 3, 6)), (2, 1, 3, round(2 / 3, 6)), (2, 2, 3, round(2 / 3, 6))]
    assert given[10:] == [(3, 1, 2, 1.0)]


def test_rows_without_ties_above_the_last_tier_stay() -> None:
    assert ties_as_pairs(np.array([[0, 1, 2], [3, 4, 5]]), np.array([[0, 1, 2], [0, 1, 1]])) is None


def put_together(pairs: list[list[int]], people: list[int], groups: list[int] | None = None) -> list[tuple] | None:
    array = np.array(pairs)
    votes = votes_of_pairs(
        array, np.tile([0, 1], (len(pairs), 1)), np.array(people), np.array(groups or [0] * len(pairs))
    )
    if votes is None:
        return None
    return [
        (int(row), [int(i) for i in items if i >= 0], [int(r) for r in ranks if r >= 0])
        for row, items, ranks in zip(*votes, strict=True)
    ]


def test_pairs_that_only_votes_give_are_put_together() -> None:
    # yes: 0, 1, 2; no: 5, 6; five of the six pairs, and a pair of another person
    votes = [[0, 5], [0, 6], [1, 5], [1, 6], [2, 5]]
    assert put_together([*votes, [0, 5]], [0] * 5 + [1]) == [
        (5, [0, 5], [0, 1]),
        (0, [0, 1, 2, 5, 6], [0, 0, 0, 1, 1]),
    ]


@pytest.mark.parametrize(
    ("pairs", "groups"),
    [
        ([[0, 5], [0, 6], [1, 5], [1, 6]], None),  # nothing is missing
        ([[0, 5], [1, 5], [1, 6], [2, 6]], None),  # a chain: fewer pairs than items
        ([[0, 5], [0, 6], [1, 5], [5, 7], [0, 7]], None),  # 5 loses and wins
        ([[0, 5], [0, 6], [1, 5], [1, 6], [2, 5], [2, 5]], None),  # one of them twice: it counts again
        ([[0, 5], [0, 6], [1, 5], [1, 6], [2, 5]], [0, 0, 0, 0, 1]),  # of two prompts
    ],
)
def test_other_pairs_stay_as_they_are(pairs: list[list[int]], groups: list[int] | None) -> None:
    assert put_together(pairs, [0] * len(pairs), groups) is None
