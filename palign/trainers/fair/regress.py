"""Regression on Σ_k w_k h_k: the route `regress`, its rows and its loss.

(h_θ − Σ_k w_k h_k)², about the mean of completions of one prompt: all their pair margins at once.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from palign.functional.regret import regret_matrix
from palign.functional.regret_hedge import exponentiated_gradient
from palign.functional.regret_policies import kl_minmax
from palign.models.completions import TokenizedItems
from palign.models.policy_draws import PolicyDraws, joined_items
from palign.models.single_adapter import AdapterPolicies
from palign.trainers.fair.measure import SLACK, mixed_candidate
from palign.trainers.fair.route_trainer import GroupedRows
from palign.trainers.fair_policy_config import Route

if TYPE_CHECKING:
    from palign.trainers.fair.builder import RouteBuilder


__all__ = ["RegressRows", "regress", "regress_loss"]


def regress(builder: "RouteBuilder") -> dict[str, Any]:
    """Rounds of: fit to Σ_k w_k h_k, measure on the game's prompts, correct w and its length; keep the best."""
    builder.add(Route.REGRESS)
    args, pool = builder.args, [*builder.type_draws, builder.reference_draws]
    weights, scale, rounds = _geometric_weights(builder, pool), 1.0, []
    budget = args.max_kl or float(mixed_candidate("ensemble", builder.type_draws, builder.weights).kl.mean())
    best: tuple[Any, dict[str, Tensor]] | None = None
    for number in range(args.n_regress_rounds):
        rows = _regress_rows(builder, pool, scale * weights, number)
        builder.fit(AdapterPolicies(builder.model, [Route.REGRESS]), rows, share=1 / args.n_regress_rounds)
        draws = builder.draw(Route.REGRESS)
        pool = [*pool, draws]
        regrets = _weighted_regrets(builder, draws)
        worst, kl = float(regrets.max()), float(draws.kl.mean())
        rounds.append({"weights": (scale * weights).tolist(), "max_regret": worst, "kl": kl})
        if best is None or (kl > SLACK * budget, worst) < best[0]:
            best = (kl > SLACK * budget, worst), _adapter_state(builder)
        step = args.weight_step / max(float(regrets.abs().max()), 1e-9)
        weights = exponentiated_gradient(weights, regrets, step_size=step)
        share = max(budget, 0.0) / max(kl, 1e-9)  # estimates; KL grows as the square of the length
        scale *= float(np.clip(share**0.5, 0.7, 1.4))
    _restore(builder, best[1])
    return {"rounds": rounds}


class RegressRows(GroupedRows):
    """Completions of one prompt, whoever gave them, and how much more the weighted types want one than another.

    Args:
        items: completions of P policies, policy by policy and prompt by prompt.
        targets: (n_items,) Σ_k w_k h_k, nats.
        reference_logps: (n_items,).
        n_policies: P.
        n_samples: completions of each policy to a prompt.
    """

    def __init__(
        self, items: TokenizedItems, targets: np.ndarray, reference_logps: np.ndarray, *, n_policies: int,
        n_samples: int, group_size: int, seed: int,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        by_prompt = np.arange(len(items)).reshape(n_policies, -1, n_samples).swapaxes(0, 1)
        by_prompt = rng.permuted(by_prompt.reshape(len(by_prompt), -1), axis=1)
        size = min(group_size, by_prompt.shape[1])
        whole = by_prompt[:, : by_prompt.shape[1] // size * size]
        super().__init__(items, whole.reshape(-1, size))
        self.targets = torch.from_numpy(targets.astype(np.float32))
        self.reference_logps = torch.from_numpy(reference_logps.astype(np.float32))

    def losses(self, logps: Tensor, inputs: dict[str, Tensor], summed: Callable[[Tensor], Tensor]) -> Tensor:
        """(rows,) squares of the group, see `regress_loss`."""
        numbers = inputs["items"].cpu()
        reference, targets = (t[numbers].to(logps.device) for t in (self.reference_logps, self.targets))
        size = self.groups.shape[1]
        return regress_loss((logps - reference).view(-1, size), targets.view(-1, size))


def regress_loss(log_ratios: Tensor, targets: Tensor) -> Tensor:
    """Mean over pairs of a group of half the squared error of their margin: (rows, group_size) both → (rows,), nats².

    Squares over all pairs are squares about the mean: Σ_{a<b} (e_a − e_b)² = n Σ_a (e_a − ē)².
    """
    errors = log_ratios - targets
    return (errors - errors.mean(-1, keepdim=True)).square().sum(-1) / (errors.shape[-1] - 1)


def _regress_rows(builder: "RouteBuilder", pool: Sequence[PolicyDraws], weights: Tensor, number: int) -> RegressRows:
    args, n_types = builder.args, builder.mixture.n_types
    ratios = np.concatenate([draws.log_ratios.reshape(-1, n_types) for draws in pool])
    return RegressRows(
        joined_items([draws.items for draws in pool]),
        ratios @ weights.numpy(),
        np.concatenate([draws.reference_logps.reshape(-1) for draws in pool]),
        n_policies=len(pool),
        n_samples=args.n_samples,
        group_size=args.group_size,
        seed=args.seed + number,
    )


def _geometric_weights(builder: "RouteBuilder", pool: Sequence[PolicyDraws]) -> Tensor:
    """(n_types,) q of min-max regret + β KL among π ∝ π_ref exp(Σ q_k h_k), on the cached completions.

    The ensemble's weights are another family's. Completions weigh by π / (mean of the policies that gave them), so
    that the table of them stands for all; a little of the uniform keeps every type in play.
    """
    types = np.concatenate([draws.type_logps for draws in pool], 1)
    reference = np.concatenate([draws.reference_logps for draws in pool], 1)
    table = torch.from_numpy(np.concatenate([types, reference[..., None]], -1))
    table = (table - table.logsumexp(-1, keepdim=True)).log_softmax(1).movedim(-1, 0)
    beta = builder.mixture.record.beta
    importance = builder.importance / builder.importance.max()
    weights = kl_minmax(table[:-1], table[-1], kl_weight=beta, beta=beta, type_importance=importance).type_weights
    return 0.95 * weights / weights.sum() + 0.05 / len(weights)


def _weighted_regrets(builder: "RouteBuilder", draws: PolicyDraws) -> Tensor:
    """(n_types,) of one policy on the game's prompts, times importance."""
    own_values = torch.tensor([of_type.values[:, i].mean() for i, of_type in enumerate(builder.type_draws)])
    values = torch.from_numpy(draws.values).mean(0)[:, None]
    regrets = regret_matrix(values, own_values=own_values, beta=builder.mixture.record.beta)[:, 0]
    return regrets * builder.importance


def _adapter_state(builder: "RouteBuilder") -> dict[str, Tensor]:
    named = builder.model.named_parameters()
    return {key: parameter.detach().clone() for key, parameter in named if f".{Route.REGRESS}." in key}


def _restore(builder: "RouteBuilder", state: dict[str, Tensor]) -> None:
    parameters = dict(builder.model.named_parameters())
    with torch.no_grad():
        for key, tensor in state.items():
            parameters[key].copy_(tensor)
