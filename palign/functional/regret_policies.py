"""Ways from several policies to one, exactly, for policies that are tables of log-probabilities.

The yardstick for the same routes on language models. A table is (n_prompts, n_responses) log-probabilities; prompts
count equally. A log-linear policy is π_θ ∝ π_ref exp(θ · φ(x, y)).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq, minimize
from torch import Tensor

from palign.functional.regret import importance_of, regret_matrix

__all__ = [
    "KLMinmax",
    "distill_log_linear",
    "geometric_policy",
    "kl_divergence",
    "kl_minmax",
    "kl_minmax_at_budget",
    "log_linear_policy",
    "mixture_policy",
    "pooled_dpo_policy",
    "regress_log_linear",
    "tabular_regrets",
    "tabular_values",
]

TOLERANCE = 1e-12
MAX_STEPS = 100


@dataclass(frozen=True)
class KLMinmax:
    """The policy of min over π of max_i R_i(π) + τ KL(π ‖ π_ref).

    Attributes:
        log_policy: (n_prompts, n_responses).
        type_weights: (n_types,) q of the geometric family that it belongs to.
        regrets: (n_types,).
        kl: KL to the reference, nats.
        kl_weight: τ, reward per nat.
        gap: primal less dual objective.
    """

    log_policy: Tensor
    type_weights: Tensor
    regrets: Tensor
    kl: float
    kl_weight: float
    gap: float


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) averaged over prompts: (..., n_prompts, n_responses) → (...), nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


def tabular_values(log_types: Tensor, log_policies: Tensor, log_reference: Tensor) -> Tensor:
    """L_ij = E_x E_{y~π_j} h_i: (n_types, n_prompts, n_responses), (n_policies, …) → (n_types, n_policies)."""
    return torch.einsum("ixy,jxy->ij", log_types - log_reference, log_policies.exp()) / log_reference.shape[0]


def tabular_regrets(log_types: Tensor, log_policies: Tensor, log_reference: Tensor, *, beta: float = 1.0) -> Tensor:
    """R_ij of any policies under the types: (n_types, n_policies), units of reward."""
    own_values = tabular_values(log_types, log_types, log_reference).diagonal()
    return regret_matrix(tabular_values(log_types, log_policies, log_reference), own_values=own_values, beta=beta)


def mixture_policy(log_policies: Tensor, weights: Tensor) -> Tensor:
    """Of whole responses: log Σ_k w_k π_k(y | x). (n_policies, n_prompts, n_responses) → (n_prompts, n_responses)."""
    return (log_policies + weights.log()[:, None, None]).logsumexp(0)


def geometric_policy(log_policies: Tensor, log_reference: Tensor, weights: Tensor) -> Tensor:
    """π ∝ π_ref exp(Σ_k w_k h_k); weights need not sum to 1: their sum is how far it goes from the reference."""
    return (log_reference + torch.einsum("k,kxy->xy", weights, log_policies - log_reference)).log_softmax(-1)


def log_linear_policy(theta: Tensor, features: Tensor, log_reference: Tensor) -> Tensor:
    """π ∝ π_ref exp(θ · φ): (d,), (n_prompts, n_responses, d) → (n_prompts, n_responses)."""
    return (log_reference + features @ theta).log_softmax(-1)


def distill_log_linear(log_target: Tensor, features: Tensor, log_reference: Tensor) -> Tensor:
    """θ of the least cross-entropy to a target policy, by Newton's method: (d,).

    At the optimum E φ is that of the target. h_i of a log-linear type is linear in φ, so every type's regret is kept,
    and of all policies with that E φ this one is the nearest to the reference (Csiszár 1975).

    Args:
        log_target, log_reference: (n_prompts, n_responses).
        features: (n_prompts, n_responses, d).

    Raises:
        RuntimeError: no convergence, as where the target gives some response no probability.
    """
    wanted = torch.einsum("xy,xyd->xd", log_target.exp(), features)
    theta = features.new_zeros(features.shape[-1])
    for _ in range(MAX_STEPS):
        log_policy = log_linear_policy(theta, features, log_reference)
        mean = torch.einsum("xy,xyd->xd", log_policy.exp(), features)
        gradient = (mean - wanted).mean(0)
        if gradient.abs().max() < TOLERANCE:
            return theta
        centred = features - mean[:, None]
        hessian = torch.einsum("xy,xyd,xye->de", log_policy.exp(), centred, centred) / len(features)
        step = torch.linalg.lstsq(hessian, -gradient[:, None], driver="gelsd").solution[:, 0]
        theta = theta + _damped(step, theta, gradient, log_target, features, log_reference)
    raise RuntimeError(f"Distillation stopped after {MAX_STEPS} steps at a gradient of {gradient.abs().max():.2g}.")


def regress_log_linear(log_policies: Tensor, weights: Tensor, features: Tensor, log_reference: Tensor) -> Tensor:
    """θ whose margins θ · Δφ are regressed on Σ_k w_k Δh_k over all pairs of responses to a prompt: (d,).

    Of log-linear policies: Σ_k w_k θ_k. Squares over all pairs are squares about the prompt's mean.
    """
    log_ratios = torch.einsum("k,kxy->xy", weights, log_policies - log_reference)
    margins = (log_ratios - log_ratios.mean(1, keepdim=True)).flatten()
    gaps = (features - features.mean(1, keepdim=True)).flatten(0, 1)
    return torch.linalg.lstsq(gaps, margins[:, None], driver="gelsd").solution[:, 0]


def kl_minmax(
    log_types: Tensor,
    log_reference: Tensor,
    *,
    kl_weight: float,
    beta: float = 1.0,
    type_importance: Tensor | None = None,
) -> KLMinmax:
    """min over all policies of max_i c_i R_i(π) + τ KL(π ‖ π_ref), by its dual.

    For weights p of the simplex the best policy is geometric, π ∝ π_ref exp((β/τ) Σ_i c_i p_i h_i); the dual objective
    is concave in p, with gradient c_i R_i(π).

    Args:
        log_types: (n_types, n_prompts, n_responses).
        log_reference: (n_prompts, n_responses).
        kl_weight: τ > 0, reward per nat.
        type_importance: (n_types,) c ≥ 0, one of them above 0; ones if None.

    Returns:
        `type_weights` are c_i p_i, what the policy's tilt is made of: of sum 1 where c is 1. `regrets` are without c.

    Raises:
        ValueError: τ is not above 0, or the importance is no such vector.
    """
    if not kl_weight > 0:
        raise ValueError(f"kl_weight is {kl_weight}; it must be above 0.")
    log_ratios = log_types - log_reference
    own_values = torch.einsum("ixy,ixy->i", log_ratios, log_types.exp()) / len(log_reference)
    importance = importance_of(type_importance, len(log_types))

    def policy(q: Tensor) -> tuple[Tensor, Tensor]:
        tilt = torch.einsum("i,ixy->xy", q * (beta / kl_weight), log_ratios)
        unnormalised = log_reference + tilt
        return unnormalised, unnormalised.logsumexp(-1)

    def regrets(q: Tensor) -> Tensor:
        unnormalised, log_z = policy(q)
        probabilities = (unnormalised - log_z[:, None]).exp()
        return beta * (own_values - torch.einsum("ixy,xy->i", log_ratios, probabilities) / len(log_reference))

    def minus_dual(p: np.ndarray) -> tuple[float, np.ndarray]:
        q = importance * torch.from_numpy(p)
        _, log_z = policy(q)
        dual = beta * (q @ own_values) - kl_weight * log_z.mean()
        return -dual.item(), -(importance * regrets(q)).numpy()

    q = importance * torch.from_numpy(_maximise_on_simplex(minus_dual, len(log_types)))
    unnormalised, log_z = policy(q)
    log_policy, policy_regrets = unnormalised - log_z[:, None], regrets(q)
    return KLMinmax(
        log_policy=log_policy,
        type_weights=q,
        regrets=policy_regrets,
        kl=kl_divergence(log_policy, log_reference).item(),
        kl_weight=kl_weight,
        gap=((importance * policy_regrets).max() - q @ policy_regrets).item(),
    )


def kl_minmax_at_budget(
    log_types: Tensor, log_reference: Tensor, *, kl_budget: float, beta: float = 1.0, accuracy: float = 1e-6
) -> KLMinmax:
    """min over policies of max_i R_i(π) with KL(π ‖ π_ref) = `kl_budget` nats: τ is sought between 1e-3 and 1e3 β.

    Raises:
        ValueError: no τ in that range gives such a KL; the range of KL is named.
    """

    def excess(log_tau: float) -> float:
        return kl_minmax(log_types, log_reference, kl_weight=float(np.exp(log_tau)), beta=beta).kl - kl_budget

    low, high = np.log(1e-3 * beta), np.log(1e3 * beta)
    most, least = excess(low) + kl_budget, excess(high) + kl_budget
    if not least <= kl_budget <= most:
        raise ValueError(f"kl_budget is {kl_budget:.3g} nats; this family reaches {least:.3g} to {most:.3g}.")
    log_tau = brentq(excess, low, high, xtol=accuracy)
    return kl_minmax(log_types, log_reference, kl_weight=float(np.exp(log_tau)), beta=beta)


def pooled_dpo_policy(vote_probabilities: Tensor, weights: Tensor, log_reference: Tensor, *, beta: float) -> Tensor:
    """The policy of the least expected DPO loss on pairs drawn evenly, votes of the types pooled by weight.

    Args:
        vote_probabilities: (n_types, n_prompts, n_responses, n_responses) that type i prefers the former to the
            latter; p and its transpose sum to 1.
        weights: (n_types,) of sum 1.
        log_reference: (n_prompts, n_responses).

    Returns:
        (n_prompts, n_responses) log-probabilities.
    """
    votes = torch.einsum("i,ixab->xab", weights, vote_probabilities)
    scores = torch.zeros_like(log_reference)  # β h up to a constant of the prompt
    n_responses = scores.shape[1]
    off_diagonal = 1 - torch.eye(n_responses, dtype=scores.dtype)
    for _ in range(MAX_STEPS):
        predicted = (scores[:, :, None] - scores[:, None]).sigmoid()
        gradient = ((predicted - votes) * off_diagonal).sum(2)
        if gradient.abs().max() < TOLERANCE * n_responses:
            return (log_reference + scores / beta).log_softmax(-1)
        curvature = predicted * (1 - predicted) * off_diagonal
        # the constant of a prompt is free: 1/n in every entry makes the Laplacian regular and changes no step
        hessian = torch.diag_embed(curvature.sum(2)) - curvature + 1 / n_responses
        step = torch.linalg.solve(hessian, gradient)
        scores = scores - step * (2.0 / step.abs().amax(1, keepdim=True).clamp_min(2.0))
    raise RuntimeError(f"Pooled DPO stopped after {MAX_STEPS} steps at a gradient of {gradient.abs().max():.2g}.")


def _damped(
    step: Tensor, theta: Tensor, gradient: Tensor, log_target: Tensor, features: Tensor, log_reference: Tensor
) -> Tensor:
    """Halve a Newton step until the cross-entropy falls as it should (Armijo)."""

    def cross_entropy(at: Tensor) -> Tensor:
        return -(log_target.exp() * log_linear_policy(at, features, log_reference)).sum(-1).mean()

    start, slope = cross_entropy(theta), gradient @ step
    while cross_entropy(theta + step) > start + 1e-4 * slope + 1e-14 * start.abs() and step.abs().max() > 1e-300:
        step, slope = step / 2, slope / 2
    return step


def _maximise_on_simplex(minus_objective, n: int) -> np.ndarray:
    """argmax over the simplex of a smooth concave function given as (−value, −gradient); float64 (n,)."""
    start = np.full(n, 1 / n)
    if n == 1:
        return start
    solution = minimize(
        minus_objective,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * n,
        constraints={"type": "eq", "fun": lambda q: q.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    q = np.clip(solution.x, 0.0, None)
    return q / q.sum()
