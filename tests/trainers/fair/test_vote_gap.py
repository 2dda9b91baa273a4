"""The paired interval of the worst type's held-out votes: by hand, and how often it holds what is true."""

import numpy as np
import pytest

from palign.trainers.fair.vote_gap import VoteAccuracies, worst_gap

DRAWN = {"n_draws": 400, "seed": 0}


def accuracies(right: np.ndarray, types: np.ndarray, people: np.ndarray, n_types: int) -> VoteAccuracies:
    return VoteAccuracies(right, np.ones(len(right)), people, types, n_types=n_types, **DRAWN)


def test_accuracy_counts_pairs_of_sure_people() -> None:
    """Type 0: person 0 has 1 of 1, person 1 has 1 of 3. An unsure person and a row of ties do not count. Two people
    drawn from two: twice the first (1), both (2 of 4), twice the second (1 of 3)."""
    found = VoteAccuracies(
        np.array([1.0, 1.0, 5.0, 0.0]), np.array([1.0, 3.0, 5.0, 0.0]), people=np.array([0, 1, 2, 0]),
        types=np.array([0, 0, -1, 1]),
        n_types=2, **DRAWN,
    )  # fmt: skip
    assert found.values[0] == pytest.approx(0.5) and np.isnan(found.values[1])
    assert sorted(set(found.draws[:, 0].round(6))) == pytest.approx([1 / 3, 0.5, 1.0], abs=1e-6)


def test_a_gap_that_all_people_show_has_no_width() -> None:
    """Everybody of type 0 has 3 of 4 under one policy and 1 of 4 under the other; of type 1, all and 2 of 4."""
    people, types = np.repeat(np.arange(10), 4), np.repeat([0, 1], 20)
    ours = accuracies(np.tile([1.0, 1, 1, 0], 10) + (types == 1) * np.tile([0.0, 0, 0, 1], 10), types, people, 2)
    theirs = accuracies(np.tile([1.0, 0, 0, 0], 10) + (types == 1) * np.tile([0.0, 1, 0, 0], 10), types, people, 2)
    assert worst_gap(ours, theirs) == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    assert worst_gap(theirs, ours) == pytest.approx({"value": -0.5, "low": -0.5, "high": -0.5})


def test_one_person_says_nothing_of_the_others() -> None:
    """All there could be: accuracies lie in [0, 1]."""
    ones = np.ones(3)
    found = worst_gap(*(accuracies(x, np.zeros(3, int), np.zeros(3, int), 1) for x in (ones, 0 * ones)))
    assert found == {"value": 1.0, "low": -1.0, "high": 1.0}


def test_types_without_votes_are_left_out() -> None:
    empty = accuracies(np.ones(2), np.array([-1, -1]), np.arange(2), 3)
    assert worst_gap(empty, empty) is None
    some = accuracies(np.array([1.0, 0.0]), np.array([1, 1]), np.array([0, 0]), 3)
    assert worst_gap(some, some)["value"] == 0.0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((0.5, 0.5, 0.5, 0.5), (0.5, 0.7, 0.7, 0.7)), ((0.5, 0.7, 0.7, 0.7), (0.5, 0.5, 0.5, 0.5)),
     ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5))],
)  # fmt: skip
def test_equal_worst_types_are_seldom_told_apart(ours: tuple[float, ...], theirs: tuple[float, ...]) -> None:
    """The truth is 0, whichever policy has several types that are served alike: at most 5 % of the intervals leave it
    out. Of 300, more than 24 at that rate come once in a hundred."""
    rng, missed = np.random.default_rng(0), 0
    people, types = np.repeat(np.arange(60), 20), np.repeat([0, 1, 2, 3], 300)
    for _ in range(300):
        a, b = ((rng.random(1200) < np.array(p)[types]).astype(float) for p in (ours, theirs))
        found = worst_gap(*(VoteAccuracies(x, np.ones(1200), people, types, n_types=4, n_draws=200, seed=1)
                            for x in (a, b)))  # fmt: skip
        missed += not found["low"] <= 0 <= found["high"]
    assert missed <= 24
