"""Candidates elected by people's utilities: what a vote would choose, beside what min-max regret does.

Borda (1784) counts whom a candidate beats on each ballot, Copeland (1951) whom it beats by majority. Neither asks how
much anybody loses: a majority can elect what a minority loses most by.
"""

import numpy as np

__all__ = ["borda", "copeland"]


def borda(utilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Points (n_candidates,) in [0, 1]: the mean share of the others that a candidate beats on a ballot, ties a half.

    Args:
        utilities: (n_voters, n_candidates); each row is a ballot, and of it the order alone counts.
        weights: (n_voters,) of ballots; None is one for each.
    """
    return _beaten(utilities, weights).sum(1) / max(1, np.shape(utilities)[1] - 1)


def copeland(utilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Points (n_candidates,) in [0, 1]: the share of the others that a majority puts below a candidate, ties one half;
    arguments as of `borda`."""
    beaten = _beaten(utilities, weights)
    margin = np.round(beaten - beaten.T, 12)
    wins = (margin > 0) + 0.5 * (margin == 0)
    np.fill_diagonal(wins, 0.0)
    return wins.sum(1) / max(1, len(wins) - 1)


def _beaten(utilities: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """(n_candidates, n_candidates): the weighed share of ballots on which the first is above the second, ties half."""
    utilities = np.asarray(utilities, dtype=float)
    if utilities.ndim != 2 or not utilities.size or not np.isfinite(utilities).all():
        raise ValueError(
            f"utilities have shape {utilities.shape}; (n_voters, n_candidates) of finite numbers, one of each at "
            "least, is needed."
        )
    weights = np.ones(len(utilities)) if weights is None else np.asarray(weights, dtype=float)
    if weights.shape != (len(utilities),) or not (weights >= 0).all() or not weights.sum() > 0:
        raise ValueError(f"weights must be {len(utilities)} numbers, 0 or more and not all 0.")
    above = utilities[:, :, None] - utilities[:, None, :]
    shares = (above > 0) + 0.5 * (above == 0)
    beaten = np.tensordot(weights / weights.sum(), shares, axes=1)
    np.fill_diagonal(beaten, 0.0)
    return beaten
