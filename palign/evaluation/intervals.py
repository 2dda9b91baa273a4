"""From bootstrap replicates to an interval: percentiles, widened for few people, moved by the bias.

The estimate itself always lies in it: where the bias moves the percentiles past it, the interval reaches back to it.
"""

import numpy as np

__all__ = ["bounds", "range_of"]

RANGES = {"accuracy": (0.0, 1.0), "log_likelihood": (-np.inf, 0.0)}  # whatever the people


def range_of(metric: str, values: np.ndarray) -> tuple[float, float]:
    """Least and most that a mean of the metric can be; infinite where the name does not tell, or values lie beyond."""
    least, most = RANGES.get(metric, (-np.inf, np.inf))
    is_within = bool(((values >= least) & (values <= most)).all())
    return (least, most) if is_within else (-np.inf, np.inf)


def bounds(
    estimate: np.ndarray,
    draws: np.ndarray,
    level: float,
    degrees: np.ndarray | float,
    *,
    free: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Interval ends (...,) about an estimate (...,), by the rules of palign.evaluation.group_frame.

    ``draws`` (n_resamples, ...) give the spread; ``free``, of the same shape, the statistic itself on the resamples,
    where its bias is to be taken off. NaN draws, where a resample missed a group, are left out.
    """
    from scipy.stats import norm, t

    tail = np.broadcast_to(norm.cdf(t.ppf((1 - level) / 2, degrees)), np.shape(estimate))
    unknown = np.isnan(draws).all(axis=0) | np.isnan(estimate)
    ordered = np.sort(np.where(unknown, 0.0, draws), axis=0)  # NaN sorts to the end
    counts = (~np.isnan(ordered)).sum(axis=0)
    low, high = _quantile(ordered, counts, tail), _quantile(ordered, counts, 1 - tail)
    if free is not None:
        known = ~np.isnan(free)
        bias = np.where(known, free, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1) - estimate
        low, high = low - bias, high - bias
    low, high = np.minimum(low, estimate), np.maximum(high, estimate)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


def _quantile(ordered: np.ndarray, counts: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Linear quantile of the first ``counts`` entries along axis 0 of sorted replicates, one share per place."""
    place = share * (counts - 1)
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, counts - 1)
    low = np.take_along_axis(ordered, below[None], 0)[0]
    high = np.take_along_axis(ordered, above[None], 0)[0]
    return low + (high - low) * (place - below)
