"""Fit head and people over vectors that stay as they are: no forward pass of a backbone, a few seconds."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from palign.functional.losses import preference_loss
from palign.functional.optimizers.adamw import AdamW, ParameterGroup
from palign.models.heads import PointHead
from palign.models.people_weights import AnnotatorWeights
from palign.models.row_tensors import RowTensors

__all__ = ["HeadFitOptions", "fit_head"]

BETAS = (0.9, 0.99)
SMALLEST_BATCH = 64  # rows of a step, where few rows are to make enough steps
DECAY_FROM = 1 / 3  # of the way; the learning rate then falls to zero in a straight line


@dataclass(frozen=True)
class HeadFitOptions:
    """As the fields of the same name of `PALRewardConfig`, without their prefix."""

    epochs: int = 30
    learning_rate: float = 5e-3
    batch_size: int = 512
    weight_decay: float = 0.1
    annotator_learning_rate: float = 5e-2
    annotator_prior: float = 1.0
    loss_type: str = "logistic"
    min_steps: int = 0

    def schedule(self, n_rows: int) -> tuple[int, int]:
        """Epochs and rows a step for that many rows: smaller batches first, then more epochs, till `min_steps`."""
        batch_size = max(1, min(self.batch_size, n_rows))
        if self.epochs * -(-n_rows // batch_size) >= self.min_steps or n_rows == 0 or self.epochs == 0:
            return self.epochs, batch_size
        batch_size = min(batch_size, max(SMALLEST_BATCH, n_rows * self.epochs // self.min_steps))
        return max(self.epochs, -(-self.min_steps // -(-n_rows // batch_size))), batch_size


def fit_head(
    head: PointHead,
    people: AnnotatorWeights,
    data: RowTensors,
    options: HeadFitOptions,
    *,
    seed: int,
    on_epoch: Callable[[int, float], None] | None = None,
) -> float:
    """Train `head` and `people` on rows whose annotators are all known.

    Args:
        on_epoch: called with the number of the epoch (from 1) and its mean loss (nats a row, prior left out).

    Returns:
        Mean loss of the last epoch.

    Raises:
        RuntimeError: the loss is no longer finite (says at which epoch).
    """
    optimizer, sparse = _optimizers(head, people, options)
    counts = torch.bincount(data.annotator_index, data.evidence, people.logits.num_embeddings).clamp_min(1e-6)
    epochs, batch_size = options.schedule(len(data))
    generator = torch.Generator().manual_seed(seed)
    n_steps = max(1, epochs * -(-len(data) // batch_size))
    step, mean_loss = 0, float("nan")
    head.train(), people.train()
    for epoch in range(1, epochs + 1):
        total = torch.zeros((), device=data.annotator_index.device)
        center = people.logits.weight.detach().mean(0)
        for rows in torch.randperm(len(data), generator=generator).split(batch_size):
            _set_learning_rates(optimizer, sparse, options, step / n_steps)
            loss, objective = _objective(head, people, data, rows, counts, center, options)
            optimizer.forget_gradients()
            if sparse is not None:
                sparse.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
            if sparse is not None:
                sparse.step()
            total += loss.detach() * len(rows)
            step += 1
        mean_loss = float(total) / max(1, len(data))
        if mean_loss != mean_loss or mean_loss == float("inf"):
            raise RuntimeError(
                f"The loss is {mean_loss} in epoch {epoch} of the head's fit. Check the vectors for outliers, or take "
                f"a smaller head_learning_rate than {options.learning_rate}."
            )
        if on_epoch is not None:
            on_epoch(epoch, mean_loss)
    head.eval(), people.eval()
    return mean_loss


def _objective(
    head: PointHead,
    people: AnnotatorWeights,
    data: RowTensors,
    rows: Tensor,
    counts: Tensor,
    center: Tensor,
    options: HeadFitOptions,
) -> tuple[Tensor, Tensor]:
    """Mean preference loss of a batch, and the same with the prior."""
    items, prompts = data.states(rows)
    index = data.annotator_index[rows]
    logits = people.logits(index)
    scores = head(items, logits.softmax(-1), prompts)
    losses = preference_loss(scores, data.ranks[rows], options.loss_type)
    if data.evidence is None:
        evidence, loss = 1.0, losses.mean()
    else:  # rows of one person that share items count for less
        evidence = data.evidence[rows]
        loss = (losses * evidence).sum() / evidence.sum()
        evidence = evidence / evidence.mean()
    if options.annotator_prior == 0 or people.n_prototypes == 1:
        return loss, loss
    penalty = options.annotator_prior * (logits - center).square().sum(-1) / counts[index]
    return loss, loss + (penalty * evidence).mean()


def _optimizers(
    head: PointHead, people: AnnotatorWeights, options: HeadFitOptions
) -> tuple[AdamW, torch.optim.Optimizer | None]:
    """Of the head, and of the people with it; theirs apart where a step touches a few of very many."""
    decayed = [p for name, p in head.named_parameters() if p.dim() == 2 and not name.startswith("prototypes")]
    kept = {id(p) for p in decayed}
    free = [p for p in head.parameters() if id(p) not in kept]
    groups = [
        ParameterGroup(decayed, options.learning_rate, options.weight_decay),
        ParameterGroup(free, options.learning_rate),
    ]
    table: nn.Parameter = people.logits.weight
    if people.logits.sparse:
        return AdamW(groups, betas=BETAS), torch.optim.SparseAdam([table], betas=BETAS)
    groups.append(ParameterGroup([table], options.annotator_learning_rate))
    return AdamW(groups, betas=BETAS), None


def _set_learning_rates(
    optimizer: AdamW, sparse: torch.optim.Optimizer | None, options: HeadFitOptions, progress: float
) -> None:
    factor = min(1.0, (1 - progress) / (1 - DECAY_FROM))
    peaks = (options.learning_rate, options.learning_rate, options.annotator_learning_rate)
    for group, peak in zip(optimizer.groups, peaks, strict=False):
        group.learning_rate = peak * factor
    if sparse is not None:
        sparse.param_groups[0]["lr"] = options.annotator_learning_rate * factor
