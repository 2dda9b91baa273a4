"""Advantages of tokens for PPO: generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438)."""

import torch
from torch import Tensor

__all__ = ["clipped_value_loss", "generalised_advantages", "standardized", "token_rewards"]


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """Rewards (batch, time): the price of the KL at every token, the score of the completion at its last one.

    Args:
        scores: (batch,), one for each completion.
        kl: (batch, time), log-probability of each token under the policy less that under the reference, nats.
        mask: (batch, time), 1 on the completion's tokens, which come first.
        kl_coef: reward lost for one nat.
    """
    rewards = -kl_coef * kl * mask
    last = (mask.sum(1).long() - 1).clamp(min=0)
    rewards[torch.arange(len(last), device=last.device), last] += scores.to(rewards.dtype)
    return rewards * mask


def generalised_advantages(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Tensor:
    """Advantages (batch, time), equation 16: the sum over l of (γλ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} − V_t.

    Args:
        rewards, values, mask: (batch, time); the value behind a completion's end is 0.
        gamma: discount of a step.
        lam: λ, between bias (0: one step) and variance (1: the whole rest).
    """
    values = values * mask
    advantages, later = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(later)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        later = (delta + gamma * lam * later) * mask[:, t]
        advantages[:, t], following = later, values[:, t]
    return advantages


def standardized(values: Tensor, mask: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """(values − mean) / √variance where the mask is 1, else 0; shape (batch, time)."""
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, cliprange: float) -> Tensor:
    """Half the squared error (batch, time); a value that left `cliprange` about the old one is given no credit."""
    clipped = old_values + (values - old_values).clamp(-cliprange, cliprange)
    return 0.5 * torch.max((values - returns) ** 2, (clipped - returns) ** 2)
