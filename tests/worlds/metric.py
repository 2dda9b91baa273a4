"""Small worlds for metrics: pairs of people who measure by a planted one."""

import torch
from torch import Tensor

from palign.data.preferences import Preferences
from palign.data.synthetic_metric import MetricPopulation
from palign.functional.metric.comparisons import Comparisons

__all__ = ["pairs_of", "tiny_pairs"]


def pairs_of(people: MetricPopulation, rows: Preferences) -> Comparisons:
    """Rows of a population as pairs."""
    person = torch.from_numpy(rows.annotators().indices(rows.annotator_ids))
    items = torch.from_numpy(rows.item_indices)
    weight = torch.ones(len(rows), dtype=torch.float64)
    vectors = torch.from_numpy(people.items).double()
    return Comparisons(vectors, items[:, 0], items[:, 1], person, len(people.points), weight)


def tiny_pairs(n: int = 12, dim: int = 2, n_people: int = 2, *, seed: int = 0) -> Comparisons:
    """Pairs at random, with weights."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(6, dim, generator=generator, dtype=torch.float64)
    winner: Tensor = torch.randint(6, (n,), generator=generator)
    loser = (winner + torch.randint(1, 6, (n,), generator=generator)) % 6
    person = torch.arange(n) % n_people
    weight = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64)
    return Comparisons(items, winner, loser, person, n_people, weight)
