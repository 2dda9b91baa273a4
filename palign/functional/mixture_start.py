"""Where EM over annotators may begin. Uniform responsibilities are a fixed point, exactly: no start may be near them.

`spectral_start` sums up each person by what they prefer: the mean, over the stages of their rows, of what the winner's
features exceed the mean of the beaten by. Types differ in the mean of that vector, along few directions. It is
whitened by how items of a stage scatter, reduced by a singular value decomposition and parted by k-means++ (Arthur
and Vassilvitskii 2007), a person weighing as much as they have stages. One-hot features make it a table of net wins.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from palign.functional.evidence.votes import Votes
from palign.functional.losses import strictly_below

__all__ = ["Stages", "find_stages", "kmeans", "net_wins", "random_start", "soften", "spectral_start"]

OWN_SHARE = 0.9  # of a person, on the cluster they are in
MOMENT_STAGES = 50_000  # enough for a second moment
MAX_DENSE = 50_000_000  # entries of that sample: stages times dim
LLOYD_STEPS = 50
LEAST_MOMENT = 1e-6  # of a direction of standardized features: what hardly varies is not blown up further


@dataclass(frozen=True)
class Stages:
    """The stages of some rankings: a winner and those it beat.

    Attributes:
        winner: (n_stages,) int64 into the features.
        losers: (n_stages, n_losers) int64 into the features; what stands at padding is not read.
        absent: (n_stages, n_losers) bool, True at padding.
        annotator: (n_stages,) int64, whose they are.
        n_annotators: how many people there are, also those without a stage.
        weight: (n_stages,) float64, what a stage counts for (`palign.functional.evidence.components`); None is 1 each.
    """

    winner: Tensor
    losers: Tensor
    absent: Tensor
    annotator: Tensor
    n_annotators: int
    weight: Tensor | None = None

    def counts(self) -> Tensor:
        """(n_annotators,) int64: stages of each person."""
        return torch.bincount(self.annotator, minlength=self.n_annotators)


def find_stages(votes: Votes, row_weights: Tensor | None = None) -> Stages:
    """Rows as stages.

    Args:
        votes: rows that tie everything have no stage.
        row_weights: (rows,) what a row counts for, its stages with it; 1 each if None.
    """
    beaten = strictly_below(votes.ranks)
    row, winner = beaten.any(-1).nonzero(as_tuple=True)
    lost = beaten[row, winner]
    n_losers = int(lost.sum(1).max()) if len(row) else 1
    places = lost.byte().argsort(dim=1, descending=True, stable=True)[:, :n_losers]
    items = votes.item_indices.long()[row]
    return Stages(
        items.gather(1, winner[:, None])[:, 0],
        items.gather(1, places),
        ~lost.gather(1, places),
        votes.annotator_index.long()[row],
        votes.n_annotators,
        None if row_weights is None else row_weights.double()[row],
    )


def net_wins(features: Tensor, stages: Stages) -> Tensor:
    """(n_annotators, dim) float64: mean over a person's stages of winner − mean of the beaten; 0 without stages."""
    n_stages, n_losers = stages.losers.shape
    present = (~stages.absent).double()
    share = -(present / present.sum(1, keepdim=True)) / stages.counts()[stages.annotator, None]
    share = torch.cat([share, 1 / stages.counts()[stages.annotator, None].double()], 1)
    items = torch.cat([stages.losers, stages.winner[:, None]], 1)
    owners = stages.annotator[:, None].expand(n_stages, n_losers + 1)
    table = sparse.csr_array(
        (share.flatten().numpy(), (owners.flatten().numpy(), items.flatten().numpy())),
        shape=(stages.n_annotators, len(features)),
    )
    return torch.from_numpy(table @ features.double().numpy())


def spectral_start(
    features: Tensor,
    stages: Stages,
    n_types: int,
    *,
    seed: int = 0,
    nkmeans: int = 20,
    n_components: int | None = None,
) -> Tensor:
    """Responsibilities from clusters of people: `OWN_SHARE` on a person's cluster, the rest spread evenly.

    Args:
        features: (n_item_vectors, dim).
        stages: of the rankings (`find_stages`).
        n_types: at most the number of annotators who have a stage.
        seed: of k-means++; the result is the same for the same seed.
        nkmeans: runs of k-means, of which the best is kept.
        n_components: directions kept; n_types if None, one for each difference between types and one to spare.

    Returns:
        (n_annotators, n_types) float64. People without a stage get equal shares.
    """
    counts = stages.counts()
    known = counts > 0
    _check_n_types(n_types, int(known.sum()))
    if n_types == 1:
        return torch.ones(stages.n_annotators, 1, dtype=torch.float64)
    wins = net_wins(features, stages)[known] @ _whitening(features, stages)
    weights = counts[known].double()
    wins = wins - (weights @ wins) / weights.sum()
    scaled = weights.sqrt()[:, None] * wins
    n_components = min(n_types if n_components is None else n_components, *wins.shape)
    directions = torch.linalg.svd(scaled, full_matrices=False)[2][:n_components]
    clusters = torch.zeros(stages.n_annotators, dtype=torch.int64)
    clusters[known] = kmeans(wins @ directions.T, weights, n_types, np.random.default_rng(seed), nkmeans)
    return soften(clusters, n_types).masked_fill(~known[:, None], 1 / n_types)


def random_start(n_annotators: int, n_types: int, *, seed: int) -> Tensor:
    """Responsibilities of a random partition into parts of equal size, softened: (n_annotators, n_types)."""
    _check_n_types(n_types, n_annotators)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n_annotators))
    return soften(order % n_types, n_types)


def soften(clusters: Tensor, n_types: int, own_share: float = OWN_SHARE) -> Tensor:
    """(n_annotators,) int64 clusters → (n_annotators, n_types): `own_share` on the cluster, the rest spread evenly."""
    one_hot = F.one_hot(clusters, n_types).double()
    return one_hot if n_types == 1 else one_hot * own_share + (1 - one_hot) * (1 - own_share) / (n_types - 1)


def _check_n_types(n_types: int, n_known: int) -> None:
    if not 1 <= n_types <= n_known:
        raise ValueError(
            f"n_types is {n_types} and {n_known} annotators judged anything; it must lie between 1 and that number."
        )


def _whitening(features: Tensor, stages: Stages) -> Tensor:
    """(dim, dim) inverse root of the scatter of items around the mean of their stage, shrunk to its diagonal.

    Of items, not of winner − beaten: that has the types in it, and with a row or two each would whiten them away.
    """
    dim, n_items = features.shape[1], 1 + stages.losers.shape[1]
    n = min(len(stages.winner), MOMENT_STAGES, max(dim, MAX_DENSE // (dim * n_items)))
    some = torch.linspace(0, len(stages.winner) - 1, n).long()
    items = features[torch.cat([stages.winner[some, None], stages.losers[some]], 1)].double()
    present = F.pad(~stages.absent[some], (1, 0), value=True)
    mean = (items * present[..., None]).sum(1) / present.sum(1, keepdim=True)
    gaps = (items - mean[:, None])[present]
    scale = gaps.square().mean(0).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    n = len(gaps)
    shrinkage = dim / (dim + n)
    moment = (1 - shrinkage) * (gaps / scale).T @ (gaps / scale) / n + shrinkage * torch.eye(dim, dtype=gaps.dtype)
    values, vectors = torch.linalg.eigh(moment)
    return (vectors * values.clamp_min(LEAST_MOMENT).rsqrt() @ vectors.T) / scale[:, None]


def kmeans(points: Tensor, weights: Tensor, n_types: int, rng: np.random.Generator, n_runs: int) -> Tensor:
    """(n,) clusters of weighted points, the best of some runs from k-means++ seeds."""
    best, least = None, float("inf")
    for _ in range(n_runs):
        centres = _plus_plus(points, weights, n_types, rng)
        for _ in range(LLOYD_STEPS):
            distances = torch.cdist(points, centres).square()
            errors, clusters = distances.min(1)
            mass = F.one_hot(clusters, n_types).double() * weights[:, None]
            total = mass.sum(0)
            # a centre that lost everybody moves to the point that is worst served
            moved = torch.where(
                total[:, None] > 0,
                (mass.T @ points) / total.clamp_min(1e-300)[:, None],
                points[(errors * weights).argmax()],
            )
            if torch.allclose(moved, centres, rtol=1e-9, atol=1e-12):
                break
            centres = moved
        inertia = float((errors * weights).sum())
        if inertia < least:
            best, least = clusters, inertia
    return best


def _plus_plus(points: Tensor, weights: Tensor, n_types: int, rng: np.random.Generator) -> Tensor:
    """Centres among the points, each far from those before it."""
    chosen = [rng.choice(len(points), p=(weights / weights.sum()).numpy())]
    while len(chosen) < n_types:
        mass = torch.cdist(points, points[chosen]).min(1).values.square() * weights
        mass[chosen] = 0
        if not float(mass.sum()) > 0:
            mass = weights.clone()
            mass[chosen] = 0
        chosen.append(rng.choice(len(points), p=(mass / mass.sum()).numpy()))
    return points[chosen]
