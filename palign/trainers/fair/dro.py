"""Group DRO on votes: the route `dro`, its rows and its loss; and `pooled`, one DPO on all votes.

−log p_θ(ranking), rows weighted by q_k; q grows where L_k(θ) − L_k(φ_k) is large.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from palign.functional.losses import implicit_reward, plackett_luce
from palign.functional.mixture import row_weights
from palign.functional.regret_hedge import exponentiated_gradient
from palign.models.single_adapter import AdapterPolicies
from palign.models.type_scores import row_log_likelihoods
from palign.trainers.fair.votes import cached_reference, vote_items, vote_rewards
from palign.trainers.fair_policy_config import Route
from palign.trainers.mixture.collator import MixtureCollator

if TYPE_CHECKING:
    from palign.trainers.fair.builder import RouteBuilder


__all__ = ["POOLED", "DroRows", "dro", "pooled"]

POOLED = "pooled"  # one DPO on all votes, whoever cast them: what the routes are compared with


def dro(builder: "RouteBuilder") -> dict[str, Any]:
    """DPO on the votes, weight going to the type that loses most against its adapter."""
    mixture, prefs = builder.mixture, builder.rows
    items = vote_items(mixture, prefs)
    reference = cached_reference(mixture, items, builder.output_dir)
    rewards = vote_rewards(mixture, prefs, items, mixture.policies.names, reference)
    gamma, own_losses = mixture.responsibilities_for(prefs.annotator_ids), -row_log_likelihoods(rewards, prefs.ranks)
    weights = torch.full((mixture.n_types,), 1 / mixture.n_types, dtype=torch.float64)
    rows = _fit_votes(builder, Route.DRO, gamma, own_losses.double(), weights, builder.importance)
    return {"n_rows": len(rows), "type_weights": rows.type_weights.tolist()}


def pooled(builder: "RouteBuilder") -> dict[str, Any]:
    """Plain DPO on all votes: one type, and nothing to weigh."""
    ones = torch.ones(len(builder.rows), 1, dtype=torch.float64)
    rows = _fit_votes(builder, POOLED, ones, torch.zeros_like(ones), torch.ones(1, dtype=torch.float64), None)
    return {"n_rows": len(rows)}


def _fit_votes(
    builder: "RouteBuilder", name: str, gamma: Tensor, own_losses: Tensor, weights: Tensor, importance: Tensor | None
) -> "DroRows":
    builder.add(name)
    items, args = vote_items(builder.mixture, builder.rows), builder.args
    rows = DroRows(
        MixtureCollator(builder.rows, items),
        torch.from_numpy(cached_reference(builder.mixture, items, builder.output_dir)),
        gamma,
        own_losses,
        builder.mixture.record.beta,
        args.dro_step / args.gradient_accumulation_steps,
        weights,
        importance=importance,
    )
    builder.fit(AdapterPolicies(builder.model, [name]), rows)
    return rows


@dataclass(eq=False)
class DroRows(Dataset):
    """Rankings under weights of types that grow where a type is served worse than by its adapter.

    Attributes:
        collator: of the votes.
        reference_logps: (n_items,).
        responsibilities: (rows, n_types) of the annotator of the row.
        own_losses: (rows, n_types) −log p of the row under each type's adapter.
        beta: DPO's.
        step: of the weights, per nat.
        type_weights: (n_types,) q, as it stands.
        importance: (n_types,) multiplies what q is moved by; None is 1.
        has_offset: subtract `own_losses`; without it a noisy type takes all the weight.
    """

    collator: MixtureCollator
    reference_logps: Tensor
    responsibilities: Tensor
    own_losses: Tensor
    beta: float
    step: float
    type_weights: Tensor
    importance: Tensor | None = None
    has_offset: bool = True
    history: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        index = torch.arange(len(self.responsibilities))
        self._row_weights = row_weights(self.responsibilities.double(), index)

    def __len__(self) -> int:
        return len(self.responsibilities)

    def __getitem__(self, number: int) -> int:
        return int(number)

    def collate(self, numbers: list[int]) -> dict[str, Tensor]:
        """As `MixtureCollator`."""
        return self.collator(numbers)

    def losses(self, logps: Tensor, inputs: dict[str, Tensor], summed: Callable[[Tensor], Tensor]) -> Tensor:
        """(rows,) Σ_k q_k γ_k / mean γ_k · loss; q is moved by the batch's losses first (Sagawa et al. 2020)."""
        rows = inputs["rows"].cpu()
        reference = self.reference_logps[inputs["items"].cpu()].to(logps.device)
        rewards = implicit_reward(logps, reference, self.beta)
        losses = plackett_luce(rewards[inputs["slots"]], inputs["ranks"])
        weights = self._row_weights[rows].to(logps.device)
        excess = losses.detach().double()[:, None]
        if self.has_offset:
            excess = excess - self.own_losses[rows].to(logps.device)
        sums = summed(torch.stack([(weights * excess).sum(0), weights.sum(0)]))
        gaps = (sums[0] / sums[1].clamp_min(1e-9)).where(sums[1] > 0, 0.0).cpu()
        gaps = gaps if self.importance is None else gaps * self.importance
        self.type_weights = exponentiated_gradient(self.type_weights, gaps, step_size=self.step)
        self.history.append(self.type_weights.tolist())
        return (weights @ self.type_weights.to(weights)).to(losses.dtype) * losses
