"""What one metric for all must beat: one regression for everybody, and one of each person's own, without and with
quadratic terms. Each is a logistic regression held by a ridge that rows held out chose, like the metric's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from palign.functional.metric.choice import choose_strengths
from palign.functional.metric.comparisons import Comparisons, Loss, Parameters
from palign.functional.metric.fit import MetricFit
from palign.functional.metric.points import fit_people, rows_or_zero
from palign.functional.metric.regressions import fit_each

__all__ = ["BASELINES", "Baseline", "fit_baseline", "quadratic_features"]

START = (1.0,)
Features = Callable[[Tensor], Tensor]


def quadratic_features(points: Tensor) -> Tensor:
    """(n, dim) → (n, dim + dim (dim + 1) / 2): the coordinates and their products, with the inner product of x xᵀ."""
    rows, columns = torch.triu_indices(points.shape[1], points.shape[1])
    size = torch.where(rows == columns, 1.0, 2**0.5).to(points)
    return torch.cat([points, points[:, rows] * points[:, columns] * size], 1)


@dataclass(frozen=True)
class Baseline:
    """A fitted regression: what it reads of an item, (n, dim) → (n, width), and everybody's weights (n_people, width);
    of a regression for all a single row.
    """

    features: Features
    weights: Tensor

    def scores(self, points: Tensor, person: Tensor) -> Tensor:
        """Rewards (n, max_items) of points (n, max_items, dim) for people (n,); −1 is somebody unknown, scored 0."""
        flat = self.features(points.flatten(0, 1).double()).unflatten(0, points.shape[:2])
        if len(self.weights) == 1:
            return -(flat * self.weights[0]).sum(-1)
        return -(flat * rows_or_zero(self.weights, person)[:, None]).sum(-1)


BASELINES: dict[str, tuple[bool, Features]] = {
    "pooled": (True, lambda points: points),
    "person": (False, lambda points: points),
    "person_quadratic": (False, quadratic_features),
}


def fit_baseline(name: str, pairs: Comparisons, row: Tensor, *, seed: int) -> Baseline:
    """The regression of that name (`BASELINES`) on the pairs of `palign.models.metric.model.comparisons_of`."""
    is_pooled, features = BASELINES[name]
    zero = torch.zeros(len(pairs.items), dtype=torch.float64)
    if is_pooled:
        pairs = replace(pairs, person=torch.zeros_like(pairs.person), n_people=1)
    linear = torch.arange(features(pairs.items[:1]).shape[1]) < pairs.dim
    pairs = replace(pairs, items=features(pairs.items), item_rewards=zero)

    def fitter(part: Comparisons, strengths: tuple[float, ...], _: Parameters | None) -> MetricFit:
        ridge = torch.where(linear, strengths[0], strengths[-1]).double()
        return fit_people(part, torch.diag(ridge)) if is_pooled else _one_by_one(part, ridge)

    start = START * (1 if bool(linear.all()) else 2)
    choice = choose_strengths(pairs, row, fitter=fitter, start=start, seed=seed)
    return Baseline(features, fitter(pairs, choice.strengths, None).parameters.people)


def _one_by_one(pairs: Comparisons, ridge: Tensor) -> MetricFit:
    zero = pairs.zeros()
    at = Parameters(zero.metric, zero.shared, fit_each(pairs, ridge))
    return MetricFit(at, pairs.loss(at, Loss.LOGISTIC), 0.0, 0)
