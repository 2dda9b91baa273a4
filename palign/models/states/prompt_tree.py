"""Completions of one prompt in one sequence, so that the prompt is read once: a tree of tokens.

    prompt | completion 1 | completion 2 | …

Every completion sees the prompt and itself alone, and its positions go on from the prompt's. The log-probabilities are
those of one sequence for each completion, but for rounding: tokens of a prompt are read once for all of them.

Models whose attention takes no mask of their own making are read as before, as are batches in which nothing is saved.
"""

import inspect
import logging
from collections import defaultdict
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from palign.models.states.evaluating import evaluating

__all__ = ["PromptTrees", "plant", "states_of", "takes_trees"]

logger = logging.getLogger(__name__)
WORTH = 0.85  # of the tokens of single sequences, padding included: more than that is no saving
TAKE_MASKS = ("sdpa", "eager")
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
CLOSE = 1e-2  # of the largest state; bfloat16 rounds to 4e-3
_trusted: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class PromptTrees:
    """A batch of trees.

    Attributes:
        input_ids, position_ids: (n_trees, seq_len) int64.
        is_visible: (n_trees, 1, seq_len, seq_len) bool, whom a token (third axis) sees.
        tree, position: (n_tokens,) int64, where the state lies that predicts a completion's token.
        place: (n_tokens,) int64, where in its tree that token itself lies.
        targets: (n_tokens,) int64, that token.
        item: (n_tokens,) int64, the row of the batch that it belongs to.
    """

    input_ids: Tensor
    position_ids: Tensor
    is_visible: Tensor
    tree: Tensor
    position: Tensor
    place: Tensor
    targets: Tensor
    item: Tensor

    def options(self, attention: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """What a model's forward takes. Eager attention adds its mask, and that of PyTorch makes numbers of one in
        every layer on a CPU: there they are given as numbers.
        """
        mask = self.is_visible
        if attention == "eager" or mask.device.type == "cpu":
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "attention_mask": mask}


def plant(input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> PromptTrees | None:
    """Trees of the rows that share a prompt; None where that saves less than 15 % of the tokens.

    Args:
        input_ids, attention_mask, completion_mask: (batch, seq_len), right-padded; the completion is the end of every
            row, and has a token before it.
    """
    ids, mask, completion = (part.cpu().numpy() for part in (input_ids, attention_mask, completion_mask))
    lengths, n_scored = mask.sum(1), completion.sum(1)
    heads = lengths - n_scored
    place = np.arange(ids.shape[1])
    is_tail = (place >= heads[:, None]) & (place < lengths[:, None])
    if heads.min() < 1 or not np.array_equal(is_tail, completion.astype(bool)):
        return None
    by_prompt: dict[bytes, list[int]] = defaultdict(list)
    for row, length in enumerate(heads):
        by_prompt[ids[row, :length].tobytes()].append(row)
    trees = [tree for rows in by_prompt.values() for tree in _parted(rows, heads, n_scored)]
    longest = max(int(heads[rows[0]] + n_scored[rows].sum()) for rows in trees)
    if len(trees) * longest > WORTH * ids.size:
        return None
    return _planted(ids, heads, lengths, trees, longest, input_ids.device)


def takes_trees(inner: nn.Module, seq_len: int) -> bool:
    """Whether this transformer (without its head) reads trees of sequences of that length rightly; tried once with a
    tree of nine tokens. A window of attention is not in the mask, so sequences must fit in it. In half precision a
    tree is rounded otherwise than its sequences, and a policy would not cancel against its own reference: there each
    is read by itself.
    """
    weight = next(inner.parameters())
    if weight.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(weight.device.type):
        return False
    attention, text = getattr(inner.config, "_attn_implementation", None), inner.config.get_text_config()
    windows = [getattr(text, name, None) for name in WINDOWS]
    if any(window is not None and seq_len > window for window in windows):
        return False
    if attention not in TAKE_MASKS:
        return False
    if inner not in _trusted:
        _trusted[inner] = _reads_rightly(inner)
        if not _trusted[inner]:
            logger.info("This model does not read several completions behind one prompt; each is read by itself.")
    return _trusted[inner]


def states_of(inner: nn.Module, trees: PromptTrees) -> Tensor:
    """(n_trees, seq_len, hidden)."""
    dtype = next(parameter.dtype for parameter in inner.parameters() if parameter.is_floating_point())
    return inner(**trees.options(inner.config._attn_implementation, dtype), use_cache=False)[0]


def _parted(rows: list[int], heads: np.ndarray, n_scored: np.ndarray) -> list[list[int]]:
    """Rows of one prompt in trees. Attention grows with the square of a tree, so none is longer than two prompts and
    two completions."""
    limit = 2 * (int(heads[rows[0]]) + int(n_scored[rows].max()))
    trees: list[list[int]] = []
    length = limit + 1
    for row in rows:
        if length + n_scored[row] > limit:
            trees.append([])
            length = int(heads[row])
        trees[-1].append(row)
        length += int(n_scored[row])
    return trees


def _planted(
    ids: np.ndarray, heads: np.ndarray, lengths: np.ndarray, trees: list[list[int]], longest: int, device: torch.device
) -> PromptTrees:
    tokens, positions, branch = (np.zeros((len(trees), longest), dtype=np.int64) for _ in range(3))
    branch -= 1  # padding is on no branch; the prompt is on branch 0
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("tree", "position", "place", "targets", "item")}
    for number, rows in enumerate(trees):
        end = int(heads[rows[0]])
        tokens[number, :end], positions[number, :end], branch[number, :end] = ids[rows[0], :end], np.arange(end), 0
        for which, row in enumerate(rows, 1):
            answer = ids[row, heads[row] : lengths[row]]
            here = slice(end, end + len(answer))
            tokens[number, here], branch[number, here] = answer, which
            positions[number, here] = heads[row] + np.arange(len(answer))
            parts["tree"].append(np.full(len(answer), number))
            parts["position"].append(np.array([heads[row] - 1, *range(end, end + len(answer) - 1)])[: len(answer)])
            parts["place"].append(np.arange(end, end + len(answer)))
            parts["targets"].append(answer)
            parts["item"].append(np.full(len(answer), row))
            end += len(answer)
    flat = {name: torch.from_numpy(np.concatenate(part)).to(device) for name, part in parts.items()}
    branch = torch.from_numpy(branch).to(device)
    seen, seer = branch[:, None, :], branch[:, :, None]
    causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    is_visible = causal & (seen >= 0) & ((seen == 0) | (seen == seer))
    itself = torch.eye(longest, dtype=torch.bool, device=device)
    is_visible |= itself  # so that at padding, too, a softmax has something
    return PromptTrees(
        torch.from_numpy(tokens).to(device), torch.from_numpy(positions).to(device), is_visible[:, None], **flat
    )


@torch.no_grad()
def _reads_rightly(inner: nn.Module) -> bool:
    """A prompt of three tokens and completions of three, each by itself and in one tree."""
    if "position_ids" not in inspect.signature(inner.forward).parameters:
        return False
    weight = next(inner.parameters())
    n_words = int(inner.config.get_text_config().vocab_size)
    rows = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 9]], device=weight.device) % n_words
    mask, completion = torch.ones_like(rows), torch.zeros_like(rows)
    completion[:, 3:] = 1
    try:
        with evaluating(inner):
            trees = plant(rows, mask, completion)
            grown = states_of(inner, trees)[trees.tree, trees.position]
            single = inner(input_ids=rows, attention_mask=mask, use_cache=False)[0][:, 2:5].flatten(0, 1)
    except (RuntimeError, TypeError, ValueError, IndexError):  # this model's attention takes no such mask
        return False
    return bool((grown - single).abs().max() <= CLOSE * single.abs().max())
