"""What held-out votes say of a policy: how often people of a type would prefer its texts to what they were shown.

Of texts that were judged side by side a policy would have written some rather than others. With weights w = π / π_ref,
the policy's share of wins among people of type i is

    V_i(π) = Σ_texts w · (share of the others in its row that the text beat) / Σ_texts w,

self-normalised importance weighting: the chance that a person of the type prefers a text that π writes to one they
were shown. The reference gets ½. It takes the judged texts for draws of the reference; where others wrote them, it
compares policies on such texts. Weights are cut at √n times their mean (Ionides 2008), since a few texts would decide
else. How many texts decide is the effective number (Σw)² / Σw². No type's policy judges here.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["LEAST_PEOPLE", "LEAST_TEXTS", "VoteShares", "vote_shares"]

LEAST_PEOPLE = 5  # of every type, for a choice by votes
LEAST_TEXTS = 30  # that decide (effective number), for every route and type


@dataclass(frozen=True)
class VoteShares:
    """Of one policy, by type; NaN where nobody of it voted.

    Attributes:
        shares: (n_types,) in [0, 1].
        draws: (n_draws, n_types) the same on people drawn with replacement, the same people for every policy.
        n_texts: (n_types,) effective number of texts.
        n_people: (n_types,) who voted.
    """

    shares: np.ndarray
    draws: np.ndarray
    n_texts: np.ndarray
    n_people: np.ndarray


def vote_shares(
    log_ratios: np.ndarray, ranks: np.ndarray, people: np.ndarray, types: np.ndarray, *, n_types: int, n_draws: int,
    seed: int,
) -> VoteShares:  # fmt: skip
    """V_i of one policy, and of people resampled.

    Args:
        log_ratios: (n_rows, max_items) log π − log π_ref of the judged texts, nats.
        ranks: likewise, 0 is best, equal is a tie, −1 is padding.
        people: (n_rows,) number of the voter.
        types: (n_rows,) their type; −1 is not sure, and does not count.
        n_types, n_draws, seed: of the table and of the draws.
    """
    beaten = _shares_beaten(ranks)
    parts = [_of_type(log_ratios, ranks >= 0, beaten, people, types == k, n_draws, seed + k) for k in range(n_types)]
    return VoteShares(*(np.stack([part[i] for part in parts], -1) for i in range(4)))


def _shares_beaten(ranks: np.ndarray) -> np.ndarray:
    """(n_rows, max_items) share of the other texts of the row that stand behind; a tie is half."""
    a, b = ranks[:, :, None], ranks[:, None, :]
    is_pair = (a >= 0) & (b >= 0) & ~np.eye(ranks.shape[1], dtype=bool)
    wins = ((a < b) + 0.5 * (a == b)) * is_pair
    return wins.sum(-1) / np.maximum(is_pair.sum(-1), 1)


def _of_type(
    log_ratios: np.ndarray, is_text: np.ndarray, beaten: np.ndarray, people: np.ndarray, is_type: np.ndarray,
    n_draws: int, seed: int,
) -> tuple[float, np.ndarray, float, int]:  # fmt: skip
    """Share, its draws, effective texts, people."""
    is_text = is_text & is_type[:, None]
    if not is_text.any():
        return np.nan, np.full(n_draws, np.nan), 0.0, 0
    logs = log_ratios[is_text]
    weights = np.exp(logs - logs.max())
    weights = np.minimum(weights, np.sqrt(len(weights)) * weights.mean())
    voters, person = np.unique(np.broadcast_to(people[:, None], is_text.shape)[is_text], return_inverse=True)
    wins, all_of = (np.bincount(person, x, len(voters)) for x in (weights * beaten[is_text], weights))
    counts = np.random.default_rng(seed).multinomial(len(voters), np.full(len(voters), 1 / len(voters)), n_draws)
    draws = (counts @ wins) / np.maximum(counts @ all_of, 1e-300)
    return wins.sum() / all_of.sum(), draws, weights.sum() ** 2 / np.square(weights).sum(), len(voters)
