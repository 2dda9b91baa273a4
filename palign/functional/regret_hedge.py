"""No-regret dynamics for the min-max regret game: optimistic Hedge for types and policies (arXiv 2405.15065, Alg. 2).

Kept beside the exact solution for parity with the papers and for losses that are only seen one at a time. The types'
player has one action more, of regret 0, so that the value is max(0, ·) as in `solve_minmax_regret`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palign.functional.regret import Table, Vector, duality_gap, weighted_table

__all__ = ["HedgeTrajectory", "OnlineHedge", "exponentiated_gradient", "hedge_bound", "optimistic_hedge"]


@dataclass(frozen=True)
class HedgeTrajectory:
    """Average play, and how it got there. Tensors are float64.

    Attributes:
        policy_weights: (n_policies,) average over all steps.
        type_weights: (n_types,) likewise, of sum ≤ 1: the rest lay on the action of no regret.
        value: max(0, worst regret of `policy_weights`).
        gap: duality gap of the averages.
        bound: what theory promises of `gap`.
        steps: (n_recorded,) int64, after how many steps the two below were taken.
        average_policy_weights: (n_recorded, n_policies).
        gaps: (n_recorded,) duality gap of the averages so far.
    """

    policy_weights: Tensor
    type_weights: Tensor
    value: float
    gap: float
    bound: float
    steps: Tensor
    average_policy_weights: Tensor
    gaps: Tensor


def optimistic_hedge(
    regrets: Table,
    *,
    n_steps: int = 100_000,
    step_size: float | None = None,
    type_importance: Vector | None = None,
    n_recorded: int = 100,
) -> HedgeTrajectory:
    """Both players by w ∝ exp(−η(Σ of losses so far + the last loss again)) (Rakhlin and Sridharan 2013).

    Args:
        regrets, type_importance: as `solve_minmax_regret`.
        step_size: η, per unit of regret; without it 1/(4 max |R|), up to where the bound holds (Syrgkanis et al. 2015,
            Proposition 7), so that units do not matter. The papers' 5/√n_steps is slower on regrets of one unit, and
            on small ones does not arrive.
        n_recorded: points of the trajectory, evenly spaced; the last is the end.
    """
    table = weighted_table(regrets, type_importance)
    if n_steps < 1 or n_recorded < 1:
        raise ValueError(f"n_steps is {n_steps} and n_recorded {n_recorded}; both must be at least 1.")
    largest = table.abs().max().item()
    if step_size is None:
        step_size = 1 / (4 * largest) if largest else 1.0
    marks = np.unique(np.linspace(0, n_steps, min(n_recorded, n_steps) + 1).astype(int)[1:])
    policies, types = _play(table.numpy(), n_steps, step_size, marks)
    policies, types = torch.from_numpy(policies), torch.from_numpy(types[:, :-1].copy())
    gaps = [duality_gap(table, w, q) for w, q in zip(policies, types, strict=True)]
    return HedgeTrajectory(
        policy_weights=policies[-1],
        type_weights=types[-1],
        value=max(0.0, (table @ policies[-1]).max().item()),
        gap=gaps[-1],
        bound=hedge_bound(*table.shape, step_size=step_size, n_steps=n_steps),
        steps=torch.from_numpy(marks),
        average_policy_weights=policies,
        gaps=torch.tensor(gaps, dtype=torch.float64),
    )


class OnlineHedge:
    """Optimistic Hedge of the types' player, for regrets that are measured one after another while a policy trains.

    w ∝ exp(η (Σ of regrets so far + `ahead` times the last again)): who loses most gains weight (Rakhlin and Sridharan
    2013, where `ahead` is 1). A policy that learns answers late, and the sum alone makes both go round in a circle;
    what is lost right now, counted more than once, damps that.

    Args:
        n_types: at least 1.
        step_size: η, per unit of regret.
        ahead: how often the last measurement counts again.

    Attributes:
        weights: (n_types,) float64 as they stand; equal at first.
        average: (n_types,) mean over the regrets seen.
    """

    def __init__(self, n_types: int, *, step_size: float, ahead: float = 1.0) -> None:
        self.step_size, self.ahead, self.n_seen = step_size, ahead, 0
        self.scores = torch.zeros(n_types, dtype=torch.float64)
        self.weights = self.scores.softmax(-1)
        self.average = self.weights

    def see(self, regrets: Tensor) -> Tensor:
        """Weights after one more measurement: (n_types,) → (n_types,)."""
        regrets = self.step_size * regrets.double()
        self.scores = self.scores + regrets
        self.weights = (self.scores + self.ahead * regrets).softmax(-1)
        self.n_seen += 1
        self.average = self.average + (self.weights - self.average) / self.n_seen
        return self.weights


def hedge_bound(n_types: int, n_policies: int, *, step_size: float, n_steps: int) -> float:
    """(ln(n_types + 1) + ln n_policies) / (η T): most of the duality gap of the averages, if η max |R| ≤ 1/4."""
    return (math.log(n_types + 1) + math.log(n_policies)) / (step_size * n_steps)


def exponentiated_gradient(weights: Tensor, losses: Tensor, *, step_size: float) -> Tensor:
    """w ∝ w exp(η loss): weight goes to where the loss is (Sagawa et al. 2020, Algorithm 1); (..., n_types) both.

    Losses of types are to be compared after each type's own least loss is subtracted; else the noisiest wins.
    """
    return (weights.log() + step_size * losses).softmax(-1)


def _play(table: np.ndarray, n_steps: int, step_size: float, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average weights of policies (n_marks, n_policies) and of types and nobody (n_marks, n_types + 1)."""
    payoffs = step_size * np.vstack([table, np.zeros(table.shape[1])])
    transposed = np.ascontiguousarray(payoffs.T)
    policy_scores, type_scores = np.zeros(payoffs.shape[1]), np.zeros(payoffs.shape[0])
    policy_guess, type_guess = policy_scores, type_scores
    policy_sum, type_sum = np.zeros_like(policy_scores), np.zeros_like(type_scores)
    policies, types = [], []
    start = 0
    for mark in marks:
        for _ in range(start, mark):
            policy = np.exp(policy_guess - policy_guess.max())
            policy /= policy.sum()
            kind = np.exp(type_guess - type_guess.max())
            kind /= kind.sum()
            policy_sum += policy
            type_sum += kind
            loss, gain = transposed @ kind, payoffs @ policy
            policy_scores -= loss
            type_scores += gain
            policy_guess, type_guess = policy_scores - loss, type_scores + gain
        policies.append(policy_sum / mark)
        types.append(type_sum / mark)
        start = mark
    return np.array(policies), np.array(types)
