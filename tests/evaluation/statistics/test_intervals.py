"""Percentiles of resamples, widened for few people as a t distribution is wider than a normal one."""

import numpy as np
import pytest
from scipy.stats import norm, t

from palign.evaluation.statistics.intervals import bounds


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("degrees", [1.0, 7.0, 400.0, float("inf")])
def test_ends_are_quantiles_at_the_level_of_students_t(level: float, degrees: float) -> None:
    """Of draws 0, 1, …, 10⁶ the quantile at a share is the share times 10⁶."""
    draws = np.arange(1_000_001.0)[:, None]
    tail = norm.cdf(t.ppf((1 - level) / 2, degrees))
    low, high = bounds(np.array([5e5]), draws, level, np.array([degrees]))
    assert (low[0], high[0]) == pytest.approx((tail * 1e6, (1 - tail) * 1e6), rel=1e-12)
