"""A person's own quadratic terms beside the metric that all share: for people who answered often, and do not measure
as the others do. They are shrunk to nothing, and taken where rows held out are surely likelier with them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from palign.functional.metric.choice import deal_rows
from palign.functional.metric.comparisons import Comparisons, Loss, rewards
from palign.functional.metric.fit import MetricFit
from palign.functional.metric.regressions import fit_each
from palign.pipelines.metric_baselines import quadratic_features

__all__ = ["PersonalTerms", "choose_personal"]

RIDGES = (16.0, 4.0, 1.0, 0.25, 0.0625)
N_PARTS = 3
SURE = 2.0  # errors, resampling people
LEAST_GAIN = 0.03  # of the loss without own terms; less does not count
MOST_NUMBERS = 5_000_000  # of everybody's terms: not for very many people or dimensions


@dataclass(frozen=True, eq=False)
class PersonalTerms:
    """What held-out rows chose.

    Attributes:
        people: (n_people, dim), in place of those of the fit.
        squares: (n_people, dim, dim) symmetric, beside the metric.
        ridge: of the quadratic terms.
        gain: nats a row that held-out rows were likelier, and its error.
    """

    people: Tensor
    squares: Tensor
    ridge: float
    gain: tuple[float, float]


def choose_personal(
    pairs: Comparisons,
    row: Tensor,
    fit: MetricFit,
    refit: Callable[[Comparisons], MetricFit],
    precision: Callable[[MetricFit], Tensor],
    *,
    seed: int = 0,
) -> PersonalTerms | None:
    """Terms for everybody, or None where held-out rows are not surely likelier with them.

    Args:
        row: (n,) which row each pair is of.
        fit: on all pairs; refit: the same on some of them.
        precision: (dim, dim) of the prior on people, out of a fit.
    """
    if pairs.n_people * pairs.dim * pairs.dim > MOST_NUMBERS:
        return None
    parts = deal_rows(pairs.person, row, N_PARTS, seed=seed)
    losses = {ridge: torch.zeros(len(pairs), dtype=torch.float64) for ridge in (None, *RIDGES)}
    for part in range(N_PARTS):
        kept, held = pairs.select(parts != part), pairs.select(parts == part)
        trial = refit(kept)
        losses[None][parts == part] = Loss.LOGISTIC.values(held.margins(trial.parameters))
        for ridge in RIDGES:
            people, squares = _fit(kept, trial, precision(trial), ridge)
            margins = _margins(held, trial, people, squares)
            losses[ridge][parts == part] = Loss.LOGISTIC.values(margins)
    ridge = min(RIDGES, key=lambda one: float((pairs.weight * losses[one]).sum()))
    gain = pairs.weight * (losses[None] - losses[ridge])
    of_person = np.bincount(pairs.person.numpy(), gain.numpy(), minlength=pairs.n_people)
    total = float(pairs.weight.sum())
    mean, error = of_person.sum() / total, of_person.std() * len(of_person) ** 0.5 / total
    without = float((pairs.weight * losses[None]).sum()) / total
    if mean <= max(SURE * error, LEAST_GAIN * without):
        return None
    people, squares = _fit(pairs, fit, precision(fit), ridge)
    return PersonalTerms(people, squares, ridge, (float(mean), float(error)))


def _fit(pairs: Comparisons, fit: MetricFit, precision: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """People (n, dim) and their squares (n, dim, dim) beside the metric of a fit."""
    values, directions = torch.linalg.eigh(precision)
    root = directions / values.clamp_min(1e-9).sqrt()  # in whose coordinates the linear part's prior is normal(0, 1)
    features = torch.cat([pairs.items @ root, quadratic_features(pairs.items)[:, pairs.dim :] / ridge**0.5], 1)
    liked = rewards(pairs.items, fit.metric, fit.parameters.shared)
    weights = fit_each(replace(pairs, items=features, item_rewards=liked), torch.ones(features.shape[1]).double())
    rows, columns = torch.triu_indices(pairs.dim, pairs.dim)
    size = torch.where(rows == columns, 0.5, 0.5**0.5).double() / ridge**0.5
    squares = torch.zeros(pairs.n_people, pairs.dim, pairs.dim, dtype=torch.float64)
    squares[:, rows, columns] = weights[:, pairs.dim :] * size
    return weights[:, : pairs.dim] @ root.T, squares + squares.mT


def _margins(pairs: Comparisons, fit: MetricFit, people: Tensor, squares: Tensor) -> Tensor:
    """(n,) with own terms."""

    def of(items: Tensor) -> Tensor:
        points = pairs.items[items]
        personal = torch.einsum("nd,nde,ne->n", points, squares[pairs.person], points)
        return rewards(points, fit.metric, fit.parameters.shared + people[pairs.person]) - personal

    return of(pairs.winner) - of(pairs.loser)
