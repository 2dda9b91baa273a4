"""The interval of a gap: by hand where noise is known, its coverage where groups are equal, and its ends."""

import numpy as np
import pytest

from palign.evaluation.group_frame import GroupFrame
from palign.evaluation.statistics.intervals import fitted_means, gap_bounds
from scripts.coverage_bootstrap import POPULATIONS, draw_table

MANY = np.full(2, 1e9)  # degrees of freedom: no widening


def test_means_of_a_smaller_gap_are_clipped_to_a_band() -> None:
    """Equal weights, 0, 1 and 2: a gap of 1 lies from .5 to 1.5; equality is the mean."""
    fitted = fitted_means(np.array([0.0, 1.0, 2.0]), np.ones(3), np.array([0.0, 1.0, 2.0, 3.0]))
    np.testing.assert_allclose(fitted, [[1, 1, 1], [0.5, 1, 1.5], [0, 1, 2], [-0.5, 1, 2.5]], atol=1e-9)


def test_the_group_that_is_known_better_moves_less() -> None:
    """Variances 1 and 3: of the .8 that are taken off, the first group gives a quarter."""
    fitted = fitted_means(np.array([0.0, 1.0]), np.array([1.0, 3.0]), np.array([0.2, 0.0, 1.8]))
    np.testing.assert_allclose(fitted, [[0.2, 0.4], [0.25, 0.25], [-0.2, 1.6]], atol=1e-9)


def test_two_groups_far_apart_give_the_normal_interval() -> None:
    """Noise of each N(0, 1), a gap of 50: 50 ± 1.645 · √2."""
    rng = np.random.default_rng(0)
    values = np.array([0.0, 50.0])
    low, high = gap_bounds(values, values + rng.normal(size=(40_000, 2)), MANY, level=0.9)
    assert (low, high) == pytest.approx((50 - 1.645 * 2**0.5, 50 + 1.645 * 2**0.5), abs=0.05)


def test_near_zero_the_interval_is_one_sided() -> None:
    """A gap of 0.5 standard errors could come from equal groups; the same one of 4 could not."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(20_000, 2)) / 2**0.5  # the difference is N(0, 1)
    low, high = gap_bounds(np.array([0.0, 0.5]), np.array([0.0, 0.5]) + noise, MANY, level=0.9)
    assert low == 0.0 and 1.7 < high < 2.4
    assert gap_bounds(np.array([0.0, 4.0]), np.array([0.0, 4.0]) + noise, MANY, level=0.9)[0] > 2
    # equal groups give |N(0, 1)|, of which nine tenths lie below 1.645: that far and no further reaches zero
    for seen, reaches_zero in ((1.55, True), (1.75, False)):
        low, _ = gap_bounds(np.array([0.0, seen]), np.array([0.0, seen]) + noise, MANY, level=0.9)
        assert (low == 0.0) is reaches_zero


def test_noise_that_all_groups_share_leaves_the_gap_known() -> None:
    values = np.array([0.1, 0.3])
    shared = np.random.default_rng(0).normal(size=(100, 1))
    assert gap_bounds(values, values + shared, 20.0, level=0.9) == pytest.approx((0.2, 0.2))
    assert gap_bounds(np.ones(3), np.ones((100, 3)), np.full(3, 9.0), level=0.9) == (0.0, 0.0)
    assert np.isnan(gap_bounds(values, np.full((10, 2), np.nan), MANY, level=0.9)).all()


def test_few_people_widen_it() -> None:
    rng = np.random.default_rng(0)
    values = np.array([0.0, 9.0])
    draws = values + rng.normal(size=(4000, 2))
    wide = np.subtract(*gap_bounds(values, draws, np.array([3.0, 3.0]), level=0.9)[::-1])
    assert wide > 1.2 * np.subtract(*gap_bounds(values, draws, MANY, level=0.9)[::-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", POPULATIONS)
def test_a_90_percent_interval_holds_the_truth_in_90_of_100(name: str) -> None:
    """400 repetitions: three standard errors of a share of .9 are .045."""
    sizes, means = POPULATIONS[name]
    rng, held = np.random.default_rng(11), []
    for repetition in range(400):
        frame = GroupFrame(draw_table(sizes, means, rng), metrics="accuracy", groups="group")
        low, high = frame.interval("gap", seed=repetition, n_resamples=400).loc["accuracy"]
        held.append(low <= max(means) - min(means) <= high)
    assert 0.855 <= np.mean(held) <= 0.96


def test_no_interval_from_a_handful_of_resamples_that_reach_every_group() -> None:
    draws = np.random.default_rng(0).normal(size=(1000, 2))
    draws[3:, 0] = np.nan
    assert np.isnan(gap_bounds(np.zeros(2), draws, MANY, level=0.9)).all()
