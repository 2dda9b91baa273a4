"""Elections worked by hand."""

import numpy as np
import pytest

from palign.evaluation.statistics.voting import borda, copeland


def test_borda_and_copeland_can_elect_different_candidates() -> None:
    """Three ballots a > b > c, two b > c > a: a wins both duels; b has the points.

    a beats 2, 2, 2, 0, 0 of two others: 6 / 10. b: 1, 1, 1, 2, 2: 7 / 10. c: 0, 0, 0, 1, 1: 2 / 10... and 1 each.
    """
    ballots = np.array([[3, 2, 1]] * 3 + [[1, 3, 2]] * 2)
    np.testing.assert_allclose(borda(ballots), [0.6, 0.7, 0.2])
    np.testing.assert_allclose(copeland(ballots), [1.0, 0.5, 0.0])


def test_a_circle_of_majorities_elects_nobody() -> None:
    """a > b > c, b > c > a, c > a > b: each wins one duel and loses one."""
    ballots = np.array([[3, 2, 1], [1, 3, 2], [2, 1, 3]])
    np.testing.assert_allclose(copeland(ballots), [0.5] * 3)
    np.testing.assert_allclose(borda(ballots), [0.5] * 3)


def test_ballots_count_by_their_weights_and_by_their_order_alone() -> None:
    utilities = np.array([[1.0, 0.0], [0.0, 100.0]])
    np.testing.assert_allclose(copeland(utilities, [0.6, 0.4]), [1.0, 0.0])
    np.testing.assert_allclose(borda(utilities, [3.0, 2.0]), [0.6, 0.4])
    np.testing.assert_allclose(borda(utilities * 5 - 1, [3.0, 2.0]), [0.6, 0.4])


def test_ties_are_halves() -> None:
    np.testing.assert_allclose(borda([[1.0, 1.0, 0.0]]), [0.75, 0.75, 0.0])
    np.testing.assert_allclose(copeland([[1.0, 1.0]]), [0.5, 0.5])
    np.testing.assert_allclose(borda([[2.0]]), [0.0])


@pytest.mark.parametrize("utilities", [[], [1.0, 2.0], [[np.nan, 1.0]]])
def test_what_is_no_ballot_is_refused(utilities) -> None:
    with pytest.raises(ValueError, match="n_voters, n_candidates"):
        borda(utilities)
    with pytest.raises(ValueError, match="weights must be 1 numbers"):
        copeland([[1.0, 2.0]], [-1.0])
