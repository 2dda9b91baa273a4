"""Logits and token ids → log-probabilities of completions, one value per sequence."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["completion_logps", "drawn_logps", "expected_logps", "linear_head_logps", "token_logps"]


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


def linear_head_logps(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, n_at_once: int
) -> Tensor:
    """log softmax(states · weightᵀ + bias) at the targets: (n_tokens,) nats, at least float32.

    No tensor of n_tokens × vocab is made: logits stand for `n_at_once` states at a time, and the gradient of each of
    those, weight[target] − Σ softmax · weight, is found beside them, so that nothing is computed again.

    Args:
        states: (n_tokens, hidden), of the positions that predict the targets.
        weight: (vocab, hidden) of a head that is not trained: it gets no gradient.
        bias: (vocab,) or None; without gradient, too.
        targets: (n_tokens,) int64.
        n_at_once: states whose logits stand in memory together, at least 1.
    """
    return _LinearHeadLogps.apply(states, weight, bias, targets, n_at_once)


def expected_logps(
    states: Tensor, speaker: int, weight: Tensor, bias: Tensor | None, targets: Tensor, *, n_at_once: int
) -> tuple[Tensor, Tensor]:
    """What every listener says of tokens, and of what a speaker would say in their place, over the whole vocabulary.

    Σ_v p(v) log q(v) = Σ_v p(v) z(v) − log Σ_v exp z(v), and the first sum is the speaker's mean row of the head times
    the listener's state. So the speaker's softmax is made once for all listeners, and a listener needs its normaliser
    alone.

    Args:
        states: (n_listeners, n_tokens, hidden), of the positions that predict the targets, as each listener reads it.
        speaker: number of the listener who says p.
        weight, bias: (vocab, hidden) and (vocab,) or None, of the head that all share.
        targets: (n_tokens,) int64.
        n_at_once: states whose logits stand in memory together, at least 1.

    Returns:
        log q at the targets, and Σ_v p(v) log q(v); (n_listeners, n_tokens) each, nats, at least float32.
    """
    kept = torch.promote_types(states.dtype, torch.float32)
    logps, expected = (torch.empty(states.shape[:2], dtype=kept, device=states.device) for _ in range(2))
    others = [number for number in range(len(states)) if number != speaker]
    for start in range(0, states.shape[1], n_at_once):
        part = slice(start, start + n_at_once)
        for number in (speaker, *others):
            logits = torch.nn.functional.linear(states[number, part], weight, bias).to(kept)
            chosen = logits.gather(-1, targets[part, None])[:, 0]
            odds, top = _odds(logits)
            total = odds.sum(-1, keepdim=True)
            if number == speaker:
                mean = (odds.to(weight.dtype) @ weight).to(kept) / total
                shift = 0.0 if bias is None else (odds @ bias.to(kept)) / total[:, 0]
            normaliser = (top + total.log())[:, 0]
            logps[number, part] = chosen - normaliser
            expected[number, part] = (mean * states[number, part].to(kept)).sum(-1) + shift - normaliser
    return logps, expected


def _odds(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of each word to the likeliest, in place of the logits (n, vocab); and the largest logit, (n, 1)."""
    top = logits.amax(-1, keepdim=True)
    return logits.sub_(top).exp_(), top


class _LinearHeadLogps(torch.autograd.Function):
    """See `linear_head_logps`; a gradient of its gradient raises RuntimeError."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, n_at_once: int
    ) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        kept = torch.promote_types(states.dtype, torch.float32)
        logps = torch.empty(len(states), dtype=kept, device=states.device)
        gradient = torch.empty_like(states) if needs_gradient else None
        for start in range(0, len(states), n_at_once):
            part = slice(start, start + n_at_once)
            ids = targets[part, None]
            logits = torch.nn.functional.linear(states[part], weight, bias).to(kept)
            chosen = logits.gather(-1, ids)
            odds, top = _odds(logits)  # they serve the sum and the gradient
            total = odds.sum(-1, keepdim=True)
            logps[part] = (chosen - top - total.log())[:, 0]
            if needs_gradient:
                mean = (odds.to(weight.dtype) @ weight).to(kept) / total
                gradient[part] = (weight[ids[:, 0]].to(kept) - mean).to(states.dtype)
        ctx.save_for_backward(gradient)
        return logps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (upstream[:, None] * gradient).to(gradient.dtype), None, None, None, None


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
