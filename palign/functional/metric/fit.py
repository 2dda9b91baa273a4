"""One metric for all and everybody's vector: a convex problem, solved to a duality gap.

Accelerated proximal gradient steps (Beck and Teboulle 2009) with restarts (O'Donoghue and Candès 2015); the metric,
what all share and each person have step lengths of their own, from the curvature of their part, for a person of three
answers must not step as short as one of three hundred.

Source of the problem: Canal et al. (NeurIPS 2022; arXiv 2207.03609), section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from palign.functional.metric.comparisons import Comparisons, Loss, Parameters
from palign.functional.metric.regularisers import Penalty, Regulariser

__all__ = ["MetricFit", "duality_gap", "fit_metric"]

CHECK_EVERY = 10
LEAST_CURVATURE = 1e-3  # of somebody without pairs


@dataclass(frozen=True, eq=False)
class MetricFit:
    """A fitted metric.

    Attributes:
        parameters: `metric` (dim, dim), positive semidefinite; `shared` (dim,); `people` (n_people, dim).
        objective: loss and regulariser there, nats where the loss is logistic.
        gap: the objective is at most so far above the least possible one.
        n_steps: proximal steps that were taken.
    """

    parameters: Parameters
    objective: float
    gap: float
    n_steps: int

    @property
    def metric(self) -> Tensor:
        """M, (dim, dim)."""
        return self.parameters.metric

    @property
    def vectors(self) -> Tensor:
        """v_k = −2 M u_k of everybody, (n_people, dim)."""
        return self.parameters.vectors()


def duality_gap(pairs: Comparisons, at: Parameters, loss: Loss, regulariser: Regulariser) -> tuple[float, float]:
    """Objective at some parameters, and how far above the optimum it can lie at most.

    By Fenchel: with slopes α of the losses, min ≥ −Σ w ℓ*(−α) − R*(Aᵀ w α), where A takes parameters to margins.
    """
    margins = pairs.margins(at)
    objective = float((pairs.weight * loss.values(margins)).sum()) + regulariser.value(at)
    slopes = loss.slopes(margins)
    share, conjugate = regulariser.conjugate(pairs.pulled(pairs.weight * slopes))
    bound = -float((pairs.weight * loss.conjugates(share * slopes)).sum()) - conjugate
    if pairs.item_rewards is not None:  # margins are A · people and what is there in any case
        known = pairs.item_rewards[pairs.winner] - pairs.item_rewards[pairs.loser]
        bound -= share * float((pairs.weight * slopes * known).sum())
    return objective, objective - bound


def fit_metric(
    pairs: Comparisons,
    *,
    loss: Loss | str = Loss.LOGISTIC,
    penalty: Penalty | str = Penalty.RIDGE,
    strengths: tuple[float, ...] | None = None,
    regulariser: Regulariser | None = None,
    start: Parameters | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 5000,
) -> MetricFit:
    """min over M ⪰ 0 and v of Σ weight · loss(margin) + regulariser.

    Args:
        pairs: who chose what; strengths are in the units of pairs whose mean squared length is one.
        loss: `logistic` or `hinge`.
        penalty: `ridge`, `balls`, `nuclear` or `joint_nuclear` (`palign.functional.metric.regularisers`).
        strengths: of the metric and of the people (`joint_nuclear`: one); those that a search begins with if None.
        regulariser: one of your own, in place of `penalty` and `strengths`.
        start: where to begin; zero if None.
        tolerance: largest duality gap, relative to the objective at zero.
        max_steps: proximal steps.

    Raises:
        ValueError: no pair, or strengths that are not positive.
        RuntimeError: the gap is not reached in so many steps (says which gap is).
    """
    if len(pairs) == 0:
        raise ValueError("There is no pair to learn a metric from.")
    loss = Loss(loss)
    if regulariser is None:
        penalty = Penalty(penalty)
        regulariser = penalty.make(penalty.start if strengths is None else strengths)
    curvatures = _curvatures(pairs, loss, regulariser)
    now = pairs.zeros() if start is None else start
    allowed = tolerance * float((pairs.weight * loss.values(torch.zeros_like(pairs.weight))).sum())
    ahead, momentum, boldness = now, 1.0, 1.0
    for step in range(1, max_steps + 1):
        new, boldness = _proximal_step(pairs, ahead, loss, regulariser, curvatures, boldness)
        moved = new.plus(now, -1)
        if ahead.plus(new, -1).times(curvatures).dot(moved) > 0:  # the momentum points uphill
            momentum, ahead = 1.0, new
        else:
            next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead, momentum = new.plus(moved, (momentum - 1) / next_momentum), next_momentum
        now = new
        if step % CHECK_EVERY == 0 or step == max_steps:
            objective, gap = duality_gap(pairs, now, loss, regulariser)
            if gap <= allowed:
                return MetricFit(now, objective, gap, step)
    raise RuntimeError(
        f"The metric is not at its optimum after {max_steps} steps: the duality gap is {gap:.3g} and {allowed:.3g} "
        "was asked. Give more steps, a larger tolerance or stronger regularisation; look at the vectors for outliers."
    )


def _curvatures(pairs: Comparisons, loss: Loss, regulariser: Regulariser) -> tuple[float, float, Tensor]:
    """Of a majorant that is separate in the parts; a step of length 1 / curvature is tried first."""
    metric, shared, people = (loss.curvature * 1.05 * part for part in pairs.curvatures())
    people = people.clamp_min(LEAST_CURVATURE)
    if regulariser.has_one_step:
        largest = max(metric, float(people.max()))
        return largest, largest, torch.full_like(people, largest)
    return max(metric, LEAST_CURVATURE), max(shared, LEAST_CURVATURE), people


def _proximal_step(
    pairs: Comparisons,
    at: Parameters,
    loss: Loss,
    regulariser: Regulariser,
    curvatures: tuple[float, float, Tensor],
    boldness: float,
) -> tuple[Parameters, float]:
    """A step that the majorant of that boldness bounds; it is lowered until it does (it never need go below 1/3)."""
    value, gradient = pairs.loss_and_gradient(at, loss)
    for _ in range(60):
        steps = tuple(boldness / curvature for curvature in curvatures)
        new = regulariser.prox(at.plus(gradient.times(steps), -1), steps)
        moved = new.plus(at, -1)
        bound = value + gradient.dot(moved) + moved.times(curvatures).dot(moved) / (2 * boldness)
        if pairs.loss(new, loss) <= bound + 1e-12 * abs(value):
            break
        boldness *= 0.7
    return new, boldness
