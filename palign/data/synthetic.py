"""A population of numbers with a known truth: items, prototypes, people, and the comparisons they make.

Items and prototypes are drawn from N(0, I/dim), prototypes at least `min_gap` apart. A person is one prototype
(a type) or a mixture w of them, sits at z = w P, and likes item x by the gold utility −‖x − z‖². The defaults are
the setting of PAL's Gaussian table (Chen et al., ICLR 2025): 50 people of even types, 100 items, dim 10.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from palign.data.preferences import Preferences

__all__ = ["GaussianPopulation", "make_gaussian_population"]

CHUNK = 1_000_000  # rows whose points are held at once
MAX_DRAWS = 10_000


@dataclass(frozen=True, eq=False)
class GaussianPopulation:
    """Items, people and their truth.

    Attributes:
        items: (n_items, dim) float32; what rows name by index, ready to serve as embeddings.
        prototypes: (n_types, dim) float64.
        mixtures: (n_annotators, n_types) float64 on the simplex; one-hot where people are types.
        annotator_ids: (n_annotators,) object.
    """

    items: np.ndarray
    prototypes: np.ndarray
    mixtures: np.ndarray
    annotator_ids: np.ndarray

    @property
    def types(self) -> np.ndarray:
        """(n_annotators,) int64: everybody's type, the largest part of a mixture."""
        return self.mixtures.argmax(axis=1)

    def gold(self, annotators: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The utility (n,) that person annotators[n] has of item items[n], both as positions (n,): −‖x − z‖²."""
        annotators, items = np.asarray(annotators), np.asarray(items)
        utility = np.empty(len(annotators))
        for first in range(0, len(annotators), CHUNK):
            part = slice(first, first + CHUNK)
            points = self.mixtures[annotators[part]] @ self.prototypes
            utility[part] = -np.square(self.items[items[part]] - points).sum(axis=1)
        return utility

    def comparisons(self, n_rows: int, *, seed: int, beta: float = math.inf) -> Preferences:
        """`n_rows` pairs from everybody, two different items each, with the columns `type` and `margin`.

        Args:
            beta: inverse temperature: the first of two is chosen with probability 1 / (1 + exp(−beta (u₁ − u₂)));
                infinity is without noise.

        Returns:
            Preferences over `items`; `margin` is the true u(chosen) − u(rejected), negative where noise won.
        """
        rng = np.random.default_rng(seed)
        people = np.repeat(np.arange(len(self.mixtures)), n_rows)
        first = rng.integers(len(self.items), size=len(people))
        second = (first + rng.integers(1, len(self.items), size=len(people))) % len(self.items)
        margin = self.gold(people, first) - self.gold(people, second)
        noise = 0.0 if math.isinf(beta) else rng.logistic(size=len(people)) / beta
        first_wins = margin + noise > 0
        return Preferences.from_arrays(
            self.annotator_ids[people],
            np.where(first_wins, first, second),
            np.where(first_wins, second, first),
            columns={"type": self._type_names()[people], "margin": np.where(first_wins, margin, -margin)},
        )

    def rankings(self, n_rows: int, *, n_items: int = 4, seed: int, beta: float = math.inf) -> Preferences:
        """`n_rows` full rankings of `n_items` different items from everybody (Plackett–Luce where beta is finite)."""
        rng = np.random.default_rng(seed)
        people = np.repeat(np.arange(len(self.mixtures)), n_rows)
        drawn = np.stack([rng.choice(len(self.items), size=n_items, replace=False) for _ in people])
        utility = self.gold(np.repeat(people, n_items), drawn.ravel()).reshape(drawn.shape)
        noise = 0.0 if math.isinf(beta) else rng.gumbel(size=drawn.shape) / beta
        order = np.argsort(-(utility + noise), axis=1)
        return Preferences(
            annotator_ids=self.annotator_ids[people],
            item_indices=np.take_along_axis(drawn, order, axis=1).astype(np.int64),
            ranks=np.tile(np.arange(n_items, dtype=np.int16), (len(people), 1)),
            prompt_indices=np.full(len(people), -1, dtype=np.int64),
            columns={"type": self._type_names()[people]},
        )

    def newcomers(self, n_annotators: int, *, seed: int) -> "GaussianPopulation":
        """Other people over the same items and prototypes, each with the mixture of somebody here drawn at random."""
        drawn = np.random.default_rng(seed).integers(len(self.mixtures), size=n_annotators)
        return replace(self, mixtures=self.mixtures[drawn], annotator_ids=_names("new", n_annotators))

    def _type_names(self) -> np.ndarray:
        return _names("type_", len(self.prototypes), 0)[self.types]


def make_gaussian_population(
    *,
    n_types: int,
    n_annotators: int = 50,
    n_items: int = 100,
    dim: int = 10,
    min_gap: float = 0.8,
    type_shares: Sequence[float] | None = None,
    concentration: float | None = None,
    seed: int,
) -> GaussianPopulation:
    """Draw a population.

    Args:
        min_gap: least distance between two prototypes; the set is drawn again until it holds.
        type_shares: (n_types,) how often each type occurs; even if None.
        concentration: None makes everybody one type; a number makes mixtures from
            Dirichlet(concentration · n_types · type_shares), below 1 near the corners.

    Raises:
        ValueError: counts below 1 (items below 2), shares that are no distribution, or no set of prototypes so far
            apart in 10,000 draws.
    """
    shares = np.full(n_types, 1 / n_types) if type_shares is None else np.asarray(type_shares, dtype=float)
    if min(n_types, n_annotators, dim) < 1 or n_items < 2:
        raise ValueError(
            f"A population needs at least one type, annotator and dimension, and two items; given were "
            f"n_types={n_types}, n_annotators={n_annotators}, dim={dim}, n_items={n_items}."
        )
    if shares.shape != (n_types,) or (shares < 0).any() or not np.isclose(shares.sum(), 1):
        raise ValueError(f"type_shares must be {n_types} numbers that sum to 1, not {type_shares}.")
    rng = np.random.default_rng(seed)
    items = (rng.normal(size=(n_items, dim)) / math.sqrt(dim)).astype(np.float32)
    prototypes = _prototypes_apart(rng, n_types, dim, min_gap)
    if concentration is None:
        mixtures = np.eye(n_types)[rng.choice(n_types, size=n_annotators, p=shares)]
    else:
        mixtures = rng.dirichlet(concentration * n_types * shares, size=n_annotators)
    return GaussianPopulation(items, prototypes, mixtures, _names("a", n_annotators))


def _prototypes_apart(rng: np.random.Generator, n_types: int, dim: int, min_gap: float) -> np.ndarray:
    largest = 0.0
    for _ in range(MAX_DRAWS):
        prototypes = rng.normal(size=(n_types, dim)) / math.sqrt(dim)
        gaps = np.linalg.norm(prototypes[:, None] - prototypes[None], axis=2)[np.triu_indices(n_types, 1)]
        if n_types == 1 or gaps.min() >= min_gap:
            return prototypes
        largest = max(largest, float(gaps.min()))
    raise ValueError(
        f"No {n_types} prototypes in {dim} dimensions are {min_gap} apart in {MAX_DRAWS} draws; {largest:.2f} was "
        "reached. Take a smaller min_gap, fewer types or more dimensions."
    )


def _names(prefix: str, n: int, width: int = 4) -> np.ndarray:
    return np.fromiter((f"{prefix}{number:0{width}d}" for number in range(n)), dtype=object, count=n)
