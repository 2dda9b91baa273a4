"""Whether a policy orders the held-out votes of the type it serves worst better than another one: a paired interval.

The same people are drawn again for every policy, so that what people share falls out of the difference. The least of
several accuracies is too low, the more so the nearer they are, and percentiles of its bootstrap are twice so. Types
are compared one by one instead. With worst types min_k a_k of one policy and min_j b_j of the other,

    min_k (a_k − b_j)  ≤  min_k a_k − min_j b_j  ≤  max_j (a_k − b_j)     for every type j on the left, k on the right,

and each a_k − b_j is a difference of means, with a Student interval of its own, as a type may have few people. The
best such bound is taken, at a level divided by the number of types it was picked from (Bonferroni): the interval may
be wide, and it holds however near the types are.
"""

import numpy as np
from scipy.stats import t as student

from palign.models.files.game_keys import Ends

__all__ = ["VoteAccuracies", "worst_gap"]

LEVEL = 0.95


class VoteAccuracies:
    """Share of pairs ordered as people did, by type, and the same on people drawn again.

    Args:
        right, n_pairs: (n_rows,) pairs ordered as the person did, and strictly ordered pairs.
        people: (n_rows,) number of the voter.
        types: (n_rows,) their type; −1 is not sure, and does not count.
        n_types, n_draws, seed: the draws of a type are the same for every policy of the same rows.

    Attributes:
        values: (n_types,), NaN where nobody of the type ordered a pair.
        draws: (n_draws, n_types).
        n_people: (n_types,) who ordered a pair.
    """

    def __init__(
        self, right: np.ndarray, n_pairs: np.ndarray, people: np.ndarray, types: np.ndarray, *, n_types: int,
        n_draws: int, seed: int,
    ):  # fmt: skip
        self.values, self.draws = np.full(n_types, np.nan), np.full((n_draws, n_types), np.nan)
        self.n_people = np.zeros(n_types, int)
        for k in range(n_types):
            rows = (types == k) & (n_pairs > 0)
            if not rows.any():
                continue
            voters, person = np.unique(people[rows], return_inverse=True)
            hits, asked = (np.bincount(person, x[rows], len(voters)) for x in (right, n_pairs))
            shares = np.full(len(voters), 1 / len(voters))
            counts = np.random.default_rng(seed + k).multinomial(len(voters), shares, n_draws)
            self.values[k], self.draws[:, k] = hits.sum() / asked.sum(), (counts @ hits) / (counts @ asked)
            self.n_people[k] = len(voters)


def worst_gap(ours: VoteAccuracies, theirs: VoteAccuracies, *, level: float = LEVEL) -> Ends | None:
    """Accuracy on the votes of the type served worst, of one policy less that of another; None where nobody voted.

    Args:
        ours, theirs: of the same rows, draws and seed. Types without votes are left out.
        level: coverage aimed at; the real one is larger.
    """
    known = np.isfinite(ours.values) & np.isfinite(theirs.values)
    if not known.any():
        return None
    a, b, n_people = ours.values[known], theirs.values[known], ours.n_people[known]
    gaps = a[:, None] - b  # (ours, theirs)
    noise = (ours.draws[:, known, None] - theirs.draws[:, None, known]).std(0)
    fewest = np.minimum(n_people[:, None], n_people)
    tail = (1 - level) / 2 / len(a)
    half = student.ppf(1 - tail, np.maximum(fewest - 1, 1)) * noise * np.sqrt(fewest / np.maximum(fewest - 1, 1))
    half = np.where(fewest > 1, half, np.inf)  # one person says nothing of the others
    low, high = (gaps - half).min(0).max(), (gaps + half).max(1).min()
    return {"value": float(a.min() - b.min()), "low": max(float(low), -1.0), "high": min(float(high), 1.0)}
