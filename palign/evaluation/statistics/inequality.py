"""How unequal a metric is over groups: five numbers, each a function of the groups' values and nothing else.

Every function takes ``values`` (..., n_groups) and works along the last axis; NaN stands for a group that is not shown
and is left out, and a row with no value at all gives NaN. ``weights`` (..., n_groups), where taken, says how much each
group counts (default: each once). Groups counted once is fairlearn's convention too; to count people, take a frame
whose groups are the annotators.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["cvar", "cvar_influence", "gap", "gini", "gini_influence", "if_alike", "influences", "ratio", "worst"]

DEALT = 2_000_000  # judgements, over all deals


def worst(values: np.ndarray, *, higher_is_better: bool = True) -> np.ndarray:
    """The value of the worst-served group: the lowest, or the highest of a metric of which less is better."""
    values = np.asarray(values, dtype=float)
    extreme = np.where(np.isnan(values), np.inf if higher_is_better else -np.inf, values)
    extreme = extreme.min(-1) if higher_is_better else extreme.max(-1)
    return np.where(np.isnan(values).all(-1), np.nan, extreme)


def gap(values: np.ndarray) -> np.ndarray:
    """Best minus worst, in the metric's unit, never negative."""
    return worst(values, higher_is_better=False) - worst(values, higher_is_better=True)


def ratio(values: np.ndarray) -> np.ndarray:
    """Lowest over highest, in [0, 1]; NaN when a value is negative (a log-likelihood has no ratio) or all are 0."""
    lowest, highest = worst(values, higher_is_better=True), worst(values, higher_is_better=False)
    defined = (lowest >= 0) & (highest > 0)
    return np.where(defined, lowest / np.where(defined, highest, 1.0), np.nan)


def gini(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Gini coefficient, mean absolute difference of two groups over twice the mean: 0 equal, towards 1 one has all.

    NaN when a value is negative or all are 0.
    """
    values, weights = _values_and_weights(values, weights)
    order = np.argsort(values, axis=-1)
    sorted_values = np.take_along_axis(values, order, -1)
    sorted_weights = np.take_along_axis(weights, order, -1)
    total = weights.sum(-1)
    below = sorted_weights.cumsum(-1) * 2 - sorted_weights - total[..., None]
    mass = (values * weights).sum(-1)
    defined = (mass > 0) & (np.where(weights > 0, values, 0.0).min(-1) >= 0)
    product = (sorted_values * sorted_weights * below).sum(-1)
    return np.where(defined, product / np.where(defined, total * mass, 1.0), np.nan)


def cvar(
    values: np.ndarray, alpha: float = 0.1, weights: np.ndarray | None = None, *, higher_is_better: bool = True
) -> np.ndarray:
    """Conditional value at risk: the mean over the worst-served share ``alpha`` of the groups.

    A group that straddles the border counts in part, so that ``alpha=1`` is the mean and a small ``alpha`` the worst.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it is the share of worst-served groups to average over, in (0, 1].")
    values, weights = _values_and_weights(values, weights)
    order = np.argsort(values if higher_is_better else -values, axis=-1)
    sorted_values, sorted_weights = np.take_along_axis(values, order, -1), np.take_along_axis(weights, order, -1)
    budget = alpha * weights.sum(-1, keepdims=True)
    before = sorted_weights.cumsum(-1) - sorted_weights
    counted = np.clip(budget - before, 0.0, sorted_weights)
    total = counted.sum(-1)
    return np.where(total > 0, (sorted_values * counted).sum(-1) / np.where(total > 0, total, 1.0), np.nan)


def if_alike(
    values: np.ndarray, people: np.ndarray, alpha: float = 0.1, *, higher_is_better: bool = True, seed: int = 0
) -> dict[str, float]:
    """What :func:`cvar` and :func:`gini` over people's means would be if everybody were served alike.

    The judgements are dealt out anew among all, everybody keeping their number of them, and the statistics averaged
    over up to 200 deals: people of few judgements differ by chance, and only what goes beyond that is unequal service.

    Args:
        values: (n_rows,) of one metric.
        people: (n_rows,) the number of the person of each row, from 0 on.
        alpha: of `cvar`.
        higher_is_better: of the metric.
        seed: of the deals; few of them where rows are many, and each then says more.

    Returns:
        "cvar" and "gini", in the metric's unit and without one; NaN where they are not defined.
    """
    values, counts, rng = np.asarray(values, dtype=float), np.bincount(people), np.random.default_rng(seed)
    has_rows = counts > 0
    deals = []
    for _ in range(int(np.clip(DEALT // max(len(values), 1), 4, 200))):
        sums = np.bincount(people, weights=rng.permutation(values), minlength=len(counts))
        means = sums[has_rows] / counts[has_rows]
        deals.append((float(cvar(means, alpha, higher_is_better=higher_is_better)), float(gini(means))))
    return dict(zip(("cvar", "gini"), np.mean(deals, axis=0).tolist(), strict=True))


def influences(values: np.ndarray, alpha: float, higher_is_better: Sequence[bool]) -> dict[str, np.ndarray]:
    """:func:`gini_influence` and :func:`cvar_influence` of each column of (n_groups, n_metrics), under their names."""
    worst_served = [
        cvar_influence(column, alpha, higher_is_better=up)
        for column, up in zip(values.T, higher_is_better, strict=True)
    ]
    return {
        "gini": np.stack([gini_influence(column) for column in values.T], axis=1),
        "cvar": np.stack(worst_served, axis=1),
    }


def gini_influence(values: np.ndarray) -> np.ndarray:
    """Derivatives of :func:`gini` in the weights of the groups, at one each: (n_groups,) → (n_groups,), sum zero.

    Of very many groups a resample's gini is the table's plus the sum of (times drawn − 1) · influence (Davison and
    Hinkley, section 2.7.2); what is left out falls as 1/n_groups.
    """
    order = np.argsort(values)
    ordered, n, mass = values[order], len(values), values.sum()
    place = np.arange(1, n + 1)
    coefficient = (ordered * (2 * place - 1 - n)).sum() / (n * mass)
    own_and_above = mass - ordered.cumsum() + ordered
    change = ordered * (2 * place - 1 - n) + 2 * own_and_above - ordered - mass
    influence = np.empty(n)
    influence[order] = change / (n * mass) - coefficient / n - coefficient * ordered / mass
    return influence


def cvar_influence(values: np.ndarray, alpha: float = 0.1, *, higher_is_better: bool = True) -> np.ndarray:
    """The same of :func:`cvar`."""
    signed = values if higher_is_better else -values
    n = len(values)
    border = np.partition(signed, int(np.ceil(alpha * n)) - 1)[int(np.ceil(alpha * n)) - 1]
    mean = cvar(signed, alpha)
    influence = (np.minimum(signed - border, 0.0) / alpha + border - mean) / n
    return influence if higher_is_better else -influence


def _values_and_weights(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """NaN values become zeros of weight 0."""
    values = np.asarray(values, dtype=float)
    shown = ~np.isnan(values)
    weights = np.where(shown, 1.0 if weights is None else weights, 0.0)
    return np.where(shown, values, 0.0), weights
