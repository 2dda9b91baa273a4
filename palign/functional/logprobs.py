"""Logits and token ids → log-probabilities of completions, one value per sequence."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["completion_logps", "drawn_logps", "token_logps"]


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits) at the targets, nats, at least float32.

    A gathered logit less the row's logsumexp, one sequence at a time: no second (batch, seq_len, vocab) tensor stands
    beside the logits.

    Args:
        logits: (batch, seq_len, vocab), of the positions that predict the targets (already shifted).
        targets: (batch, seq_len) int64.

    Returns:
        (batch, seq_len).
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} must have one row of the vocabulary for each of the targets "
            f"{tuple(targets.shape)}."
        )
    if logits.numel() == 0:
        return logits.sum(-1)
    return torch.stack([_row_logps(row, ids) for row, ids in zip(logits, targets, strict=True)])


def _row_logps(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)


def completion_logps(logits: Tensor, input_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """Log-probability of each sequence's completion given what stands before it: nats, summed over its tokens.

    The logits at position t predict the token at t + 1; the shift is made here. A completion that begins at position
    0 has nothing before it: that token is not scored.

    Args:
        logits: (batch, seq_len, vocab).
        input_ids: (batch, seq_len), padded on any side.
        completion_mask: (batch, seq_len), 1 on the completion's tokens; what stands elsewhere is not read.

    Returns:
        (batch,), float32 or float64.
    """
    if input_ids.shape != completion_mask.shape or logits.shape[:-1] != input_ids.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)}, input_ids {tuple(input_ids.shape)} and completion_mask "
            f"{tuple(completion_mask.shape)} must share (batch, seq_len)."
        )
    scored = completion_mask[:, 1:].bool()
    targets = input_ids[:, 1:].masked_fill(~scored, 0)
    return token_logps(logits[:, :-1], targets).masked_fill(~scored, 0.0).sum(-1)


def drawn_logps(
    states: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, *, temperature: float, n_at_once: int
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, and entropy of what it was drawn from, nats.

    Logits stand for `n_at_once` states at a time; where there are more and a gradient is asked for, they are computed
    again in the backward pass.

    Args:
        states: (n_tokens, hidden), of the positions that predict the targets.
        head: states → logits (n_tokens, vocab).
        targets: (n_tokens,) int64.
        temperature: by which logits are divided.
        n_at_once: states whose logits may stand in memory together.

    Returns:
        Two of (n_tokens,), at least float32; the entropies without gradient.
    """

    def part(some: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(some)
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        logits = logits if temperature == 1 else logits / temperature
        total = logits.logsumexp(-1)
        with torch.no_grad():
            entropies = total - (torch.exp(logits - total[:, None]) * logits).sum(-1)
        return logits.gather(-1, ids[:, None])[:, 0] - total, entropies

    parts = list(zip(states.split(n_at_once), targets.split(n_at_once), strict=True))
    if len(parts) > 1 and torch.is_grad_enabled():
        pairs = [checkpoint(part, *tensors, use_reentrant=False) for tensors in parts]
    else:
        pairs = [part(*tensors) for tensors in parts]
    logps, entropies = zip(*pairs, strict=True)
    return torch.cat(logps), torch.cat(entropies)
