"""People who measure by one planted metric, each from an ideal point of their own; items anywhere or in subspaces.

Items and ideal points are drawn from N(0, I/dim), as in the simulations of Canal et al. (NeurIPS 2022; arXiv
2207.03609), section 5. The metric is L Lᵀ, L (dim, rank) of normal entries, of trace dim · `sharpness`.
"""

from dataclasses import dataclass

import numpy as np

from palign.data.preferences import Preferences

__all__ = ["MetricPopulation", "make_metric_population"]


@dataclass(frozen=True, eq=False)
class MetricPopulation:
    """Items, people and their truth.

    Attributes:
        items: (n_items, dim) float32; what rows name by index.
        metric: (dim, dim) float64, positive semidefinite, in logits for each squared unit.
        points: (n_annotators, dim) float64, ideal points.
        subspaces: (n_items,) int64, the subspace of each item; −1 where items lie anywhere.
    """

    items: np.ndarray
    metric: np.ndarray
    points: np.ndarray
    subspaces: np.ndarray

    def utilities(self, people: np.ndarray, items: np.ndarray) -> np.ndarray:
        """−‖item − point‖²_M (n,) of people (n,) for items (n,), both as positions; logits."""
        gaps = self.items[items].astype(np.float64) - self.points[people]
        return -((gaps @ self.metric) * gaps).sum(axis=1)

    def comparisons(self, n_rows: int, *, seed: int, noisy: bool = True) -> Preferences:
        """`n_rows` pairs of different items from everybody; where items lie in subspaces, everybody is asked within
        one of them, drawn for each person.

        Args:
            noisy: the better one is chosen with probability 1 / (1 + exp(−margin)); else always.

        Returns:
            Preferences over `items`, with the column `margin`, the true one of chosen over rejected.
        """
        rng = np.random.default_rng(seed)
        n_people = len(self.points)
        people = np.repeat(np.arange(n_people), n_rows)
        if self.subspaces[0] < 0:
            pools = [np.arange(len(self.items))]
        else:
            pools = [np.flatnonzero(self.subspaces == s) for s in range(self.subspaces.max() + 1)]
        pool_of = rng.integers(len(pools), size=n_people)[people]
        sizes = np.array([len(pool) for pool in pools])[pool_of]
        first = rng.integers(sizes)
        second = (first + 1 + rng.integers(sizes - 1)) % sizes
        table = np.full((len(pools), max(map(len, pools))), -1)
        for number, pool in enumerate(pools):
            table[number, : len(pool)] = pool
        first, second = table[pool_of, first], table[pool_of, second]
        margin = self.utilities(people, first) - self.utilities(people, second)
        wins = margin + (rng.logistic(size=len(margin)) if noisy else 0.0) > 0
        names = np.array([f"a{number:04d}" for number in range(n_people)], dtype=object)
        return Preferences.from_arrays(
            names[people], np.where(wins, first, second), np.where(wins, second, first),
            columns={"margin": np.where(wins, margin, -margin)},
        )  # fmt: skip


def make_metric_population(
    *,
    n_annotators: int,
    dim: int = 10,
    rank: int | None = None,
    n_items: int = 100,
    n_subspaces: int = 0,
    subspace_dim: int = 2,
    sharpness: float = 10.0,
    seed: int,
) -> MetricPopulation:
    """Draw a population.

    Args:
        rank: of the metric; `dim` if None.
        n_subspaces: 0 puts items anywhere; else each lies in one of so many subspaces of `subspace_dim` dimensions.
        sharpness: mean eigenvalue of the metric; the larger, the less noise is in choices.

    Raises:
        ValueError: counts below 1, fewer than two items to a subspace, a rank or subspace above `dim`.
    """
    rank = dim if rank is None else rank
    if min(n_annotators, dim, rank) < 1 or n_items < 2 * max(n_subspaces, 1) or max(rank, subspace_dim) > dim:
        raise ValueError(
            "A population needs a person, a dimension, a rank of 1 to dim, and two items to a subspace of at most "
            f"dim dimensions; given were n_annotators={n_annotators}, dim={dim}, rank={rank}, n_items={n_items}, "
            f"n_subspaces={n_subspaces}, subspace_dim={subspace_dim}."
        )
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, rank))
    metric = root @ root.T
    metric *= dim * sharpness / np.trace(metric)
    subspaces = np.full(n_items, -1)
    items = rng.normal(size=(n_items, dim)) / np.sqrt(dim)
    if n_subspaces:
        subspaces = np.arange(n_items) % n_subspaces
        bases = np.stack([np.linalg.qr(rng.normal(size=(dim, subspace_dim)))[0] for _ in range(n_subspaces)])
        items = np.einsum("ndr,nr->nd", bases[subspaces], rng.normal(size=(n_items, subspace_dim)))
        items /= np.sqrt(subspace_dim)
    points = rng.normal(size=(n_annotators, dim)) / np.sqrt(dim)
    return MetricPopulation(items.astype(np.float32), metric, points, subspaces)
