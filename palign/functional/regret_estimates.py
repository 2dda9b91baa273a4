"""Values `L_ij = E_x E_{y~π_j} h_i` from samples, and how sure one may be of the game that is played on them.

All policies answer the same prompts, and whole prompts are resampled: an entry of the table is a mean over prompts,
and so is every difference of entries.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palign.functional.regret import MinmaxRegret, Vector, regret_matrix, solve_minmax_regret

N_CANDIDATES = 81  # of the true maximum, tried for `max_interval`

__all__ = [
    "GameIntervals",
    "Interval",
    "PolicyIntervals",
    "bootstrap_game",
    "bootstrap_means",
    "bootstrap_policies",
    "interval",
    "max_interval",
    "monte_carlo_values",
    "prefix_expectation",
]


@dataclass(frozen=True)
class Interval:
    """An interval; all are float64 of one shape, `draws` with the draws before it."""

    estimate: Tensor
    low: Tensor
    high: Tensor
    draws: Tensor


@dataclass(frozen=True)
class GameIntervals:
    """The game on the mean over prompts, and on resampled prompts.

    Attributes:
        game: on all prompts.
        regrets: (n_types, n_policies).
        policy_weights: (n_policies,).
        value: ().
    """

    game: MinmaxRegret
    regrets: Interval
    policy_weights: Interval
    value: Interval


@dataclass(frozen=True)
class PolicyIntervals:
    """Regret of each policy by itself, (n_policies,) each: of the type that loses most, and the mean over types.

    Draws of policies are paired: `interval(a − b, draws_a − draws_b)` is that of a difference.
    """

    max_regret: Interval
    mean_regret: Interval


def monte_carlo_values(log_ratios: Tensor) -> Tensor:
    """Mean of sampled log-ratios, by prompt.

    Args:
        log_ratios: (n_prompts, n_samples, n_types, n_policies) `h_i(y)` of completions y that policy j sampled, nats.

    Returns:
        (n_prompts, n_types, n_policies) float64; the mean over prompts is L.
    """
    if log_ratios.ndim != 4 or 0 in log_ratios.shape:
        raise ValueError(
            f"log_ratios have shape {tuple(log_ratios.shape)}; give (n_prompts, n_samples, n_types, n_policies)."
        )
    wrong = (~torch.isfinite(log_ratios)).nonzero()
    if len(wrong):
        prompt, sample, kind, policy = wrong[0].tolist()
        raise ValueError(
            f"The log-ratio of prompt {prompt}, sample {sample} of policy {policy} under type {kind} is "
            f"{log_ratios[tuple(wrong[0])].item()}; every one must be finite. Look for empty completions."
        )
    return log_ratios.double().mean(1)


def prefix_expectation(policy_logits: Tensor, type_logits: Tensor, reference_logits: Tensor, mask: Tensor) -> Tensor:
    """Σ_t Σ_v π_j(v | prefix) (log π_i − log π_ref)(v | prefix) along a sampled completion, nats.

    Unbiased for E_{y~π_j} h_i if π_j sampled the prefixes at temperature 1 without truncation (chain rule), with less
    noise than the sampled log-ratio: only the prefix is random, not the token.

    Args:
        policy_logits: (..., seq_len, vocab) of the policy that sampled; −inf for tokens it never says.
        type_logits, reference_logits: as `policy_logits`, or of shapes that broadcast with it.
        mask: (..., seq_len) bool, where a token of the completion was drawn, the end-of-text token too.

    Returns:
        (...), at least float32.
    """
    dtype = torch.promote_types(policy_logits.dtype, torch.float32)
    probabilities = policy_logits.to(dtype).softmax(-1)
    gaps = type_logits.to(dtype).log_softmax(-1) - reference_logits.to(dtype).log_softmax(-1)
    expected = (probabilities * gaps.masked_fill(probabilities == 0, 0.0)).sum(-1)
    return expected.masked_fill(~mask, 0.0).sum(-1)


def bootstrap_means(per_prompt: Tensor, *, n_draws: int = 1000, seed: int = 0) -> Tensor:
    """Means over prompts drawn with replacement: (n_prompts, ...) → (n_draws, ...) float64."""
    n_prompts = len(per_prompt)
    if n_prompts < 2 or n_draws < 2:
        raise ValueError(f"{n_prompts} prompts and {n_draws} draws; a bootstrap needs at least 2 of each.")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n_prompts, (n_draws, n_prompts), generator=generator)
    counts = torch.zeros(n_draws, n_prompts, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    values = per_prompt.detach().double().cpu()
    return (counts @ values.reshape(n_prompts, -1) / n_prompts).view(n_draws, *values.shape[1:])


def interval(estimate: Tensor, draws: Tensor, *, level: float = 0.95) -> Interval:
    """Percentile interval of draws (n_draws, ...) about an estimate (...)."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, .95 say.")
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws.dtype)
    low, high = draws.quantile(tails, dim=0)
    return Interval(estimate, low, high, draws)


def max_interval(estimate: Tensor, draws: Tensor, *, level: float = 0.95) -> Interval:
    """Interval of the largest of several means, that of the worst type say, which holds when they are equal, too.

    The largest of noisy means is too large, the more so the nearer they are, and percentiles of its bootstrap are
    twice so. A test is inverted instead: a true maximum t is kept if the means nearest to the estimate that have
    it, with resampled noise, give the maximum seen neither too seldom above nor too seldom below (hybrid resampling,
    Chuang and Lai 2000, Statistica Sinica 10; `evaluation/statistics/intervals.py` treats the gap of group means
    alike).

    Args:
        estimate: (n, ...) means, the largest taken over the first axis.
        draws: (n_draws, n, ...) the same on resamples.
        level: coverage aimed at.

    Returns:
        An interval of (...) values; its draws are the maxima of the resamples, paired with those of other means.
    """
    columns, resampled = estimate.reshape(len(estimate), -1).T, draws.reshape(*draws.shape[:2], -1).movedim(-1, 0)
    ends = torch.stack(
        [_max_ends(column, table - column, level) for column, table in zip(columns, resampled, strict=True)]
    )
    low, high = ends.T.view(2, *estimate.shape[1:])
    return Interval(estimate.max(0).values, low, high, draws.max(1).values)


def _max_ends(means: Tensor, noise: Tensor, level: float) -> Tensor:
    """(2,) ends of the interval of the largest of `means` (n,), from noise (n_draws, n)."""
    seen, reach = means.max(), 2 * noise.abs().max(1).values.quantile((1 + level) / 2)
    if reach == 0:
        return seen.repeat(2)
    candidates = seen + torch.linspace(-1, 1, N_CANDIDATES, dtype=means.dtype) * reach
    raised = ((candidates[:, None] - means) ** 2 / noise.var(0).clamp_min(1e-300)).argmin(1)  # nearest below
    fitted = torch.minimum(means, candidates[:, None])
    is_raised = torch.arange(len(means)) == raised[:, None]
    fitted = torch.where((candidates > seen)[:, None] & is_raised, candidates[:, None], fitted)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype)
    low, high = torch.stack([(at + noise).max(1).values.quantile(tails) for at in fitted], 1)
    # quantiles rise with the candidates: each passes the maximum seen at one end of the interval
    first = np.interp(float(seen), high.numpy(), candidates.numpy())
    last = np.interp(float(seen), low.numpy(), candidates.numpy())
    return torch.tensor([min(first, float(seen)), max(last, float(seen))], dtype=means.dtype)


def bootstrap_game(
    per_prompt: Tensor,
    *,
    own_values: Tensor | None = None,
    beta: float = 1.0,
    type_importance: Vector | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> GameIntervals:
    """Solve the game anew on every draw of prompts.

    Args:
        per_prompt: (n_prompts, n_types, n_policies) values, nats.
        own_values: (n_prompts, n_types), as in `regret_matrix`.
    """
    regrets, drawn = _regrets(per_prompt, own_values, beta, n_draws, seed)
    game = solve_minmax_regret(regrets, type_importance=type_importance)
    games = [solve_minmax_regret(table, type_importance=type_importance) for table in drawn]
    weights = torch.stack([g.policy_weights for g in games])
    values = torch.tensor([g.value for g in games], dtype=torch.float64)
    return GameIntervals(
        game=game,
        regrets=interval(regrets, drawn, level=level),
        policy_weights=interval(game.policy_weights, weights, level=level),
        value=interval(torch.tensor(game.value, dtype=torch.float64), values, level=level),
    )


def bootstrap_policies(
    per_prompt: Tensor,
    *,
    own_values: Tensor,
    beta: float = 1.0,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PolicyIntervals:
    """Worst and mean regret of each of several policies; arguments as `bootstrap_game`.

    The same seed draws the same prompts, here and there.
    """
    regrets, drawn = _regrets(per_prompt, own_values, beta, n_draws, seed)
    return PolicyIntervals(
        max_regret=max_interval(regrets, drawn, level=level),
        mean_regret=interval(regrets.mean(0), drawn.mean(1), level=level),
    )


def _regrets(
    per_prompt: Tensor, own_values: Tensor | None, beta: float, n_draws: int, seed: int
) -> tuple[Tensor, Tensor]:
    """(n_types, n_policies) of all prompts and (n_draws, n_types, n_policies) of draws."""
    if per_prompt.ndim != 3:
        raise ValueError(f"per_prompt has shape {tuple(per_prompt.shape)}; give (n_prompts, n_types, n_policies).")
    if own_values is None:
        drawn = bootstrap_means(per_prompt, n_draws=n_draws, seed=seed)
        return regret_matrix(per_prompt.double().mean(0), beta=beta), regret_matrix(drawn, beta=beta)
    if own_values.shape != per_prompt.shape[:2]:
        raise ValueError(f"own_values have shape {tuple(own_values.shape)}; give {tuple(per_prompt.shape[:2])}.")
    # `own_values` are resampled with the rest: a last column of the table
    table = torch.cat([per_prompt.double(), own_values.double()[..., None]], 2)
    drawn, mean = bootstrap_means(table, n_draws=n_draws, seed=seed), table.mean(0)
    return (
        regret_matrix(mean[:, :-1], own_values=mean[:, -1], beta=beta),
        regret_matrix(drawn[..., :-1], own_values=drawn[..., -1], beta=beta),
    )
