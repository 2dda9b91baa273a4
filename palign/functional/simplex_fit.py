"""Where on the simplex does a person stand, given a few answers and a population?

Three ways, all with the network untouched:

1. `posterior_weights`: Bayes with the population itself as the prior. Its support is the weights of people already
   known; the answer is the posterior mean, which is also the unique minimiser of a convex problem,
   min over π in the simplex of  Σ_s π_s · (−log p(answers | w_s)) + KL(π ‖ prior)  (Gibbs' variational principle).
   Works for every scorer, has no iterations, and keeps what a mean or a covariance of the population forgets: that
   people come in types.
2. `map_weights`: maximum a posteriori under a Dirichlet prior of given mean and concentration. The margin being linear
   in w, it is a convex problem with one optimum; solved by damped Newton steps for many people at once.
3. `official_weights`: the schedule of PAL's reference code, kept so that differences can be attributed.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from palign.functional.losses import plackett_luce, strictly_below

__all__ = ["WeightFit", "map_weights", "official_weights", "posterior_weights"]

MAX_STEPS = 100
CHUNK_PEOPLE = 4096


@dataclass(frozen=True)
class WeightFit:
    """Fitted people.

    Attributes:
        weights: (n_annotators, n_prototypes) on the simplex.
        spread: (n_annotators, n_prototypes) posterior standard deviation of each weight.
        objective: (n_annotators,) nats: −log evidence (`posterior_weights`), else the value that was minimised.
    """

    weights: Tensor
    spread: Tensor
    objective: Tensor


def posterior_weights(
    log_likelihoods: Tensor, annotator_index: Tensor, support: Tensor, log_prior: Tensor, *, n_annotators: int
) -> WeightFit:
    """Posterior mean over a population's weights.

    Args:
        log_likelihoods: (rows, n_support) nats: each answer under each member of the support.
        annotator_index: (rows,) int64 in [0, n_annotators).
        support: (n_support, n_prototypes) on the simplex.
        log_prior: (n_support,) nats; normalised here.

    A person without rows gets the prior.
    """
    total = log_likelihoods.new_zeros(n_annotators, len(support)).index_add_(0, annotator_index, log_likelihoods)
    total += log_prior.log_softmax(0)
    evidence = total.logsumexp(1)
    posterior = (total - evidence[:, None]).exp()
    mean = posterior @ support
    variance = (posterior @ support.square() - mean.square()).clamp_min(0)
    return WeightFit(mean, variance.sqrt(), -evidence)


def map_weights(
    prototype_scores: Tensor,
    ranks: Tensor,
    annotator_index: Tensor,
    *,
    n_annotators: int,
    prior_mean: Tensor,
    concentration: float = 1.0,
    start: Tensor | None = None,
    tolerance: float = 1e-8,
) -> WeightFit:
    """argmin over the simplex of  Σ_rows −log p(ranking | scores · w) − concentration · Σ_k mean_k log w_k.

    Args:
        prototype_scores: (rows, n_items, n_prototypes), linear in w up to a constant of the row.
        ranks: (rows, n_items), −1 is padding.
        annotator_index: (rows,) int64.
        prior_mean: (n_prototypes,) positive, sums to one: the population's mean.
        concentration: answers that the prior is worth; positive.
        start: (n_annotators, n_prototypes) inside the simplex; the mean if None. The result does not depend on it.
        tolerance: squared Newton decrement (nats) at which a person is done.

    Raises:
        RuntimeError: someone is not at the optimum after 100 Newton steps (says how many and how far).
    """
    if concentration <= 0:
        raise ValueError(f"concentration is {concentration}; it counts answers that the prior is worth: positive.")
    barrier = concentration * prior_mean.double()
    weights = prior_mean.double().expand(n_annotators, -1).clone() if start is None else start.double().clone()
    rows = _RowsOfPeople(prototype_scores.double(), ranks, annotator_index, n_annotators)
    active = torch.arange(n_annotators, device=weights.device)
    for _ in range(MAX_STEPS):
        gradient, hessian = rows.derivatives(weights)
        gradient = gradient - barrier / weights
        hessian = hessian + torch.diag_embed(barrier / weights.square())
        step, decrement = _newton_step(gradient, hessian)
        active = decrement > tolerance
        if not active.any():
            break
        weights = _damped(rows, weights, step * active[:, None], decrement, barrier)
    else:
        raise RuntimeError(
            f"{int(active.sum())} of {n_annotators} people are not at their optimum after {MAX_STEPS} Newton steps "
            f"(largest squared decrement {float(decrement.max()):.2g}, tolerance {tolerance:.2g}). Scores that reach "
            f"{float(prototype_scores.abs().max()):.3g} may be out of scale; check them for outliers."
        )
    objective = rows.negative_log_likelihood(weights) - (barrier * weights.log()).sum(1)
    return WeightFit(weights.float(), _laplace_spread(hessian).float(), objective.float())


def official_weights(
    margins: Tensor,
    annotator_index: Tensor,
    *,
    n_annotators: int,
    generator: torch.Generator,
    learning_rate: float = 5e-3,
    n_epochs: int = 20,
    batch_size: int = 4,
) -> WeightFit:
    """The reference code's way with a newcomer: logits start at N(0, 1), AdamW, mini-batches of four, twenty epochs.

    Args:
        margins: (rows, n_prototypes): r_k(chosen) − r_k(rejected) of each prototype.
        annotator_index: (rows,) int64.

    Everybody has an optimiser of their own; they run side by side. The spread is unknown to this method: NaN.
    """
    logits = torch.randn(n_annotators, margins.shape[1], generator=generator)
    loss = torch.zeros(n_annotators)
    counts = torch.bincount(annotator_index, minlength=n_annotators)
    for count in counts.unique().tolist():
        if count == 0:
            continue
        people = torch.where(counts == count)[0]
        rows = torch.argsort(annotator_index, stable=True)
        rows = rows[torch.isin(annotator_index[rows], people)].reshape(len(people), count)
        own = logits[people].clone().requires_grad_()
        optimizer = torch.optim.AdamW([own], lr=learning_rate)
        for _ in range(n_epochs):
            order = torch.rand(len(people), count, generator=generator).argsort(1)
            for batch in rows.gather(1, order).split(batch_size, dim=1):
                margin = (margins[batch] * own.softmax(1)[:, None]).sum(-1)
                optimizer.zero_grad()
                F.softplus(-margin).mean(1).sum().backward()
                optimizer.step()
        logits[people] = own.detach()
        loss[people] = F.softplus(-(margins[rows] * logits[people].softmax(1)[:, None]).sum(-1)).sum(1)
    return WeightFit(logits.softmax(1), torch.full_like(logits, float("nan")), loss)


class _RowsOfPeople:
    """Everybody's log-likelihood, gradient and Hessian in w; rows are laid out by person once, padded to the longest."""

    def __init__(self, scores: Tensor, ranks: Tensor, annotator_index: Tensor, n_annotators: int):
        order = torch.argsort(annotator_index, stable=True)
        counts = torch.bincount(annotator_index, minlength=n_annotators)
        position = torch.arange(len(order)) - (counts.cumsum(0) - counts)[annotator_index[order]]
        n_rows, (_, n_items, n_prototypes) = int(counts.max()) if len(order) else 0, scores.shape
        self.scores = scores.new_zeros(n_annotators, n_rows, n_items, n_prototypes)
        self.ranks = ranks.new_full((n_annotators, n_rows, n_items), -1)
        self.scores[annotator_index[order], position] = scores[order]
        self.ranks[annotator_index[order], position] = ranks[order]
        beaten = strictly_below(self.ranks)
        self.stage = beaten.any(-1)  # (people, rows, items): this item wins a stage
        self.member = (beaten | torch.eye(n_items, dtype=torch.bool)) & self.stage[..., None]

    def negative_log_likelihood(self, weights: Tensor) -> Tensor:
        """(people,) nats."""
        return plackett_luce(torch.einsum("nrik,nk->nri", self.scores, weights), self.ranks).sum(1)

    def derivatives(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (people, n_prototypes) and Hessian (people, n_prototypes, n_prototypes) of the above."""
        total = torch.einsum("nrik,nk->nri", self.scores, weights)
        logits = total[..., None, :].masked_fill(~self.member, float("-inf"))
        share = torch.nan_to_num(logits.softmax(-1))  # (people, rows, winners, items); 0 where there is no stage
        expected = torch.einsum("nrwi,nrik->nrwk", share, self.scores)
        gradient = ((expected - self.scores) * self.stage[..., None]).sum((1, 2))
        second = torch.einsum("nri,nrik,nril->nkl", share.sum(2), self.scores, self.scores)
        return gradient, second - torch.einsum("nrwk,nrwl->nkl", expected, expected)


def _newton_step(gradient: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Step (people, K) that keeps Σw, and the squared Newton decrement (people,)."""
    ones = torch.ones_like(gradient)
    solved = torch.linalg.solve(hessian, torch.stack([gradient, ones], -1))
    multiplier = solved[..., 0].sum(1) / solved[..., 1].sum(1)
    step = multiplier[:, None] * solved[..., 1] - solved[..., 0]
    return step, -(gradient * step).sum(1)


def _damped(rows: _RowsOfPeople, weights: Tensor, step: Tensor, decrement: Tensor, barrier: Tensor) -> Tensor:
    """Backtrack until everybody stays inside and falls by a tenth of what the step promises (Armijo)."""

    def value(w: Tensor) -> Tensor:
        return rows.negative_log_likelihood(w) - (barrier * w.log()).sum(1)

    shrink = (-step / weights).max(1).values.clamp_min(1e-12)
    size = torch.minimum(torch.ones_like(shrink), 0.99 / shrink)
    before = value(weights)
    for _ in range(60):
        after = weights + size[:, None] * step
        good = value(after) <= before - 0.1 * size * decrement + 1e-12 * before.abs()
        good |= step.abs().sum(1) == 0
        if good.all():
            break
        size = torch.where(good, size, size / 2)
    return after / after.sum(1, keepdim=True)


def _laplace_spread(hessian: Tensor) -> Tensor:
    """Square root of the diagonal of the inverse Hessian on the plane Σw = constant: (people, K)."""
    inverse = torch.linalg.inv(hessian)
    column = inverse.sum(2)
    covariance = inverse - column[:, :, None] * column[:, None, :] / column.sum(1)[:, None, None]
    return covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
