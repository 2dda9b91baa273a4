"""Packing and pooling: rows of states → one vector each, whatever the padding.

A row is *packed* by moving its real tokens to the front, in order. Left padding, right padding and pads in the middle
then give the same numbers on every architecture, whether its positions are learned, rotary, or implied by recurrence.
"""

import torch
from torch import Tensor

__all__ = ["POOLINGS", "pack", "pool", "rows_at"]

POOLINGS = ("last", "mean", "first", "max")


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """States (batch, seq_len, hidden) of right-padded rows and their mask (batch, seq_len) → (batch, hidden)."""
    if pooling == "last":
        return rows_at(states, mask.sum(1) - 1)
    if pooling == "first":
        return states[:, 0]
    real = mask[..., None].to(torch.bool)
    if pooling == "max":
        return states.masked_fill(~real, float("-inf")).amax(1)
    return states.masked_fill(~real, 0.0).sum(1) / mask.sum(1, keepdim=True)


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
