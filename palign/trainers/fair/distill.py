"""The route `distill`, and its soft targets: the next-token distribution of the response-level mixture, given what was
said.

Σ_k w_k π_k(y) draws one type for a whole answer. Given a prefix, the type that is speaking is known up to Bayes, so

    π(v | prefix) = Σ_k p(k | prefix) π_k(v | prefix),   p(k | prefix) ∝ w_k π_k(prefix)

exactly. Fixed weights at every token would be another policy. Cross-entropy to this, on prefixes that the mixture
sampled, has the same expectation and the same optimum as cross-entropy on the samples, with less noise.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from palign.functional.logprobs import token_logps
from palign.models.completions import TokenizedItems
from palign.models.policy_draws import completion_logits, joined_items
from palign.models.single_adapter import AdapterPolicies
from palign.trainers.fair.route_trainer import GroupedRows
from palign.trainers.fair_policy_config import Route

if TYPE_CHECKING:
    from palign.trainers.fair.builder import RouteBuilder


__all__ = ["DistillRows", "SoftTargetPolicies", "distill", "mixture_next_token", "prefix_posterior"]


def distill(builder: "RouteBuilder") -> dict[str, Any]:
    """Cross-entropy on the types' answers, as many of each as the game's weights say; soft targets or samples."""
    builder.add(Route.DISTILL)
    args, weights = builder.args, builder.weights
    items = joined_items([draws.items for draws in builder.type_draws])
    rows = DistillRows(items, weights.numpy(), group_size=args.group_size, seed=args.seed)
    if args.distill_targets == "soft":
        teachers = builder.mixture.policies.names
        policies: AdapterPolicies = SoftTargetPolicies(builder.model, Route.DISTILL, teachers, weights)
    else:
        policies = AdapterPolicies(builder.model, [Route.DISTILL])
    builder.fit(policies, rows)
    return {"n_rows": len(rows)}


class SoftTargetPolicies(AdapterPolicies):
    """One adapter to train; its forward gives minus the soft cross-entropy where another gives log-probabilities.

    Args:
        policy: with the types' adapters.
        name: of the adapter that is trained.
        teachers: names of the types' adapters.
        weights: (n_types,) of the mixture.
    """

    def __init__(self, policy: PeftModel, name: str, teachers: list[str], weights: Tensor) -> None:
        super().__init__(policy, [name])
        kept = [(teacher, float(w)) for teacher, w in zip(teachers, weights, strict=True) if w > 0]
        self.teachers = [teacher for teacher, _ in kept]
        self.log_weights = torch.tensor([w for _, w in kept]).log()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor, needs_grad: Tensor | None = None
    ) -> Tensor:
        """(n_sequences, 1) Σ_t Σ_v π(v | prefix) log π_θ(v | prefix), nats."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "completion_mask": completion_mask}
        with torch.no_grad():
            read = [completion_logits(self.policy, teacher, batch) for teacher in self.teachers]
            _, targets, scored = read[0]
            sampled_logps = torch.stack(
                [token_logps(logits, targets).masked_fill(~scored, 0.0) for logits, _, _ in read]
            )
            posterior = prefix_posterior(sampled_logps, self.log_weights.to(sampled_logps.device))
            target = mixture_next_token(posterior, [logits for logits, _, _ in read])
        student = completion_logits(self.policy, self.names[0], batch)[0].float().log_softmax(-1)
        return (target * student).sum(-1).masked_fill(~scored, 0.0).sum(-1)[:, None]


def prefix_posterior(token_log_probs: Tensor, log_weights: Tensor) -> Tensor:
    """p(k | what came before each token): (n_types, batch, seq_len) nats and (n_types,) → the same shape."""
    before = token_log_probs.cumsum(-1) - token_log_probs
    return (log_weights[:, None, None] + before).softmax(0)


def mixture_next_token(posterior: Tensor, logits: list[Tensor]) -> Tensor:
    """Σ_k p(k | prefix) π_k(v | prefix): (n_types, batch, seq_len) and K × (batch, seq_len, vocab) → (…, vocab)."""
    target = torch.zeros_like(logits[0], dtype=torch.float32)
    for share, type_logits in zip(posterior, logits, strict=True):
        target += share[..., None] * type_logits.float().softmax(-1)
    return target


class DistillRows(GroupedRows):
    """Samples of the mixture: of type k's cached completions a share w_k / max w, so that none is drawn again.

    Args:
        items: completions of type 0, then type 1, …; of each type prompt by prompt.
        weights: (n_types,) of sum 1.
        group_size: completions in a row; here they need not share a prompt.
    """

    def __init__(self, items: TokenizedItems, weights: np.ndarray, *, group_size: int, seed: int):
        rng, n_each = np.random.default_rng(seed), len(items) // len(weights)
        counts = np.round(n_each * weights / weights.max()).astype(int)
        kept = [k * n_each + rng.permutation(n_each)[:n] for k, n in enumerate(counts)]
        order = rng.permutation(np.concatenate(kept)).astype(np.int64)
        order = order[: max(1, len(order) // group_size) * group_size]
        super().__init__(items, np.resize(order, (-(-len(order) // group_size), group_size)))

    @staticmethod
    def losses(logps: Tensor, inputs: dict[str, Tensor], summed: Callable[[Tensor], Tensor]) -> Tensor:
        """Cross-entropy of each completion: (n_sequences,)."""
        return -logps
