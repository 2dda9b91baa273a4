"""The small trainer that serves every route: a loss of completion log-probabilities of one new LoRA.

    distill   −log π_θ(y) on samples y of the response-level mixture Σ_k w_k π_k
    regress   (h_θ − Σ_k w_k h_k)², about the mean of completions of one prompt: all their pair margins at once
    dro       −log p_θ(ranking), rows weighted by q_k; q grows where L_k(θ) − L_k(φ_k) is large

Each stands in the file of its name.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, Trainer

from palign.models.completions import TokenizedItems
from palign.models.single_adapter import AdapterPolicies
from palign.parallel.deepspeed_launch import leave_accelerator
from palign.parallel.divided_training import BesideDivided
from palign.parallel.fsdp_launch import plan_fsdp
from palign.parallel.half_precision import plan_half_precision
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.trainers.progress import show_named_progress

__all__ = ["OneAdapter", "RouteTrainer"]


class OneAdapter:
    """Put before `Trainer` among the bases: `FairPolicyTrainer` writes the adapter when its route is done."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """A place for the optimizer and no weights, for which ZeRO-3 would put all of the base together."""
        if self.args.should_save:
            Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)


class RouteTrainer(OneAdapter, BesideDivided, Trainer):
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
        args.enable_jit_checkpoint = False  # a route that was cut would be taken for done
        leave_accelerator()
        super().__init__(
            model=policies, args=args, train_dataset=rows, data_collator=rows.collate, processing_class=tokenizer
        )
        show_named_progress(self)
        self.model_accepts_loss_kwargs = False  # our loss is a mean: the trainer divides it by the accumulation steps
        self.rows = rows
        plan_fsdp(self.accelerator, policies)
        plan_half_precision(self.accelerator, policies)

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
        item_numbers = self.groups[numbers].reshape(-1)
        return self.items.collate(item_numbers) | {"items": torch.from_numpy(item_numbers)}
