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

from palign.functional.people_stages import StageBlock, stage_blocks

__all__ = ["WeightFit", "map_weights", "official_weights", "pair_log_likelihoods", "posterior_weights"]

MAX_STEPS = 100
SUM_ROWS = 65_536
CHUNK_ROWS = 512  # of the table of log-likelihoods: what is worked on stays in the cache


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


def pair_log_likelihoods(margins: Tensor, support: Tensor) -> Tensor:
    """log σ(margins · w) of every pair under every member of the support, for `posterior_weights`.

    Args:
        margins: (rows, n_prototypes): r_k(chosen) − r_k(rejected).
        support: (n_support, n_prototypes) on the simplex.

    Returns:
        (rows, n_support) nats. No gradient: it is filled a few rows at a time, thrice as fast as all at once.
    """
    margins, columns = margins.detach(), support.detach().to(margins).T.contiguous()
    table = margins.new_empty(len(margins), len(support))
    for first in range(0, len(margins), CHUNK_ROWS):
        block = slice(first, first + CHUNK_ROWS)
        table[block] = F.logsigmoid(margins[block] @ columns)
    return table


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
    total = log_likelihoods.new_zeros(n_annotators, len(support), dtype=torch.float64)
    for first in range(0, len(log_likelihoods), SUM_ROWS):  # a sum over 100,000 answers needs more than float32 holds
        part = slice(first, first + SUM_ROWS)
        total.index_add_(0, annotator_index[part], log_likelihoods[part].double())
    total += log_prior.double().log_softmax(0)
    posterior, places = total.softmax(1), support.double()
    mean = posterior @ places
    variance = (posterior @ places.square() - mean.square()).clamp_min(0)
    kind = log_likelihoods.dtype
    return WeightFit(mean.to(kind), variance.sqrt().to(kind), -total.logsumexp(1).to(kind))


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
        ValueError: a concentration, a prior mean or a start that is none; a score that is not finite.
        RuntimeError: someone is not at the optimum after 100 Newton steps (says how many and how far).
    """
    if not concentration > 0:
        raise ValueError(f"concentration is {concentration}; it counts answers that the prior is worth: positive.")
    barrier = concentration * _checked_prior(prior_mean, prototype_scores.shape[2])
    weights = (barrier / barrier.sum()).expand(n_annotators, -1) if start is None else start.double()
    if start is not None and (weights.shape != (n_annotators, len(barrier)) or not bool((weights > 0).all())):
        raise ValueError(
            f"start must be inside the simplex, ({n_annotators}, {len(barrier)}) and positive; it has shape "
            f"{tuple(weights.shape)} and least entry {float(weights.min()):.3g}. Leave it out to start at the mean."
        )
    weights = weights / weights.sum(1, keepdim=True)
    spread, objective = torch.empty_like(weights), weights.new_empty(n_annotators)
    unfinished = []
    scores = prototype_scores.detach().double()
    _check_finite(scores, ranks)
    for block in stage_blocks(scores, ranks, annotator_index, n_annotators):
        fitted, objective[block.people], hessian, decrement = _minimise(
            block, weights[block.people], barrier, tolerance
        )
        weights[block.people], spread[block.people] = fitted, _laplace_spread(hessian)
        unfinished.append(decrement[~(decrement <= tolerance)])
    failed = torch.cat(unfinished) if unfinished else weights.new_empty(0)
    if len(failed):
        raise RuntimeError(
            f"{len(failed)} of {n_annotators} people are not at their optimum after {MAX_STEPS} Newton steps "
            f"(largest squared decrement {float(failed.max()):.2g}, tolerance {tolerance:.2g}). Scores that reach "
            f"{float(scores.abs().max()):.3g} may be out of scale; check them for outliers."
        )
    return WeightFit(weights.float(), spread.float(), objective.float())


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

    Everybody's logits are fitted separately, side by side. The spread is unknown to this method: NaN.
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
        person_logits = logits[people].clone().requires_grad_()
        optimizer = torch.optim.AdamW([person_logits], lr=learning_rate)
        for _ in range(n_epochs):
            order = torch.rand(len(people), count, generator=generator).argsort(1)
            for batch in rows.gather(1, order).split(batch_size, dim=1):
                margin = (margins[batch] * person_logits.softmax(1)[:, None]).sum(-1)
                optimizer.zero_grad()
                F.softplus(-margin).mean(1).sum().backward()
                optimizer.step()
        logits[people] = person_logits.detach()
        loss[people] = F.softplus(-(margins[rows] * logits[people].softmax(1)[:, None]).sum(-1)).sum(1)
    return WeightFit(logits.softmax(1), torch.full_like(logits, float("nan")), loss)


def _checked_prior(prior_mean: Tensor, n_prototypes: int) -> Tensor:
    prior = prior_mean.detach().double()
    if prior.shape != (n_prototypes,) or not bool((prior > 0).all()) or abs(float(prior.sum()) - 1) > 1e-3:
        raise ValueError(
            f"prior_mean must be {n_prototypes} positive numbers that sum to one (the population's mean weights), not "
            f"{[round(number, 4) for number in prior.flatten().tolist()[:8]]} of shape {tuple(prior.shape)}."
        )
    return prior / prior.sum()


def _check_finite(scores: Tensor, ranks: Tensor) -> None:
    bad = (~scores.isfinite().all(-1) & (ranks >= 0)).nonzero()
    if len(bad):
        row, item = bad[0].tolist()
        raise ValueError(
            f"prototype_scores, row {row}, item {item} (counting from 0): {scores[row, item].tolist()[:8]} is not "
            "finite, so nobody can be placed by it. Look for NaN in the embeddings or in the trained model."
        )


def _minimise(
    block: StageBlock, weights: Tensor, barrier: Tensor, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Damped Newton for the people of a block → weights, objective, Hessian there, squared decrement."""
    hessians = weights.new_empty(*weights.shape, weights.shape[1])
    objective, decrements = weights.new_empty(len(weights)), weights.new_full((len(weights),), float("inf"))
    rows, now = torch.arange(len(weights), device=weights.device), weights.clone()
    logits = block.logits(now)
    value = block.loss(logits) - (barrier * now.log()).sum(1)
    for _ in range(MAX_STEPS):
        gradient, hessian = block.derivatives(logits)
        hessian = hessian + torch.diag_embed(barrier / now.square())
        step, decrement = _newton_step(gradient - barrier / now, hessian)
        weights[rows], objective[rows], hessians[rows], decrements[rows] = now, value, hessian, decrement
        go_on = (~(decrement <= tolerance)).nonzero()[:, 0]
        if len(go_on) == 0:
            break
        if len(go_on) < len(rows):
            rows, block, value = rows[go_on], block.take(go_on), value[go_on]
            now, step, decrement = now[go_on], step[go_on], decrement[go_on]
        now, logits, value = _damped(block, now, value, step, decrement, barrier)
    return weights, objective, hessians, decrements


def _newton_step(gradient: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Step (people, K) that keeps Σw, and the squared Newton decrement (people,)."""
    ones = torch.ones_like(gradient)
    solved = torch.linalg.solve(hessian, torch.stack([gradient, ones], -1))
    multiplier = solved[..., 0].sum(1) / solved[..., 1].sum(1)
    step = multiplier[:, None] * solved[..., 1] - solved[..., 0]
    return step, -(gradient * step).sum(1)


def _damped(
    block: StageBlock, weights: Tensor, before: Tensor, step: Tensor, decrement: Tensor, barrier: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Backtrack until everybody stays inside and falls by a tenth of what the step promises (Armijo).

    Returns the new weights, the logits there and the value there.
    """
    shrink = (-step / weights).max(1).values.clamp_min(1e-12)
    size = torch.minimum(torch.ones_like(shrink), 0.99 / shrink)
    for _ in range(60):
        after = weights + size[:, None] * step
        after = after / after.sum(1, keepdim=True)
        logits = block.logits(after)
        value = block.loss(logits) - (barrier * after.log()).sum(1)
        good = value <= before - 0.1 * size * decrement + 1e-12 * before.abs()
        if good.all():
            break
        size = torch.where(good, size, size / 2)
    return after, logits, value


def _laplace_spread(hessian: Tensor) -> Tensor:
    """Square root of the diagonal of the inverse Hessian on the plane Σw = constant: (people, K)."""
    inverse = torch.linalg.inv(hessian)
    column = inverse.sum(2)
    covariance = inverse - column[:, :, None] * column[:, None, :] / column.sum(1)[:, None, None]
    return covariance.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
