"""Above one dimension: cells by hand, bounds by hand, and two populations that nobody can tell apart."""

import numpy as np
import pytest

from palign.functional.populations.cells import bound_cells, find_cells, hyperplanes

CROSS = (np.eye(2), np.zeros(2))  # the two axes: four quadrants


def test_hyperplanes_lie_midway() -> None:
    """(2, 0) against (0, 0): nearer to the first where x > 1."""
    normal, offset = hyperplanes(np.array([[2.0, 0.0]]), np.array([[0.0, 0.0]]))
    assert normal.tolist() == [[1, 0]] and offset.tolist() == [1]


def test_two_lines_cut_four_cells_and_three_seven() -> None:
    assert len(find_cells(*CROSS)) == 4
    three = np.vstack([np.eye(2), [[0.6, 0.8]]])
    sides = find_cells(three, np.array([0.0, 0.0, 1.0]))
    assert len(sides) == 7 and len(np.unique(sides, axis=0)) == 7
    parallel = find_cells(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0.0, 1.0]))
    assert sorted(map(tuple, parallel.tolist())) == [(-1, -1), (1, -1), (1, 1)]


def test_quadrants_of_even_shares_are_bounded_by_hand() -> None:
    """Half on either side of both axes: each quadrant holds between 0 and ½. Nine tenths on one side of each: their
    common quadrant holds between .8 and .9."""
    half = np.full(2, 0.5)
    found = bound_cells(find_cells(*CROSS), half, half)
    np.testing.assert_allclose(found.low, 0, atol=1e-6)
    np.testing.assert_allclose(found.high, 0.5, atol=1e-6)
    np.testing.assert_allclose(found.even, 0.25, atol=1e-3)
    most = np.full(2, 0.9)
    found = bound_cells(find_cells(*CROSS), most, most)
    corner = int((found.sides == 1).all(1).argmax())
    assert (found.low[corner], found.high[corner]) == pytest.approx((0.8, 0.9), abs=1e-6)


def test_different_populations_give_the_same_shares() -> None:
    """Halves in opposite quadrants, either way: the same shares, and both within the bounds."""
    sides = find_cells(*CROSS)
    one = np.where(sides.prod(1) > 0, 0.5, 0.0)
    other = np.where(sides.prod(1) < 0, 0.5, 0.0)
    member = (sides > 0).astype(float).T
    np.testing.assert_allclose(member @ one, member @ other)
    found = bound_cells(sides, member @ one, member @ one)
    for masses in (one, other):
        assert (found.low <= masses + 1e-6).all() and (masses <= found.high + 1e-6).all()


def test_shares_that_no_population_has_are_given_slack() -> None:
    """Parallel lines: more people beyond the farther one than beyond the nearer one."""
    sides = find_cells(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0.0, 1.0]))
    found = bound_cells(sides, np.array([0.4, 0.6]), np.array([0.4, 0.6]))
    assert found.slack == pytest.approx(0.2, abs=1e-6)


def test_too_many_cells_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palign.functional.populations.cells.MOST_CELLS", 10)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="more than 10 cells"):
        find_cells(rng.normal(size=(8, 2)), rng.normal(size=8))
