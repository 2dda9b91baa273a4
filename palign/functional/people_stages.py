"""Rankings of many people as stages in blocks: loss, gradient and Hessian in a person's weights by batched products.

Only differences count: a stage in which `i` beat the items j costs log(1 + Σ_j exp((s_j − s_i) · w)). Stages are laid
out by person, people with about as many stages together, so that one who answered ten thousand times pads nobody.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from palign.functional.losses import strictly_below

__all__ = ["CHUNK_PEOPLE", "StageBlock", "stage_blocks"]

CHUNK_PEOPLE = 4096
MAX_ENTRIES = 4_000_000  # of one block; a person of more than that has a block to themselves


@dataclass(frozen=True)
class StageBlock:
    """The stages of some people, padded to the longest of them.

    Attributes:
        people: (n,) int64, whose they are.
        gaps: (n, n_stages, n_losers, n_prototypes) score of a loser less that of the winner; 0 is padding.
        absent: (n, n_stages, n_losers) 0, and −inf at padding.
    """

    people: Tensor
    gaps: Tensor
    absent: Tensor

    def take(self, rows: Tensor) -> "StageBlock":
        """The same of a part of the people, given by their rows in the block."""
        return StageBlock(self.people[rows], self.gaps[rows], self.absent[rows])

    def logits(self, weights: Tensor) -> Tensor:
        """(n, n_prototypes) → (n, n_stages, n_losers): how far a loser lies above the winner, −inf at padding."""
        return (self.gaps.flatten(1, 2) @ weights[:, :, None]).view(self.absent.shape) + self.absent

    def loss(self, logits: Tensor) -> Tensor:
        """(n,) nats: −log probability of all of a person's judgements."""
        if logits.shape[2] == 1:
            return F.softplus(logits).sum((1, 2))
        return F.pad(logits, (1, 0)).logsumexp(2).sum(1)

    def derivatives(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient (n, n_prototypes) and Hessian (n, n_prototypes, n_prototypes) of the loss in the weights."""
        gaps = self.gaps.flatten(1, 2)
        if logits.shape[2] == 1:
            share = logits.sigmoid()
            curvature = (share * (1 - share)).flatten(1)
        else:
            share = F.pad(logits, (1, 0)).softmax(2)[..., 1:]
            curvature = share.flatten(1)
        gradient = (share.flatten(1)[:, None] @ gaps)[:, 0]
        hessian = gaps.mT @ (curvature[..., None] * gaps)
        if logits.shape[2] > 1:
            expected = (share[..., None] * self.gaps).sum(2)
            hessian = hessian - expected.mT @ expected
        return gradient, hessian


def stage_blocks(scores: Tensor, ranks: Tensor, annotator_index: Tensor, n_annotators: int) -> Iterator[StageBlock]:
    """Everybody, people without a stage too, in blocks of at most `CHUNK_PEOPLE`.

    Args:
        scores: (rows, n_items, n_prototypes); what stands at padding is not read.
        ranks: (rows, n_items), −1 is padding.
        annotator_index: (rows,) int64 in [0, n_annotators).
    """
    gaps, absent, owner = _stages(scores, ranks, annotator_index)
    owner, order = owner.sort(stable=True)
    counts = torch.bincount(owner, minlength=n_annotators)
    first = counts.cumsum(0) - counts
    by_count = counts.argsort(stable=True)
    start = 0
    while start < n_annotators:
        people = by_count[start : start + CHUNK_PEOPLE]
        people = people[: _how_many(counts[people], gaps[0].numel() if len(gaps) else 1)]
        n_stages = int(counts[people[-1]])
        position = torch.arange(n_stages, device=people.device)
        is_there = position < counts[people, None]
        if len(order) == 0:
            empty = (len(people), 0, 1)
            yield StageBlock(people, gaps.new_zeros(*empty, scores.shape[2]), absent.new_zeros(empty))
        else:
            rows = order[(first[people, None] + position).clamp(max=len(order) - 1)]
            yield StageBlock(
                people,
                gaps[rows].masked_fill_(~is_there[:, :, None, None], 0.0),
                absent[rows].masked_fill_(~is_there[:, :, None], float("-inf")),
            )
        start += len(people)


def _how_many(counts: Tensor, entries_per_stage: int) -> int:
    """How many people of rising counts make a block: padding at most doubles the work, and memory has a limit."""
    allowed = (2 * counts[0] + 8).clamp(min=1)
    size = counts * torch.arange(1, len(counts) + 1, device=counts.device) * entries_per_stage
    fits = (counts <= allowed) & (size <= MAX_ENTRIES)
    return max(1, int(fits.cumprod(0).sum()))


def _stages(scores: Tensor, ranks: Tensor, annotator_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gaps (stages, n_losers, n_prototypes), absence (stages, n_losers) and owner (stages,) of every stage."""
    n_prototypes = scores.shape[2]
    if ranks.shape[1] == 2 and bool((ranks[:, 0] == 0).all() & (ranks[:, 1] == 1).all()):
        gaps = (scores[:, 1] - scores[:, 0])[:, None]
        return gaps, gaps.new_zeros(gaps.shape[:2]), annotator_index
    beaten = strictly_below(ranks)
    row, winner = beaten.any(-1).nonzero(as_tuple=True)
    lost = beaten[row, winner]
    n_losers = int(lost.sum(1).max()) if len(row) else 1
    losers = lost.byte().argsort(dim=1, descending=True, stable=True)[:, :n_losers]
    is_there = lost.gather(1, losers)
    of_losers = scores[row].gather(1, losers[..., None].expand(-1, -1, n_prototypes))
    gaps = (of_losers - scores[row, winner][:, None]).masked_fill(~is_there[..., None], 0.0)
    absent = gaps.new_zeros(gaps.shape[:2]).masked_fill(~is_there, float("-inf"))
    return gaps, absent, annotator_index[row]
