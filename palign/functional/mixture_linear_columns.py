"""Rankings with linear scores: likelihood and gradient of many columns of θ, and their convex fits side by side.

What EM on the linear head (`palign.functional.mixture_linear`) is made of: each type of each restart is a column.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from palign.functional.mixture_start import Stages

__all__ = ["ConvexColumns", "LinearRankings"]

CHUNK = 8192  # stages or items worked on at a time: they stay in the cache
MEMORY = 8
ARMIJO = 1e-4
MAX_HALVINGS = 30


class LinearRankings:
    """Rankings as a function of columns of θ: likelihood of each person and gradient of a weighted sum of them.

    Scores are taken once per item vector and then gathered, so nothing of rows × items × dim is ever held.
    """

    def __init__(self, features: Tensor, stages: Stages) -> None:
        self.features, self.stages = features.detach(), stages
        self.no_absent = not bool(stages.absent.any())

    def scores(self, theta: Tensor) -> Tensor:
        """(n, dim) → (n_item_vectors, n)."""
        return torch.cat([part.double() @ theta.T for part in self.features.split(CHUNK)])

    def log_likelihoods(self, theta: Tensor) -> Tensor:
        """(n, dim) → (n_annotators, n) nats."""
        scores = self.scores(theta)
        total = scores.new_zeros(self.stages.n_annotators, len(theta))
        for part in self._parts():
            total.index_add_(0, self.stages.annotator[part], -self._weighted(self._log_odds(scores, part)[0], part))
        return total

    def evaluate(self, theta: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(n, dim), (n_annotators, n) → log-likelihoods (n_annotators, n), gradient (n, dim) of −Σ weights · them."""
        scores, stages = self.scores(theta), self.stages
        total = scores.new_zeros(stages.n_annotators, len(theta))
        pull = torch.zeros_like(scores)
        for part in self._parts():
            owner = stages.annotator[part]
            loss, gaps = self._log_odds(scores, part)
            total.index_add_(0, owner, -self._weighted(loss, part))
            share = (gaps - loss[:, None]).exp_().mul_(self._weighted(weights[owner], part)[:, None])
            pull.index_add_(0, stages.winner[part], -share.sum(1))
            pull.index_add_(0, stages.losers[part].flatten(), share.flatten(0, 1))
        gradient = sum(p.T @ f.double() for p, f in zip(pull.split(CHUNK), self.features.split(CHUNK), strict=True))
        return total, gradient

    def _weighted(self, values: Tensor, part: slice) -> Tensor:
        """(n_stages, n) values of a part, each times what its stage counts for."""
        weight = self.stages.weight
        return values if weight is None else values * weight[part, None]

    def _parts(self) -> list[slice]:
        return [slice(first, first + CHUNK) for first in range(0, len(self.stages.winner), CHUNK)]

    def _log_odds(self, scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """−log p (n_stages, n) and how far each loser lies above the winner (n_stages, n_losers, n)."""
        gaps = scores[self.stages.losers[part]] - scores[self.stages.winner[part]][:, None]
        if gaps.shape[1] == 1:
            return F.softplus(gaps[:, 0]), gaps
        if not self.no_absent:
            gaps.masked_fill_(self.stages.absent[part][..., None], float("-inf"))
        top = gaps.amax(1).clamp_min(0)
        return top + ((gaps - top[:, None]).exp().sum(1) + (-top).exp()).log(), gaps


class ConvexColumns:
    """Convex problems side by side, min over θ_n of −Σ_i w_in log p(i | θ_n) + ridge/2 ‖θ_n − centre‖², by L-BFGS.

    Curvature pairs are kept from one set of weights to the next: between EM steps the weights hardly change.
    """

    def __init__(self, problem: LinearRankings, theta: Tensor, centre: Tensor, ridge: float) -> None:
        self.problem, self.theta, self.centre, self.ridge = problem, theta, centre, ridge
        self.likelihoods = problem.log_likelihoods(theta)
        self.pairs: list[_Pair] = []

    def keep(self, columns: Tensor) -> None:
        """Go on with these columns only, given by their numbers."""
        self.theta, self.likelihoods = self.theta[columns], self.likelihoods[:, columns]
        self.pairs = [pair.keep(columns) for pair in self.pairs]

    def penalty(self) -> Tensor:
        """(n,) nats."""
        return self.ridge / 2 * (self.theta - self.centre).square().sum(1)

    def minimise(self, weights: Tensor, n_steps: int, *, tolerance: float = 1e-11) -> None:
        """At most so many steps; none raises a column's objective. `weights`: (n_annotators, n)."""
        value, gradient, _ = self._at(self.theta, weights)
        for _ in range(n_steps):
            direction = self._direction(gradient)
            slope = (direction * gradient).sum(1)
            moves = -slope > tolerance * value.abs()  # below that rounding decides whether a step falls
            if not bool(moves.any()):
                return
            value, gradient = self._line_search(weights, value, gradient, direction * moves[:, None], slope)

    def _at(self, theta: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        likelihoods, gradient = self.problem.evaluate(theta, weights)
        away = theta - self.centre
        value = self.ridge / 2 * away.square().sum(1) - (weights * likelihoods).sum(0)
        return value, gradient + self.ridge * away, likelihoods

    def _line_search(
        self, weights: Tensor, value: Tensor, gradient: Tensor, direction: Tensor, slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Halve the steps of those columns that do not fall enough; whoever never does stays."""
        length = torch.ones_like(value)
        if not self.pairs:
            length = 1 / gradient.norm(dim=1).clamp_min(1.0)
        for _ in range(MAX_HALVINGS):
            new_value, new_gradient, likelihoods = self._at(self.theta + length[:, None] * direction, weights)
            falls = (new_value <= value + ARMIJO * length * slope) | ~direction.any(1)
            if bool(falls.all()):
                break
            length = torch.where(falls, length, length / 2)
        length = torch.where(falls, length, 0.0)
        step = length[:, None] * direction
        self._remember(step, torch.where(falls[:, None], new_gradient - gradient, 0.0))
        self.theta = self.theta + step
        self.likelihoods = torch.where(falls, likelihoods, self.likelihoods)
        return torch.where(falls, new_value, value), torch.where(falls[:, None], new_gradient, gradient)

    def _remember(self, step: Tensor, change: Tensor) -> None:
        """A pair whose curvature is not positive is stored as nothing (zero), which the direction passes over."""
        curvature = (step * change).sum(1)
        curved = curvature > 1e-10 * step.norm(dim=1) * change.norm(dim=1)
        step, change, curvature = step * curved[:, None], change * curved[:, None], curvature * curved
        pair = _Pair(step, change, _inverse(curvature)[:, None], curvature * _inverse(change.square().sum(1)))
        self.pairs = [*self.pairs, pair][-MEMORY:]

    def _direction(self, gradient: Tensor) -> Tensor:
        """Two-loop recursion (Nocedal 1980), all columns at once."""
        direction, shares = -gradient, []
        for pair in reversed(self.pairs):
            shares.append(pair.inverse * (pair.step * direction).sum(1, keepdim=True))
            direction = direction - shares[-1] * pair.change
        scale = torch.ones_like(gradient[:, 0])
        for pair in self.pairs:
            scale = torch.where(pair.scale > 0, pair.scale, scale)
        direction = direction * scale[:, None]
        for pair, share in zip(self.pairs, reversed(shares), strict=True):
            back = pair.inverse * (pair.change * direction).sum(1, keepdim=True)
            direction = direction + (share - back) * pair.step
        return direction


@dataclass(frozen=True)
class _Pair:
    """A step and what it did to the gradient, (n, dim); 1 over their product, (n, 1); the scale they ask for, (n,)."""

    step: Tensor
    change: Tensor
    inverse: Tensor
    scale: Tensor

    def keep(self, columns: Tensor) -> "_Pair":
        return _Pair(self.step[columns], self.change[columns], self.inverse[columns], self.scale[columns])


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values > 0, 1 / torch.where(values > 0, values, 1.0), 0.0)
