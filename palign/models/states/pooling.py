"""From the states of a text's tokens to one vector: functions of tensors, for `palign.models.backbones`."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["OF_COMPLETION", "POOLINGS", "completion_tokens", "pack", "pool", "rows_at"]

OF_COMPLETION = ("completion", "completion_last")  # they must know where the completion begins
POOLINGS = (*OF_COMPLETION, "last", "mean", "first", "max")


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """States (batch, seq_len, hidden) and the tokens that count, (batch, seq_len) of 0 and 1 → (batch, hidden)."""
    if pooling == "last":
        positions = torch.arange(mask.shape[1], device=mask.device)
        return rows_at(states, (mask * positions).argmax(1))
    if pooling == "first":
        return states[:, 0]
    real = mask[..., None].to(torch.bool)
    if pooling == "max":
        return states.masked_fill(~real, float("-inf")).amax(1)
    return states.masked_fill(~real, 0.0).sum(1) / mask.sum(1, keepdim=True)


def completion_tokens(input_ids: Tensor, mask: Tensor, prompt_lengths: Tensor, marks: Sequence[int]) -> Tensor:
    """(batch, seq_len) like `mask`: the completion's own tokens; of a completion without any, the row's last token.

    Args:
        input_ids, mask: (batch, seq_len) of right-padded rows.
        prompt_lengths: (batch,).
        marks: ids that are no text, such as those that begin and end turns. Those before the answer's first word are
            left out, and everything from the first one behind it.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    rest = (positions >= prompt_lengths[:, None]) & mask.bool()
    is_mark = torch.isin(input_ids, torch.tensor(list(marks), dtype=input_ids.dtype, device=input_ids.device))
    text = rest & ~is_mark
    has_begun = text.cumsum(1) > 0
    has_ended = (rest & is_mark & has_begun).cumsum(1) > 0
    tokens = text & ~has_ended
    is_empty = ~tokens.any(1, keepdim=True)
    last = positions == mask.sum(1, keepdim=True) - 1
    return (tokens | (is_empty & last)).to(mask.dtype)


def rows_at(states: Tensor, positions: Tensor) -> Tensor:
    """States (batch, seq_len, hidden) at one position of each row (batch,) → (batch, hidden)."""
    return states[torch.arange(states.shape[0], device=states.device), positions]


def pack(input_ids: Tensor, attention_mask: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Move each row's real tokens to the front, in order, overwrite the pads, and cut the common tail of pads."""
    real = attention_mask.to(torch.bool)
    lengths = real.sum(1)
    if input_ids.shape[0] == 0 or int(lengths.min()) == 0:
        raise ValueError(
            "a row of attention_mask has no real token (or the batch is empty); there is nothing to pool. Drop it."
        )
    order = torch.argsort((~real).to(torch.uint8), dim=1, stable=True)[:, : int(lengths.max())]
    packed_mask = real.gather(1, order)
    return input_ids.gather(1, order).masked_fill(~packed_mask, pad_id), packed_mask.to(torch.long)
