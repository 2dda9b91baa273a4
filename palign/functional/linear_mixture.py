"""The cheap head: EM over types whose rewards are linear in given features.

Type k ranks by Plackett–Luce on features · θ_k. With log-linear policies the log-partition cancels within a row, so
β·h_k of mixture DPO is exactly of this form; with frozen embeddings as features it takes seconds where adapters take
hours, and serves to start them, to choose how many types there are and to check that there are any.

Each θ_k is shrunk towards the pooled fit: what is minimised is −Σ_i log Σ_k η_k p_k(rows of i) + ridge/2 Σ_k ‖θ_k −
θ_pooled‖². Restarts and types are columns of one convex problem each, solved side by side; M-steps go on from where
the last one ended (L-BFGS with its memory kept) and accept no step that raises the objective.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from palign.functional.mixture import log_evidence, mixing_weights, responsibilities, temper_schedule
from palign.functional.mixture_start import Stages, find_stages, random_start, spectral_start

__all__ = ["LinearMixture", "fit_linear_mixture", "linear_log_likelihoods", "place_newcomers"]

CHUNK = 8192  # stages or items worked on at a time: they stay in the cache
POOLED_RIDGE = 1e-2
POOLED_STEPS = 200
INNER_STEPS = 3  # of L-BFGS in an M-step; what is left over is done in the next
MEMORY = 8
ARMIJO = 1e-4
MAX_HALVINGS = 30
DEAD = 0.5  # people: a type with less than that is dead


@dataclass(frozen=True)
class LinearMixture:
    """A fitted mixture.

    Attributes:
        theta: (n_types, dim) float64.
        pooled_theta: (dim,), what everybody shares and types are shrunk to.
        mixing_weights: (n_types,).
        responsibilities: (n_annotators, n_types), the posterior under theta and mixing_weights.
        log_likelihoods: (n_annotators, n_types) nats, summed over a person's rows.
        objective: penalised log-likelihood at the end, nats.
        trajectory: penalised log-likelihood after each step that was not tempered.
        converged: the last step gained less than the tolerance.
        dead: (n_types,) bool, types with less than half a person; their theta is the pooled one.
        restart_types: (n_restarts, n_annotators) int64, where each restart put people; the best one first.
        restart_objectives: (n_restarts,) penalised log-likelihoods, in the same order.
        start: (n_annotators, n_types), the responsibilities that the best one started from.
    """

    theta: Tensor
    pooled_theta: Tensor
    mixing_weights: Tensor
    responsibilities: Tensor
    log_likelihoods: Tensor
    objective: float
    trajectory: list[float]
    converged: bool
    dead: Tensor
    restart_types: Tensor
    restart_objectives: Tensor
    start: Tensor


def fit_linear_mixture(
    features: Tensor,
    item_indices: Tensor,
    ranks: Tensor,
    annotator_index: Tensor,
    n_annotators: int,
    n_types: int,
    *,
    ridge: float = 1.0,
    start: Tensor | None = None,
    n_restarts: int = 8,
    temper_start: float = 0.2,
    n_tempered: int = 10,
    max_steps: int = 200,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> LinearMixture:
    """Fit by EM from several starts; the one of the greatest penalised likelihood is kept.

    Args:
        features: (n_item_vectors, dim), of about unit variance: `ridge` is in their units.
        item_indices: (rows, max_items) int64 into them; any valid index at padding.
        ranks: (rows, max_items) integers, 0 is best, equal ranks tie, −1 is padding.
        annotator_index: (rows,) int64 in [0, n_annotators).
        n_types: at most the number of annotators with rows.
        ridge: strength of the shrinkage to the pooled fit, positive.
        start: (n_annotators, n_types) responsibilities of the first restart; spectral if None, the others random.
        n_restarts: one in three random ones ends badly.
        temper_start: the E-step's first temper, annealed to 1 over `n_tempered` steps; 1 is plain EM.
        max_steps: EM steps after those.
        tolerance: of the gain of a step, relative to the penalised log-likelihood.
        seed: of the starts.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, no stage at all, uniform `start`.
    """
    _check(features, ridge, n_restarts, max_steps)
    stages = find_stages(item_indices, ranks, annotator_index, n_annotators)
    if len(stages.winner) == 0:
        raise ValueError("no row prefers one item to another: all of them tie. There is nothing to fit.")
    problem = _Problem(features, stages)
    everybody = torch.ones(n_annotators, 1, dtype=torch.float64)
    pooled = _Columns(problem, torch.zeros(1, features.shape[1], dtype=torch.float64), torch.zeros(()), POOLED_RIDGE)
    pooled.minimise(everybody, POOLED_STEPS, tolerance=1e-10)
    starts = _starts(features, stages, n_types, start, 1 if n_types == 1 else n_restarts, seed)
    schedule = [] if n_types == 1 else temper_schedule(n_tempered + 1, temper_start)[:-1]
    em = _EM(problem, pooled.theta[0], starts, ridge)
    for temper in schedule if temper_start < 1 else []:
        em.step(temper)
    trajectories, converged = em.run(max_steps, tolerance)
    return em.best(trajectories, converged, starts)


def linear_log_likelihoods(
    theta: Tensor,
    features: Tensor,
    item_indices: Tensor,
    ranks: Tensor,
    annotator_index: Tensor,
    n_annotators: int,
) -> Tensor:
    """log p_k of all that a person said: theta (n_types, dim) → (n_annotators, n_types) nats."""
    stages = find_stages(item_indices, ranks, annotator_index, n_annotators)
    return _Problem(features, stages).log_likelihoods(theta.double())


def place_newcomers(
    theta: Tensor,
    mixing_weights: Tensor,
    features: Tensor,
    item_indices: Tensor,
    ranks: Tensor,
    annotator_index: Tensor,
    n_annotators: int,
) -> Tensor:
    """Posterior of people who were not there when the mixture was fitted: (n_annotators, n_types).

    Rows as in `fit_linear_mixture`; people without rows get the mixing weights.
    """
    likelihoods = linear_log_likelihoods(theta, features, item_indices, ranks, annotator_index, n_annotators)
    return responsibilities(likelihoods, mixing_weights)


class _Problem:
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
            total.index_add_(0, self.stages.annotator[part], -self._log_odds(scores, part)[0])
        return total

    def evaluate(self, theta: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """(n, dim), (n_annotators, n) → log-likelihoods (n_annotators, n), gradient (n, dim) of −Σ weights · them."""
        scores, stages = self.scores(theta), self.stages
        total = scores.new_zeros(stages.n_annotators, len(theta))
        pull = torch.zeros_like(scores)
        for part in self._parts():
            owner = stages.annotator[part]
            loss, gaps = self._log_odds(scores, part)
            total.index_add_(0, owner, -loss)
            share = (gaps - loss[:, None]).exp_().mul_(weights[owner][:, None])
            pull.index_add_(0, stages.winner[part], -share.sum(1))
            pull.index_add_(0, stages.losers[part].flatten(), share.flatten(0, 1))
        gradient = sum(p.T @ f.double() for p, f in zip(pull.split(CHUNK), self.features.split(CHUNK), strict=True))
        return total, gradient

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


class _Columns:
    """Convex problems side by side, min over θ_n of −Σ_i w_in log p(i | θ_n) + ridge/2 ‖θ_n − centre‖², by L-BFGS.

    Curvature pairs are kept from one set of weights to the next: between EM steps the weights hardly change.
    """

    def __init__(self, problem: _Problem, theta: Tensor, centre: Tensor, ridge: float) -> None:
        self.problem, self.theta, self.centre, self.ridge = problem, theta, centre, ridge
        self.likelihoods = problem.log_likelihoods(theta)
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def keep(self, columns: Tensor) -> None:
        """Go on with these columns only, given by their numbers."""
        self.theta, self.likelihoods = self.theta[columns], self.likelihoods[:, columns]
        self.pairs = [(step[columns], change[columns]) for step, change in self.pairs]

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
        curved = (step * change).sum(1) > 1e-10 * step.norm(dim=1) * change.norm(dim=1)
        self.pairs.append((step * curved[:, None], change * curved[:, None]))
        self.pairs = self.pairs[-MEMORY:]

    def _direction(self, gradient: Tensor) -> Tensor:
        """Two-loop recursion (Nocedal 1980), all columns at once."""
        direction, shares = -gradient, []
        for step, change in reversed(self.pairs):
            inverse = _inverse((step * change).sum(1))
            share = inverse * (step * direction).sum(1)
            direction = direction - share[:, None] * change
            shares.append((share, inverse))
        scale = torch.ones_like(gradient[:, 0])
        for step, change in self.pairs:
            curvature = (step * change).sum(1)
            scale = torch.where(curvature > 0, curvature * _inverse(change.square().sum(1)), scale)
        direction = direction * scale[:, None]
        for (step, change), (share, inverse) in zip(self.pairs, reversed(shares), strict=True):
            back = inverse * (change * direction).sum(1)
            direction = direction + (share - back)[:, None] * step
        return direction


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values > 0, 1 / torch.where(values > 0, values, 1.0), 0.0)


class _EM:
    """Restarts side by side; column r · n_types + k is type k of restart r."""

    def __init__(self, problem: _Problem, pooled: Tensor, starts: Tensor, ridge: float) -> None:
        self.n_types = starts.shape[2]
        self.has_rows = problem.stages.counts() > 0
        self.gamma = starts
        self.eta = self._each(lambda r: mixing_weights(starts[r], self.has_rows))
        theta = pooled.expand(len(starts) * self.n_types, -1).clone()
        self.columns = _Columns(problem, theta, pooled, ridge)
        self.finished: dict[int, tuple] = {}
        self.numbers = list(range(len(starts)))

    def _each(self, function: Callable[[int], Tensor]) -> Tensor:
        return torch.stack([function(r) for r in range(len(self.gamma))])

    def likelihoods(self) -> Tensor:
        """(n_restarts, n_annotators, n_types)."""
        return self.columns.likelihoods.unflatten(1, (-1, self.n_types)).transpose(0, 1)

    def step(self, temper: float = 1.0) -> None:
        """M-step, then E-step."""
        self.columns.minimise(self.gamma.transpose(0, 1).flatten(1), INNER_STEPS)
        self.eta = self._each(lambda r: mixing_weights(self.gamma[r], self.has_rows))
        likelihoods = self.likelihoods()
        self.gamma = self._each(lambda r: responsibilities(likelihoods[r], self.eta[r], temper=temper))

    def objectives(self) -> Tensor:
        """(n_restarts,) penalised log-likelihoods, nats."""
        likelihoods = self.likelihoods()
        evidence = self._each(lambda r: log_evidence(likelihoods[r], self.eta[r]).sum())
        return evidence - self.columns.penalty().unflatten(0, (-1, self.n_types)).sum(1)

    def run(self, max_steps: int, tolerance: float) -> tuple[dict[int, list[float]], dict[int, bool]]:
        """Plain steps; a restart that has converged rests."""
        trajectories: dict[int, list[float]] = {number: [] for number in self.numbers}
        converged = dict.fromkeys(self.numbers, False)
        for _ in range(max_steps):
            self.step()
            done = []
            for number, value in zip(self.numbers, self.objectives().tolist(), strict=True):
                path = trajectories[number]
                converged[number] = len(path) > 0 and value - path[-1] <= tolerance * abs(value)
                path.append(value)
                done.append(converged[number])
            self._rest(done)
            if not self.numbers:
                break
        self._rest([True] * len(self.numbers))
        return trajectories, converged

    def _rest(self, done: list[bool]) -> None:
        """Store restarts that are done and go on with the others."""
        if not any(done):
            return
        likelihoods, theta = self.likelihoods(), self.columns.theta.unflatten(0, (-1, self.n_types))
        for r, number in enumerate(self.numbers):
            if done[r]:
                self.finished[number] = (theta[r], self.eta[r], self.gamma[r], likelihoods[r])
        left = torch.tensor([r for r, is_done in enumerate(done) if not is_done], dtype=torch.int64)
        self.numbers = [self.numbers[r] for r in left.tolist()]
        self.gamma, self.eta = self.gamma[left], self.eta[left]
        self.columns.keep((left[:, None] * self.n_types + torch.arange(self.n_types)).flatten())

    def best(self, trajectories: dict[int, list[float]], converged: dict[int, bool], starts: Tensor) -> LinearMixture:
        """The restart of the greatest objective."""
        order = sorted(self.finished, key=lambda number: -trajectories[number][-1])
        theta, eta, gamma, likelihoods = self.finished[order[0]]
        return LinearMixture(
            theta=theta,
            pooled_theta=self.columns.centre,
            mixing_weights=eta,
            responsibilities=gamma,
            log_likelihoods=likelihoods,
            objective=trajectories[order[0]][-1],
            trajectory=trajectories[order[0]],
            converged=converged[order[0]],
            dead=gamma[self.has_rows].sum(0) < DEAD,
            restart_types=torch.stack([self.finished[number][2].argmax(1) for number in order]),
            restart_objectives=torch.tensor([trajectories[number][-1] for number in order], dtype=torch.float64),
            start=starts[order[0]],
        )


def _starts(
    features: Tensor, stages: Stages, n_types: int, start: Tensor | None, n_restarts: int, seed: int
) -> Tensor:
    """(n_restarts, n_annotators, n_types): the given or spectral one, then random ones."""
    first = spectral_start(features, stages, n_types, seed=seed) if start is None else start.double()
    if first.shape != (stages.n_annotators, n_types):
        raise ValueError(
            f"start has shape {tuple(first.shape)}; responsibilities are ({stages.n_annotators}, {n_types})."
        )
    if n_types > 1 and float((first - first.mean(0)).abs().max()) < 1e-6:
        raise ValueError(
            "start gives everybody the same responsibilities, a fixed point that EM never leaves. Leave it out for a "
            "spectral start."
        )
    others = [random_start(stages.n_annotators, n_types, seed=seed + r) for r in range(1, n_restarts)]
    return torch.stack([first, *others])


def _check(features: Tensor, ridge: float, n_restarts: int, max_steps: int) -> None:
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge}; it must be positive, or a type of few rows has no finite optimum.")
    if n_restarts < 1 or max_steps < 1:
        raise ValueError(f"n_restarts is {n_restarts} and max_steps {max_steps}; both must be at least 1.")
    if not bool(torch.isfinite(features).all()):
        wrong = int((~torch.isfinite(features).all(1)).nonzero()[0])
        raise ValueError(f"item vector {wrong} has a feature that is not finite. Look at the text it was made of.")
