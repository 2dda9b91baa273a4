"""The linear head: EM over types whose rewards are linear in given features.

Type k ranks by Plackett–Luce on features · θ_k. With log-linear policies the log-partition cancels within a row, so
β·h_k of mixture DPO is exactly of this form; with frozen embeddings as features it takes seconds where adapters take
hours, and serves to start them, to choose how many types there are and to check that there are any.

Each θ_k is shrunk towards the pooled fit: what is minimised is −Σ_i log Σ_k η_k p_k(rows of i) + ridge/2 Σ_k ‖θ_k −
θ_pooled‖². Restarts and types are columns of one convex problem each, solved side by side; M-steps go on from where
the last one ended (L-BFGS with its memory kept) and accept no step that raises the objective.

With one stage a person the tempered E-step says next to nothing: it would bring everybody to γ = η, a saddle on which
plain steps gain less than any tolerance. There EM is not tempered.

Of more than `N_DRAWN` people so many are drawn for the restarts; the best restart then goes on with everybody.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from palign.functional.evidence.votes import Votes
from palign.functional.mixture import log_evidence, mixing_weights, responsibilities, temper_schedule
from palign.functional.mixture_linear_columns import ConvexColumns, LinearRankings
from palign.functional.mixture_start import Stages, find_stages, random_start, spectral_start
from palign.functional.people_sample import draw_people

__all__ = ["POOLED_RIDGE", "LinearMixture", "fit_linear_mixture", "linear_log_likelihoods", "place_newcomers"]

POOLED_RIDGE = 1e-2
POOLED_STEPS = 200
POOLED_TOLERANCE = 1e-4  # of that of EM
INNER_STEPS = 3  # of L-BFGS in an M-step; what is left over is done in the next
N_DRAWN = 10_000  # people: enough to tell a bad start from a good one
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
        start: (n_annotators, n_types), the responsibilities that the best one started from; where it began with
            people drawn, those from which it went on with everybody.
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
    votes: Votes,
    n_types: int,
    *,
    row_weights: Tensor | None = None,
    ridge: float = 1.0,
    pooled_ridge: float = POOLED_RIDGE,
    start: Tensor | None = None,
    pooled_theta: Tensor | None = None,
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
        votes: rankings of these items.
        n_types: at most the number of annotators with rows.
        row_weights: (rows,) what a row counts for, as `palign.functional.evidence.rows.row_evidence` gives; 1 if None.
        ridge: strength of the shrinkage to the pooled fit, positive.
        pooled_ridge: strength of the shrinkage of the pooled fit to zero, positive.
        start: (n_annotators, n_types) responsibilities of the first restart; spectral if None, the others random.
        pooled_theta: (dim,) of an earlier fit to the same rows with the same `pooled_ridge`; fitted if None.
        n_restarts: one in three random ones ends badly.
        temper_start: the E-step's first temper, annealed to 1 over `n_tempered` steps; 1 is plain EM, as it is where
            the median annotator with rows has a single stage.
        max_steps: EM steps after those.
        tolerance: of the gain of a step, relative to the penalised log-likelihood.
        seed: of the starts.

    Raises:
        ValueError: values that are not finite, no stage at all, uniform `start`.
    """
    _check(features, ridge, n_restarts, max_steps)
    stages, n_annotators = find_stages(votes, row_weights), votes.n_annotators
    if len(stages.winner) == 0:
        raise ValueError("no row prefers one item to another: all of them tie. There is nothing to fit.")
    problem = LinearRankings(features, stages)
    pooled = _pooled(problem, pooled_ridge, POOLED_TOLERANCE * tolerance) if pooled_theta is None else pooled_theta
    counts = stages.counts()
    is_tempered = n_types > 1 and temper_start < 1 and int(counts[counts > 0].median()) > 1
    schedule = temper_schedule(n_tempered + 1, temper_start)[:-1] if is_tempered else []
    n_restarts = 1 if n_types == 1 else n_restarts
    if start is not None and start.shape != (n_annotators, n_types):
        raise ValueError(f"start has shape {tuple(start.shape)}; responsibilities are ({n_annotators}, {n_types}).")

    def fitted(problem: LinearRankings, start: Tensor | None) -> tuple[_EM, LinearMixture]:
        starts = _starts(features, problem.stages, n_types, start, n_restarts, seed)
        em = _EM(problem, pooled, starts, ridge)
        for temper in schedule:
            em.step(temper)
        return em, em.best(*em.run(max_steps, tolerance), starts)

    if n_types == 1 or int((counts > 0).sum()) <= N_DRAWN:
        return fitted(problem, start)[1]
    people, keep, numbers = draw_people(stages.annotator, n_annotators, N_DRAWN, seed=seed)
    weight = None if stages.weight is None else stages.weight[keep]
    drawn = Stages(stages.winner[keep], stages.losers[keep], stages.absent[keep], numbers, len(people), weight)
    em, _ = fitted(LinearRankings(features, drawn), None if start is None else start[people])
    return _with_everybody(problem, em, ridge, max_steps, tolerance)


def _pooled(problem: LinearRankings, ridge: float, tolerance: float) -> Tensor:
    """(dim,) what fits everybody together."""
    columns = ConvexColumns(
        problem, torch.zeros(1, problem.features.shape[1], dtype=torch.float64), torch.zeros(()), ridge
    )
    everybody = torch.ones(problem.stages.n_annotators, 1, dtype=torch.float64)
    columns.minimise(everybody, POOLED_STEPS, tolerance=tolerance)
    return columns.theta[0]


def linear_log_likelihoods(
    theta: Tensor,
    features: Tensor,
    votes: Votes,
    row_weights: Tensor | None = None,
) -> Tensor:
    """log p_k of all of a person's judgements: theta (n_types, dim) → (n_annotators, n_types) nats.

    `row_weights`: (rows,) what a row counts for, as in `fit_linear_mixture`.
    """
    stages = find_stages(votes, row_weights)
    return LinearRankings(features, stages).log_likelihoods(theta.double())


def place_newcomers(
    theta: Tensor,
    mixing_weights: Tensor,
    features: Tensor,
    votes: Votes,
    row_weights: Tensor | None = None,
) -> Tensor:
    """Posterior of people who were not there when the mixture was fitted: (n_annotators, n_types).

    People without rows get the mixing weights.
    """
    return responsibilities(linear_log_likelihoods(theta, features, votes, row_weights), mixing_weights)


class _EM:
    """Restarts side by side; column r · n_types + k is type k of restart r."""

    def __init__(
        self, problem: LinearRankings, pooled: Tensor, starts: Tensor, ridge: float, *, theta: Tensor | None = None
    ) -> None:
        self.n_types = starts.shape[2]
        self.has_rows = problem.stages.counts() > 0
        self.gamma = starts
        self.eta = self._each(lambda r: mixing_weights(starts[r], self.has_rows))
        theta = pooled.expand(len(starts) * self.n_types, -1).clone() if theta is None else theta
        self.columns = ConvexColumns(problem, theta, pooled, ridge)
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


def _with_everybody(problem: LinearRankings, em: _EM, ridge: float, max_steps: int, tolerance: float) -> LinearMixture:
    """Judge all restarts on everybody and go on with EM from the best; `em` has run on a sample of people."""
    numbers, pooled = sorted(em.finished), em.columns.centre
    thetas, etas = ([em.finished[number][part] for number in numbers] for part in (0, 1))
    likelihoods = problem.log_likelihoods(torch.cat(thetas)).split(em.n_types, dim=1)
    posteriors = [responsibilities(part, eta) for part, eta in zip(likelihoods, etas, strict=True)]
    judged = [
        float(log_evidence(part, eta).sum()) - ridge / 2 * float((theta - pooled).square().sum())
        for part, eta, theta in zip(likelihoods, etas, thetas, strict=True)
    ]
    order = sorted(range(len(judged)), key=lambda r: -judged[r])
    best = order[0]
    whole = _EM(problem, pooled, posteriors[best][None], ridge, theta=thetas[best])
    fit = whole.best(*whole.run(max_steps, tolerance), posteriors[best][None])
    others = torch.tensor([judged[r] for r in order[1:]], dtype=torch.float64)
    return replace(
        fit,
        restart_types=torch.stack([fit.restart_types[0], *(posteriors[r].argmax(1) for r in order[1:])]),
        restart_objectives=torch.cat([fit.restart_objectives, others]),
    )


def _starts(
    features: Tensor, stages: Stages, n_types: int, start: Tensor | None, n_restarts: int, seed: int
) -> Tensor:
    """(n_restarts, n_annotators, n_types): the given or spectral one, then random ones."""
    first = spectral_start(features, stages, n_types, seed=seed) if start is None else start.double()
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
