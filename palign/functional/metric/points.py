"""From v_k = −2 M u_k back to ideal points, newcomers under a fixed metric, and how far off a recovered metric is."""

from dataclasses import replace

import torch
from torch import Tensor

from palign.functional.metric.comparisons import Comparisons, Loss, Parameters, rewards
from palign.functional.metric.fit import MetricFit, fit_metric
from palign.functional.metric.regularisers import Regulariser, Steps

__all__ = ["aligned_error", "fit_people", "fit_vectors", "ideal_points", "people_precision", "rows_or_zero"]


def ideal_points(metric: Tensor, vectors: Tensor, *, softening: float = 0.05) -> Tensor:
    """u_k: argmin of ‖2 M u + v_k‖² + (softening · 2 λ_max(M))² ‖u‖².

    Args:
        metric: (dim, dim), positive semidefinite.
        vectors: (n_people, dim), v_k.
        softening: of the inverse, relative to the metric's largest eigenvalue; directions along which the metric is
            much weaker than that tell nothing of where somebody stands, and stay near zero.

    Returns:
        (n_people, dim).
    """
    if not softening > 0:
        raise ValueError(
            f"softening is {softening}; it must be positive, or a direction without metric is divided by 0."
        )
    values, directions = torch.linalg.eigh((metric + metric.T) / 2)
    doubled = 2 * values.clamp_min(0)
    inverse = doubled / (doubled.square() + (softening * doubled[-1]).square()).clamp_min(1e-300)
    return -(vectors @ directions) * inverse @ directions.T


def people_precision(fit: MetricFit, penalty: str, strengths: tuple[float, ...]) -> Tensor:
    """(dim, dim) precision of the normal prior under which a newcomer is placed, as the fit's own regulariser has it.

    `ridge`, `nuclear`: its strength. `balls`: of a normal whose mean square is that of everybody's v_k.
    `joint_nuclear`: what one more column adds to the nuclear norm, to second order: strength · (Z Zᵀ)^(−1/2).
    """
    dim = len(fit.metric)
    eye = torch.eye(dim, dtype=fit.metric.dtype)
    if penalty in ("ridge", "nuclear"):
        return strengths[1] * eye
    if penalty == "balls":
        return dim / float(fit.vectors.square().sum(1).mean().clamp_min(1e-12)) * eye
    joint = torch.cat([fit.metric, fit.vectors.T], 1)
    squares, directions = torch.linalg.eigh(joint @ joint.T)
    roots = squares.clamp_min(0).sqrt()
    return strengths[0] * (directions / roots.clamp_min(1e-3 * float(roots[-1]) + 1e-12)) @ directions.T


def fit_vectors(
    pairs: Comparisons,
    metric: Tensor,
    shared: Tensor,
    precision: Tensor,
    *,
    loss: Loss | str = Loss.LOGISTIC,
    tolerance: float = 1e-6,
) -> Tensor:
    """What sets people apart from `shared`, (n_people, dim), with the metric as it is; nobody's touches another's.

    min Σ weight · loss + ½ Σ_k people_kᵀ precision people_k. Somebody without a pair gets zero.

    Raises:
        RuntimeError: as `fit_metric`.
    """
    if len(pairs) == 0:
        return torch.zeros(pairs.n_people, pairs.dim, dtype=torch.float64)
    liked = rewards(pairs.items, metric.double(), shared.double())
    return fit_people(replace(pairs, item_rewards=liked), precision, loss=loss, tolerance=tolerance).parameters.people


def fit_people(
    pairs: Comparisons,
    precision: Tensor,
    *,
    loss: Loss | str = Loss.LOGISTIC,
    start: Parameters | None = None,
    tolerance: float = 1e-6,
) -> MetricFit:
    """The same for pairs that have `item_rewards`: a regression of each person's own, shrunk to what all like."""
    return fit_metric(pairs, loss=loss, regulariser=_Prior(precision.double()), start=start, tolerance=tolerance)


class _Prior(Regulariser):
    """A normal prior on people; the rest stays as it is."""

    def __init__(self, precision: Tensor) -> None:
        self.precisions, self.directions = torch.linalg.eigh(precision)

    def value(self, at: Parameters) -> float:
        return float((self.precisions * (at.people @ self.directions).square()).sum()) / 2

    def prox(self, at: Parameters, steps: Steps) -> Parameters:
        shrunk = (at.people @ self.directions) / (1 + steps[2] * self.precisions)
        return Parameters(at.metric, at.shared, shrunk @ self.directions.T)

    def conjugate(self, at: Parameters) -> tuple[float, float]:
        return 1.0, float(((at.people @ self.directions).square() / self.precisions).sum()) / 2


def rows_or_zero(table: Tensor, rows: Tensor) -> Tensor:
    """Rows (n, …) of a table (n_people, …) by their numbers (n,); zeros for −1, somebody who is not there."""
    return torch.cat([table, table.new_zeros(1, *table.shape[1:])])[rows]


def aligned_error(estimate: Tensor, truth: Tensor) -> float:
    """‖s · estimate − truth‖ / ‖truth‖ at the best s ≥ 0: how far off a metric is where its scale cannot be known."""
    scale = float((estimate * truth).sum() / estimate.square().sum().clamp_min(1e-300))
    return float((max(scale, 0.0) * estimate - truth).norm() / truth.norm())
