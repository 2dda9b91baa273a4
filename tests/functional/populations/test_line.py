"""Masses on a line: by hand, isotonic regression as the reference, recovery, and bad positions."""

import numpy as np
import pytest
from scipy.optimize import isotonic_regression, minimize
from scipy.stats import norm

from palign.functional.populations.line import (
    Thresholds,
    choose_regularisation,
    fit_masses,
    isotonic,
    normal_masses,
)
from palign.functional.populations.posterior import cell_spans, mass_draws


def answers(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chosen, rejected and points of two camps at −1 and 1, each a fifth wide, on nine items."""
    rng = np.random.default_rng(seed)
    points = np.where(rng.random(n) < 0.3, -1, 1) + 0.2 * rng.normal(size=n)
    items = np.linspace(-2, 2, 9)
    first = rng.integers(9, size=n)
    second = (first + rng.integers(1, 9, size=n)) % 9
    wins = np.abs(points - items[first]) < np.abs(points - items[second])
    return np.where(wins, items[first], items[second]), np.where(wins, items[second], items[first]), points


def test_by_hand() -> None:
    """Items 0, 2 and 4: thresholds 1, 2 and 3. One of four stands below 1, two of four below 3: masses ¼, 0, ¼, ½ or
    any split of the middle; nobody was asked about 2."""
    chosen = np.array([0.0, 2, 2, 2, 2, 2, 4, 4])
    rejected = np.array([2.0, 0, 0, 0, 4, 4, 2, 2])
    found = Thresholds.of(chosen, rejected)
    assert found.places.tolist() == [1, 3]
    assert found.shares.tolist() == [0.25, 0.5]
    assert fit_masses(found).masses.tolist() == pytest.approx([0.25, 0.25, 0.5])


def test_without_a_ridge_it_is_isotonic_regression() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shares, counts = rng.random(12), rng.integers(1, 9, 12).astype(float)
        np.testing.assert_allclose(isotonic(shares, counts), isotonic_regression(shares, weights=counts).x)


def test_thresholds_without_answers_take_their_neighbours_value() -> None:
    assert isotonic(np.array([0.5, 0.2, 0.5, 0.9]), np.array([0.0, 5, 0, 5])).tolist() == [0.2, 0.2, 0.2, 0.9]


def test_another_solver_finds_nothing_better_under_a_ridge() -> None:
    chosen, rejected, _ = answers(60)
    found, ridge, target = Thresholds.of(chosen, rejected), 2.0, None
    masses = fit_masses(found, ridge=ridge, target=target).masses
    n = len(masses)

    def objective(p: np.ndarray) -> float:
        below = np.cumsum(p)[:-1]
        return float((found.counts * (below - found.shares) ** 2).sum() + ridge * n * ((p - 1 / n) ** 2).sum())

    equal = {"type": "eq", "fun": lambda p: p.sum() - 1}
    other = minimize(objective, np.full(n, 1 / n), method="SLSQP", bounds=[(0, 1)] * n, constraints=[equal])
    assert masses.sum() == pytest.approx(1) and masses.min() >= 0
    assert objective(masses) <= other.fun + 1e-7


def test_planted_masses_are_found_and_better_by_more_people() -> None:
    errors = []
    for n in (100, 10_000):
        chosen, rejected, points = answers(n)
        found = Thresholds.of(chosen, rejected)
        truth = np.histogram(answers(200_000, seed=9)[2], [-9, *found.places, 9])[0] / 200_000
        masses = choose_regularisation(chosen, rejected, np.arange(n)).fit(found).masses
        errors.append(float(np.abs(masses - truth).sum() / 2))
    assert errors[1] < 0.12 < errors[0]


def test_intervals_hold_the_planted_masses() -> None:
    chosen, rejected, _ = answers(500)
    found = Thresholds.of(chosen, rejected)
    truth = np.histogram(answers(200_000, seed=9)[2], [-9, *found.places, 9])[0] / 200_000
    first, last = cell_spans(chosen, rejected, np.arange(500), found.places)
    draws = mass_draws(first, last, len(truth))
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    assert ((low <= truth) & (truth <= high)).mean() >= 0.75
    np.testing.assert_allclose(draws.sum(1), 1)


def test_two_answers_leave_a_person_between_two_thresholds() -> None:
    """Above 1 (2 over 0) and below 3 (2 over 4): the middle cell. Above 3 and below 1: none."""
    chosen, rejected = np.array([2.0, 2, 4, 0]), np.array([0.0, 4, 2, 2])
    first, last = cell_spans(chosen, rejected, np.array([0, 0, 1, 1]), np.array([1.0, 3.0]))
    assert (first[0], last[0]) == (1, 1) and last[1] < first[1]
    with pytest.raises(ValueError, match="1 people have no cell"):
        mass_draws(first, last, 3)


def test_people_known_exactly_are_counted() -> None:
    """Seven in the first cell and three in the second: the posterior mean is (7.5, 3.5, .5) / 11.5."""
    cells = np.repeat([0, 1], [7, 3])
    draws = mass_draws(cells, cells, 3, n_draws=4000)
    np.testing.assert_allclose(draws.mean(0), np.array([7.5, 3.5, 0.5]) / 11.5, atol=0.01)


def test_a_normal_population_is_its_own_target() -> None:
    places = np.linspace(-2, 2, 9)
    below = norm.cdf(places, 0.3, 0.8)
    masses = normal_masses(Thresholds(places, np.full(9, 1000.0), 1000 * below))
    np.testing.assert_allclose(np.cumsum(masses)[:-1], below, atol=2e-3)


def test_bad_positions_are_named() -> None:
    with pytest.raises(ValueError, match="Row 1 .* positions 2.0 and 2.0"):
        Thresholds.of(np.array([1.0, 2.0]), np.array([0.0, 2.0]))
    with pytest.raises(ValueError, match="no answer"):
        fit_masses(Thresholds(np.array([1.0]), np.zeros(1), np.zeros(1)))
    with pytest.raises(ValueError, match="ridge is -1"):
        fit_masses(Thresholds(np.array([1.0]), np.ones(1), np.ones(1)), ridge=-1)
