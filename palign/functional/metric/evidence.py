"""How much of a metric can be known from who was asked what: a count of equations, before anything is fitted.

Each person's v_k is unknown: it takes up as many of their answers as the differences of their pairs have dimensions.
What is left over speaks of the metric, and of nothing else. In general position that is nothing where nobody answers
more often than the items have dimensions; where items lie in few subspaces, a person's differences within one of them
have few dimensions, and answers are left over. Source: Wang, So and Vinayak, *Metric Learning from Limited Pairwise
Preference Comparisons* (UAI 2024; arXiv 2403.19629), sections 3 and 4; the count itself is linear algebra.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["MetricEvidence", "effective_basis", "metric_evidence"]

LEAST_SHARE = 1e-3  # of the largest singular value: what is below it is noise of the vectors
TOLERANCE = 1e-4  # relative, of singular values: vectors are kept in 32 bits
MOST_DIMENSIONS = 24  # up to which the rank of the equations is taken, and not only their number
MOST_PEOPLE = 3000  # who are looked at


@dataclass(frozen=True)
class MetricEvidence:
    """What is there to learn a metric from.

    Attributes:
        dim: dimensions that the items span.
        n_unknown: dim · (dim + 1) / 2, numbers of a symmetric matrix.
        n_equations: answers that are left over after everybody's v_k.
        rank: how many of the unknown numbers the equations determine; at most `n_unknown`. Of more than 24 dimensions
            it is the smaller of the two counts, which it cannot exceed.
        median_answers: pairs of the median person.
        share_above: of people with more pairs than dimensions.
    """

    dim: int
    n_unknown: int
    n_equations: int
    rank: int
    median_answers: float
    share_above: float

    @property
    def case(self) -> str:
        """`general` (all of it can be known), `subspaces` (something, though nobody answered often enough for a
        general metric), `part` (some of it) or `nothing`.
        """
        if self.rank == 0:
            return "nothing"
        if self.share_above == 0:
            return "subspaces"
        return "general" if self.rank >= self.n_unknown else "part"


def effective_basis(vectors: np.ndarray) -> np.ndarray:
    """(hidden, dim) orthonormal: the directions that vectors (n, hidden) take, about their mean."""
    centred = np.asarray(vectors, dtype=np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    return directions[: int((values > LEAST_SHARE * max(values[0], 1e-300)).sum())].T if len(values) else directions.T


def metric_evidence(
    items: np.ndarray, winner: np.ndarray, loser: np.ndarray, person: np.ndarray, *, seed: int = 0
) -> MetricEvidence:
    """Count what answers say of a metric.

    Args:
        items: (n_items, dim), in coordinates that they span (`effective_basis`).
        winner, loser: (n,) int64 into them.
        person: (n,) int64.
        seed: of the people who are looked at, where there are more than 3,000.
    """
    dim = items.shape[1]
    names, person, counts = np.unique(person, return_inverse=True, return_counts=True)
    looked = np.arange(len(names))
    if len(names) > MOST_PEOPLE:
        looked = np.random.default_rng(seed).choice(len(names), MOST_PEOPLE, replace=False)
    order = np.argsort(person, kind="stable")
    ends = np.cumsum(counts)
    exact, n_unknown = dim <= MOST_DIMENSIONS, dim * (dim + 1) // 2
    gram, left = np.zeros((n_unknown, n_unknown) if exact else (0, 0)), 0
    for k in looked:
        rows = order[ends[k] - counts[k] : ends[k]]
        first, second = items[loser[rows]], items[winner[rows]]
        directions, values, _ = np.linalg.svd(first - second, full_matrices=True)
        rank = int((values > TOLERANCE * max(values[0], 1e-300)).sum()) if len(values) else 0
        left += len(rows) - rank
        if exact and rank < len(rows):
            equations = directions[:, rank:].T @ (_squares(first) - _squares(second))
            gram += equations.T @ equations
    scale = len(names) / max(len(looked), 1)
    n_equations, rank = round(left * scale), min(round(left * scale), n_unknown)
    if exact and rank:
        values = np.linalg.eigvalsh(gram)
        rank = int((values > TOLERANCE**2 * values[-1]).sum()) if values[-1] > 1e-20 else 0
    return MetricEvidence(dim, n_unknown, n_equations, rank, float(np.median(counts)), float((counts > dim).mean()))


def _squares(vectors: np.ndarray) -> np.ndarray:
    """(n, dim) → (n, dim (dim + 1) / 2): x xᵀ as coordinates whose inner product is that of matrices."""
    rows, columns = np.triu_indices(vectors.shape[1])
    return vectors[:, rows] * vectors[:, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))
