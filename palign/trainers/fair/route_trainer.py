"""The losses that make one adapter of K, and the small trainer that serves them all.

Every route is a loss of completion log-probabilities of one new LoRA:

    distill   −log π_θ(y) on samples y of the response-level mixture Σ_k w_k π_k
    regress   (h_θ − Σ_k w_k h_k)², about the mean of completions of one prompt: all their pair margins at once
    dro       −log p_θ(ranking), rows weighted by q_k; q grows where L_k(θ) − L_k(φ_k) is large
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, Trainer

from palign.functional.losses import plackett_luce
from palign.functional.mixture import row_weights
from palign.functional.regret_hedge import exponentiated_gradient
from palign.models.completions import TokenizedItems
from palign.models.single_adapter import AdapterPolicies
from palign.parallel.deepspeed_launch import leave_accelerator
from palign.parallel.fsdp_launch import plan_fsdp
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.trainers.mixture.collator import MixtureCollator

__all__ = ["DistillRows", "DroRows", "RegressRows", "RouteTrainer", "regress_loss"]


class RouteTrainer(Trainer):
    """A `transformers.Trainer` of one adapter by the loss of one route.

    Args:
        policies: the one adapter, alone trainable.
        args: epochs, rate and batch size.
        rows: of the route; also its collator and its loss.
    """

    def __init__(
        self, policies: AdapterPolicies, args: FairPolicyConfig, rows: Any, *, tokenizer: PreTrainedTokenizerBase
    ):
        args.remove_unused_columns, args.label_names = False, []
        leave_accelerator()
        super().__init__(
            model=policies, args=args, train_dataset=rows, data_collator=rows.collate, processing_class=tokenizer
        )
        self.model_accepts_loss_kwargs = False  # our loss is a mean: the trainer divides it by the accumulation steps
        self.rows = rows
        plan_fsdp(self.accelerator, policies)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over rows, nats."""
        logps = model(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])[:, 0]
        losses = self.rows.losses(logps, inputs, self._summed)
        loss = losses.mean()
        if not bool(torch.isfinite(loss)):
            raise RuntimeError(
                f"The loss is not finite at step {self.state.global_step + 1}. Lower learning_rate "
                f"({self.args.learning_rate}) or max_grad_norm ({self.args.max_grad_norm})."
            )
        return (loss, {"losses": losses}) if return_outputs else loss

    def _summed(self, values: Tensor) -> Tensor:
        """Over all processes."""
        return self.accelerator.reduce(values, reduction="sum") if self.accelerator.num_processes > 1 else values

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Nothing: the adapter is written by `FairPolicyTrainer` when its route is done."""


class GroupedRows(Dataset):
    """Rows of `group_size` completions of one prompt each.

    Attributes:
        items: all completions.
        groups: (n_rows, group_size) item numbers.
    """

    def __init__(self, items: TokenizedItems, groups: np.ndarray):
        self.items, self.groups = items, groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> int:
        return int(number)

    def collate(self, numbers: list[int]) -> dict[str, Tensor]:
        """Sequences of the rows, group by group, and `items` (n_sequences,)."""
        own = self.groups[numbers].reshape(-1)
        return self.items.collate(own) | {"items": torch.from_numpy(own)}


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


class RegressRows(GroupedRows):
    """Completions of one prompt, whoever said them, and how much more the weighted types want one than another.

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


@dataclass(eq=False)
class DroRows(Dataset):
    """Rankings under weights of types that grow where a type is served worse than by its own adapter.

    Attributes:
        collator: of the votes.
        reference_logps: (n_items,).
        responsibilities: (rows, n_types) of the annotator of the row.
        own_losses: (rows, n_types) −log p of the row under each type's own adapter.
        beta: DPO's.
        step: of the weights, per nat.
        type_weights: (n_types,) q, as it stands.
        importance: (n_types,) multiplies what q is moved by; None is 1.
        has_offset: subtract own losses; without it a noisy type takes all the weight.
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
        rewards = self.beta * (logps - self.reference_logps[inputs["items"].cpu()].to(logps.device))
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
