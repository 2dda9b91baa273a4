"""What a training step of the mixture says of itself, summed up until the next log."""

import torch
from torch import Tensor

from palign.functional.losses import pair_order

__all__ = ["TrainingSums"]


class TrainingSums:
    """Losses by type, and TRL's `rewards/…` under the types trained on each row; on the device of the steps."""

    def __init__(self) -> None:
        self.losses: Tensor | None = None  # (2, n_types): of weighted losses and of weights
        self.rewards: Tensor | None = None  # pairs in order, pairs, best items, other items, rows
        self.nll: Tensor | None = None  # (2,): of the means over tokens, weighted, and of the weights

    def add(self, scores: Tensor, losses: Tensor, weights: Tensor, ranks: Tensor) -> None:
        """One micro-batch.

        Args:
            scores: (rows, max_items, n_types) β·h.
            losses, weights: (rows, n_types).
            ranks: (rows, max_items), −1 is padding.
        """
        losses = torch.stack([(weights * losses).sum(0), weights.sum(0)]).double()
        mine = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
        expected = (scores * mine[:, None]).sum(2)
        right, n_pairs = pair_order(expected, ranks)
        top = expected.where(ranks == 0, 0.0).sum(1) / (ranks == 0).sum(1)
        rest = expected.where(ranks > 0, 0.0).sum(1) / (ranks > 0).sum(1).clamp_min(1)
        parts = [right.sum(), n_pairs.sum(), top.sum().double(), rest.sum().double()]
        rewards = torch.stack([*parts, parts[0].new_tensor(float(len(ranks)))])
        self.losses = losses if self.losses is None else self.losses + losses
        self.rewards = rewards if self.rewards is None else self.rewards + rewards

    def add_nll(self, by_type: Tensor, weights: Tensor) -> None:
        """One micro-batch: negative log-likelihood of the best items.

        Args:
            by_type: (n_types,) nats a token.
            weights: (rows, n_types).
        """
        shares = weights.mean(0)
        sums = torch.stack([(shares * by_type).sum(), shares.sum()]).double()
        self.nll = sums if self.nll is None else self.nll + sums

    def take(self) -> dict[str, float]:
        """The means since the last call, by metric name; empty where nothing was added."""
        if self.losses is None:
            return {}
        sums, totals = self.losses.cpu()
        right, n_pairs, top, rest, n_rows = self.rewards.tolist()
        nll = {} if self.nll is None else {"nll_loss": float(self.nll[0] / self.nll[1])}
        self.losses = self.rewards = self.nll = None
        by_type = {f"mixture/loss_type_{k}": float(sums[k] / totals[k]) for k in torch.where(totals > 0)[0].tolist()}
        return (
            by_type
            | nll
            | {
                "rewards/chosen": top / n_rows,
                "rewards/rejected": rest / n_rows,
                "rewards/margins": (top - rest) / n_rows,
                "rewards/accuracies": right / max(n_pairs, 1.0),
            }
        )
