"""Intervals from bootstrap replicates: of any statistic (`bounds`), and of a gap between groups (`gap_bounds`).

`bounds` takes percentiles, widens them for few people and moves them by the bias. The estimate always lies in the
interval: where the bias moves the percentiles past it, the interval reaches back to it.

`gap_bounds` is for the gap between the best- and the worst-served group, and holds where groups are truly equal. The
gap of several noisy means is too large on average, by an amount that depends on how near the groups truly are to one
another; at equality its distribution is far from normal, and percentiles of its bootstrap never reach zero. So the
interval comes from inverting a test: which true gaps could have given the one that was seen?

1. For each candidate gap the group means are fitted again, as near to the table's as such a gap allows (weighted
   least squares: means are clipped to a band of that width, or the two extremes are moved apart). Chuang and Lai
   (*Statistica Sinica* 2000) call this hybrid resampling.
2. About these means the noise of resampled people is added, and the gap of each resample taken.
3. A candidate is kept if the table's gap is no further from the median of those than a share ``level`` of them is.
   Below what equal groups give, distance is counted from the best a gap can do, zero: thus an interval of a quantity
   that cannot be negative becomes one-sided near zero without a second rule (Feldman and Cousins, *Physical Review D*
   1998).

The noise of a group of n people is known no better than n people let it be known: each resample's noise is divided by
the root of a chi-square with n - 1 degrees of freedom over its mean, which makes it Student's t where it was normal.
"""

import numpy as np

__all__ = ["bounds", "fitted_means", "gap_bounds", "range_of"]

RANGES = {"accuracy": (0.0, 1.0), "log_likelihood": (-np.inf, 0.0)}  # whatever the people
N_CANDIDATES = 64
BISECTIONS = 40
LEAST_DRAWS = 100  # that reach every group, for an interval; all of them where fewer are asked for


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
    tail = np.broadcast_to(_normal_tail((1 - level) / 2, degrees), np.shape(estimate))
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


def _normal_tail(share: float, degrees: np.ndarray | float) -> np.ndarray:
    """What of a normal distribution lies below the quantile `share` of Student's t."""
    from scipy.special import ndtr, stdtrit  # what scipy.stats calls, which takes half a second to import

    return ndtr(stdtrit(degrees, share))


def _quantile(ordered: np.ndarray, counts: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Linear quantile of the first ``counts`` entries along axis 0 of sorted replicates, one share per place."""
    place = share * (counts - 1)
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, counts - 1)
    low = np.take_along_axis(ordered, below[None], 0)[0]
    high = np.take_along_axis(ordered, above[None], 0)[0]
    return low + (high - low) * (place - below)


def gap_bounds(
    values: np.ndarray, draws: np.ndarray, degrees: np.ndarray | float, *, level: float, seed: int = 0
) -> tuple[float, float]:
    """Interval of best minus worst.

    Args:
        values: (n_groups,) the table's means, at least two.
        draws: (n_resamples, n_groups) the same on resamples of people; rows with a NaN, where a resample missed a
            group, are left out.
        degrees: (n_groups,) n - 1 of each group; a number where people stand in several groups, and their noise is
            of one piece.
        level: coverage aimed at.
        seed: of the chi-squares.

    Returns:
        Both ends; NaN where fewer than a hundred resamples reach every group.
    """
    noise = draws[~np.isnan(draws).any(axis=1)] - values
    if len(noise) < min(LEAST_DRAWS, len(draws)):
        return np.nan, np.nan
    variances = noise.var(axis=0)
    rng = np.random.default_rng([seed, 1])  # not the stream that drew the people
    size = noise.shape if np.ndim(degrees) else (len(noise), 1)
    noise = noise * np.sqrt(degrees / rng.chisquare(degrees, size=size))
    seen, of_equals = float(np.ptp(values)), np.ptp(noise, axis=1)
    gaps = np.linspace(0.0, seen + np.quantile(of_equals, (1 + level) / 2), N_CANDIDATES)
    middles, limits = np.empty(N_CANDIDATES), np.empty(N_CANDIDATES)
    for place, fitted in enumerate(fitted_means(values, variances, gaps)):
        resampled = np.ptp(fitted + noise, axis=1)
        middles[place] = np.median(resampled)
        limits[place] = np.quantile(_distance(resampled, middles[place], middles[0]), level)
    excess = _distance(seen, middles, middles[0]) - limits
    return _ends(gaps, np.where(excess <= 1e-9 * gaps[-1] ** 2, np.minimum(excess, 0.0), excess))


def _distance(seen: np.ndarray | float, middle: np.ndarray | float, least: float) -> np.ndarray | float:
    """Squared distance of a gap from a candidate's median, less that from the nearest median that there is."""
    return (seen - middle) ** 2 - np.maximum(0.0, least - seen) ** 2


def _ends(gaps: np.ndarray, excess: np.ndarray) -> tuple[float, float]:
    """First and last gap whose excess is not above zero, interpolated."""
    kept = np.flatnonzero(excess <= 0)
    if not len(kept):  # less spread than even equal groups would show
        return 0.0, 0.0
    first, last = kept[0], kept[-1]
    low, high = gaps[first], gaps[last]
    if first > 0:
        low -= (gaps[first] - gaps[first - 1]) * excess[first] / (excess[first] - excess[first - 1])
    if last < len(gaps) - 1:
        high += (gaps[last + 1] - gaps[last]) * excess[last] / (excess[last] - excess[last + 1])
    return float(low), float(high)


def fitted_means(values: np.ndarray, variances: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Means nearest to ``values`` (n_groups,), weighted by 1/variance, whose best minus worst is each of ``gaps``.

    Returns:
        (n_gaps, n_groups).
    """
    largest = variances.max()
    weights = 1.0 / np.maximum(variances, 1e-6 * largest) if largest > 0 else np.ones_like(variances)
    ends = np.stack([np.full_like(gaps, values.min()), values.max() - gaps])
    low, high = ends.min(axis=0), ends.max(axis=0)  # of the band's lower edge
    for _ in range(BISECTIONS):
        edge = (low + high) / 2
        below = np.maximum(edge[:, None] - values, 0.0)
        above = np.maximum(values - (edge + gaps)[:, None], 0.0)
        too_high = (weights * (below - above)).sum(axis=1) >= 0
        low, high = np.where(too_high, low, edge), np.where(too_high, edge, high)
    fitted = np.clip(values, edge[:, None], (edge + gaps)[:, None])
    worst, best = int(values.argmin()), int(values.argmax())
    if worst == best:
        worst, best = 0, 1
    apart = np.flatnonzero(gaps > np.ptp(values))
    share = weights[best] / (weights[worst] + weights[best])
    further = gaps[apart] - np.ptp(values)
    fitted[apart] = values
    fitted[apart, worst] -= further * share
    fitted[apart, best] += further * (1 - share)
    return fitted
