"""Logits and token ids → log-probabilities of completions, one value per sequence."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["completion_logps", "drawn_logps", "expected_logps", "linear_head_logps", "token_logps"]

MOST_ODDS = {torch.float16: 1e4}  # else 1e30: of a sum that can still be multiplied by the head


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
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, logits_at_once: int
) -> Tensor:
    """log softmax(states · weightᵀ + bias) at the targets: (n_tokens,) nats, at least float32.

    No tensor of n_tokens × vocab is made: logits stand for some states and some words at a time, and the gradient of
    each state, weight[target] − Σ softmax · weight, is found beside them, so that nothing is computed again.

    Args:
        states: (n_tokens, hidden), of the positions that predict the targets.
        weight: (vocab, hidden) of a head that is not trained: it gets no gradient.
        bias: (vocab,) or None; without gradient, too.
        targets: (n_tokens,) int64.
        logits_at_once: numbers that stand in memory together, at least 1.
    """
    return _LinearHeadLogps.apply(states, weight, bias, targets, logits_at_once)


def expected_logps(
    states: Tensor, speaker: int, weight: Tensor, bias: Tensor | None, targets: Tensor, *, logits_at_once: int
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
        logits_at_once: numbers that stand in memory together, at least 1.

    Returns:
        log q at the targets, and Σ_v p(v) log q(v); (n_listeners, n_tokens) each, nats, at least float32.
    """
    kept = torch.promote_types(states.dtype, torch.float32)
    others = [number for number in range(len(states)) if number != speaker]
    odds_of_speaker = _odds(states[speaker], weight, bias, targets, logits_at_once, with_mean=True)
    odds_of_others = _odds(states[others].flatten(0, 1), weight, bias, targets.repeat(len(others)), logits_at_once)
    chosen, log_total = (torch.empty(states.shape[:2], dtype=kept, device=states.device) for _ in range(2))
    for numbers, odds in (([speaker], odds_of_speaker), (others, odds_of_others)):
        chosen[numbers] = odds.chosen.view(len(numbers), len(targets))
        log_total[numbers] = odds.log_total.view(len(numbers), len(targets))
    of_means = (odds_of_speaker.mean * states.to(kept)).sum(-1) + odds_of_speaker.mean_bias
    return -log_total, of_means - chosen - log_total


class _Odds(NamedTuple):
    """Of the words to a target, exp(z_v − z_target): what their sum over the vocabulary says.

    Attributes:
        chosen: (n_tokens,) z_target.
        log_total: (n_tokens,) log of the sum, which is −log p(target), nats.
        mean, mean_bias: (n_tokens, hidden) and (n_tokens,), means of the head's rows and biases under p; 0 where they
            are not asked for.
    """

    chosen: Tensor
    log_total: Tensor
    mean: Tensor
    mean_bias: Tensor


def _odds(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, logits_at_once: int, *,
    with_mean: bool = False,
) -> _Odds:  # fmt: skip
    """No pass looks for the largest logit, since the target's serves; but for targets so unlikely that odds to them
    are beyond what a number holds."""
    kept = torch.promote_types(states.dtype, torch.float32)
    chosen = (states.to(kept) * weight[targets].to(kept)).sum(-1)
    if bias is not None:
        chosen += bias[targets].to(kept)
    chosen = chosen.to(states.dtype).to(kept)  # rounded as logits are
    total, mean, mean_bias = _sums(states, weight, bias, chosen, logits_at_once, with_mean)
    log_total = total.log()
    unlikely = (~(total < MOST_ODDS.get(weight.dtype, 1e30))).nonzero()[:, 0]
    if len(unlikely):
        top = _largest_logits(states[unlikely], weight, bias, logits_at_once).to(kept)
        total[unlikely], mean[unlikely], mean_bias[unlikely] = _sums(
            states[unlikely], weight, bias, top, logits_at_once, with_mean
        )
        log_total[unlikely] = total[unlikely].log() + top - chosen[unlikely]
    return _Odds(chosen, log_total, mean.div_(total[:, None]), mean_bias.div_(total))


def _sums(
    states: Tensor, weight: Tensor, bias: Tensor | None, shift: Tensor, logits_at_once: int, with_mean: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ_v exp(z_v − shift) (n,); the same with each word's row of the head (n, hidden), and with its bias (n,)."""
    total, of_biases = torch.zeros_like(shift), torch.zeros_like(shift)
    of_rows = shift.new_zeros(len(states), weight.shape[1] if with_mean else 1)
    for some, words in _blocks(len(states), len(weight), logits_at_once):
        rows, biases = weight[words], None if bias is None else bias[words]
        odds = torch.nn.functional.linear(states[some], rows, biases).to(shift.dtype).sub_(shift[some, None]).exp_()
        total[some] += odds.sum(-1)
        if with_mean:
            of_rows[some] += odds.to(rows.dtype) @ rows
        if with_mean and biases is not None:
            of_biases[some] += odds @ biases.to(odds.dtype)
    return total, of_rows, of_biases


def _largest_logits(states: Tensor, weight: Tensor, bias: Tensor | None, logits_at_once: int) -> Tensor:
    largest = states.new_full(states.shape[:1], -torch.inf)
    for some, words in _blocks(len(states), len(weight), logits_at_once):
        logits = torch.nn.functional.linear(states[some], weight[words], None if bias is None else bias[words])
        largest[some] = torch.maximum(largest[some], logits.amax(-1))
    return largest


def _blocks(n_states: int, n_words: int, logits_at_once: int) -> Iterator[tuple[slice, slice]]:
    """Some states and some words, of which the logits may stand in memory together: all words where enough states fit
    beside them, else about as many words as states, with which a matrix product is quick."""
    states_each = max(logits_at_once // n_words, math.isqrt(logits_at_once), 1)
    words_each = max(logits_at_once // max(min(n_states, states_each), 1), 1)
    for first in range(0, n_states, states_each):
        for word in range(0, n_words, words_each):
            yield slice(first, first + states_each), slice(word, word + words_each)


class _LinearHeadLogps(torch.autograd.Function):
    """See `linear_head_logps`; a gradient of its gradient raises RuntimeError."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, logits_at_once: int
    ) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        odds = _odds(states, weight, bias, targets, logits_at_once, with_mean=needs_gradient)
        gradient = (weight[targets].to(odds.mean.dtype) - odds.mean).to(states.dtype) if needs_gradient else None
        ctx.save_for_backward(gradient)
        return -odds.log_total

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
