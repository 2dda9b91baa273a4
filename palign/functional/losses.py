"""Preference losses, one value per row, never reduced.

A row ranks `n_items` items by integer `ranks`: 0 is best, equal ranks tie, −1 is padding. A *stage* is a winner and
the items it beat, those of strictly higher rank number; ties among losers are no evidence. A pair is one stage, best
of four is one stage, a full ranking of four is three.
"""

from enum import StrEnum
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Values = TypeVar("Values", Tensor, np.ndarray)

__all__ = [
    "PreferenceLoss",
    "bradley_terry",
    "hinge",
    "implicit_reward",
    "nll_of_best",
    "pair_order",
    "plackett_luce",
    "preference_loss",
    "ranked_hinge",
]


class PreferenceLoss(StrEnum):
    """How scores become a loss."""

    LOGISTIC = "logistic"
    HINGE = "hinge"


def bradley_terry(margins: Tensor) -> Tensor:
    """−log σ(margin): (batch,) → (batch,), nats (Bradley and Terry 1952)."""
    return F.softplus(-margins)


def hinge(margins: Tensor, *, margin: float = 1.0) -> Tensor:
    """max(0, margin − r(chosen) + r(rejected)): (batch,) → (batch,)."""
    return F.relu(margin - margins)


def plackett_luce(scores: Tensor, ranks: Tensor) -> Tensor:
    """−log probability of a ranking by stages (Plackett 1975; Luce 1959), nats.

    Σ over stages of logsumexp(winner and those it beat) − score(winner).

    Args:
        scores: (..., n_items); what stands at padding is not read.
        ranks: (..., n_items) integers, −1 is padding; must broadcast with `scores`.

    Returns:
        (...): 0 where a row has no stage (all items tie).
    """
    if _all_pairs(ranks):
        return bradley_terry(scores[..., 0] - scores[..., 1])
    beaten = strictly_below(ranks)
    present = ranks >= 0
    scores = scores.masked_fill(~present, 0.0)
    itself = torch.eye(ranks.shape[-1], dtype=torch.bool, device=ranks.device)
    terms = scores[..., None, :].masked_fill(~(beaten | itself), float("-inf"))
    stage = terms.logsumexp(-1) - scores
    return stage.masked_fill(~beaten.any(-1), 0.0).sum(-1)


def ranked_hinge(scores: Tensor, ranks: Tensor, *, margin: float = 1.0) -> Tensor:
    """Mean hinge over the strictly ordered pairs of a row; arguments and shapes as `plackett_luce`."""
    if _all_pairs(ranks):
        return hinge(scores[..., 0] - scores[..., 1], margin=margin)
    beaten = strictly_below(ranks)
    gaps = scores[..., :, None] - scores[..., None, :]
    losses = hinge(gaps, margin=margin).masked_fill(~beaten, 0.0)
    return losses.sum((-1, -2)) / beaten.sum((-1, -2)).clamp_min(1)


def preference_loss(scores: Tensor, ranks: Tensor, kind: PreferenceLoss | str) -> Tensor:
    """The loss of that name: `logistic` is `plackett_luce` (a pair: Bradley–Terry), `hinge` is `ranked_hinge`."""
    return (
        plackett_luce(scores, ranks)
        if PreferenceLoss(kind) is PreferenceLoss.LOGISTIC
        else ranked_hinge(scores, ranks)
    )


def implicit_reward(logps: Values, reference_logps: Values, beta: float | Values) -> Values:
    """β(log π(y|x) − log π_ref(y|x)), the reward a policy stands for (Rafailov et al. 2023, equation 5).

    Args:
        logps, reference_logps: tensors or arrays of shapes that go together, nats summed over completion tokens.
        beta: one for all, or of a shape that goes with theirs.

    Returns:
        Of their common shape, nats times β; known up to a number for each prompt.
    """
    return beta * (logps - reference_logps)


def nll_of_best(logps: Tensor, lengths: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of a row's best items, and how many tokens these have: whoever divides the sum of one by
    the sum of the other has the mean over tokens, as TRL's `rpo_alpha` weighs it (Pang et al., arXiv 2404.19733).

    Args:
        logps: (..., rows, n_items) nats, summed over completion tokens.
        lengths: (rows, n_items) completion tokens.
        ranks: (rows, n_items), −1 is padding; what stands there is not read.

    Returns:
        (..., rows) nats and (rows,) tokens; items that tie for the best are all of them.
    """
    best = ranks == 0
    return -logps.where(best, 0.0).sum(-1), lengths.where(best, 0).sum(-1)


def strictly_below(ranks: Tensor) -> Tensor:
    """(..., n_items) ranks → (..., n_items, n_items) bool: entry i, j says that item i beat item j."""
    present = ranks >= 0
    return (ranks[..., None, :] > ranks[..., :, None]) & present[..., :, None] & present[..., None, :]


def pair_order(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Strictly ordered pairs that the scores order the same way (a tie is half), and all such pairs.

    Args:
        scores: (..., rows, n_items).
        ranks: (rows, n_items), −1 is padding.

    Returns:
        (..., rows) and (rows,) float64.
    """
    better = strictly_below(ranks)
    gaps = scores[..., :, None] - scores[..., None, :]
    right = ((gaps > 0).double() + 0.5 * (gaps == 0).double()) * better
    return right.sum((-1, -2)), better.sum((-1, -2)).double()


def _all_pairs(ranks: Tensor) -> bool:
    return ranks.shape[-1] == 2 and bool((ranks[..., 0] == 0).all() & (ranks[..., 1] == 1).all())
