"""Log-probabilities of completions without the logits of every position: the states of scored tokens alone go through
the head, some at a time (`palign.functional.logprobs.linear_head_logps`).

Only where the head is a linear map that gets no gradient, and nothing is done to its logits behind it. Configurations
name what is done (caps, scales, multipliers), and one short sequence is read in both ways before a model is trusted;
others are read as before. Completions of one prompt are read behind it in one sequence, where the model can
(`palign.models.states.prompt_tree`).
"""

import logging
import re
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from palign.functional.logprobs import linear_head_logps
from palign.models.states.evaluating import evaluating
from palign.models.states.prompt_tree import plant, states_of, takes_trees
from palign.parallel.sharded import is_sharded

__all__ = ["ScoredStates", "has_plain_head", "logits_at_once", "plain_head", "scored_logps", "scored_states"]

logger = logging.getLogger(__name__)
CHANGES_LOGITS = re.compile(r"logits?_\w*(cap|scal|mult)|lm_head_mult|output_mult")
N_COMPARED = 8  # tokens read in both ways
CLOSE = 1e-2  # of the largest logit; bfloat16 rounds to 4e-3
LOGITS_AT_ONCE = {"cpu": 2**20, "other": 2**27}
_trusted: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def has_plain_head(transformer: nn.Module) -> bool:
    """Whether `scored_logps` serves this causal language model as it is now.

    Args:
        transformer: of transformers, adapters inside it or not.
    """
    head = plain_head(transformer)
    is_trained = head is not None and head.weight.requires_grad and torch.is_grad_enabled()
    if head is None or is_trained or head.weight.is_meta or is_sharded(transformer):
        return False
    if transformer not in _trusted:
        _trusted[transformer] = _leaves_logits(transformer.config) and _gives_the_same(transformer, head)
        if not _trusted[transformer]:
            logger.info("This model changes its logits behind the head; they are computed for all positions.")
    return _trusted[transformer]


@dataclass(frozen=True)
class ScoredStates:
    """Last hidden states behind the completions of a batch, one line for each of their tokens, in order.

    Attributes:
        states: (n_tokens, hidden), of the position that predicts the token.
        own_states: (n_tokens, hidden), of the token itself.
        targets: (n_tokens,) int64, the token.
        item: (n_tokens,) int64, the row of the batch that it belongs to.
        n_items: rows of the batch.
    """

    states: Tensor
    own_states: Tensor
    targets: Tensor
    item: Tensor
    n_items: int

    def sums(self, values: Tensor) -> Tensor:
        """(n_tokens, ...) → (n_items, ...), summed over the tokens of each completion."""
        return values.new_zeros(self.n_items, *values.shape[1:]).index_add(0, self.item.to(values.device), values)


def scored_states(
    transformer: nn.Module, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor
) -> ScoredStates:
    """Read a batch, the completions of one prompt behind it in one sequence where the model can.

    Args:
        transformer: a causal language model, adapters inside it or not.
        input_ids, attention_mask, completion_mask: (batch, seq_len), right-padded.
    """
    inner = _inner(transformer)
    trees = plant(input_ids, attention_mask, completion_mask) if takes_trees(inner, input_ids.shape[1]) else None
    if trees is not None:
        read = states_of(inner, trees)
        return ScoredStates(
            read[trees.tree, trees.position], read[trees.tree, trees.place], trees.targets, trees.item, len(input_ids)
        )
    item, position = completion_mask[:, 1:].bool().nonzero(as_tuple=True)
    read = inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]
    rows, places = item.to(read.device), position.to(read.device)
    return ScoredStates(
        read[rows, places], read[rows, places + 1], input_ids[item, position + 1], item, len(input_ids)
    )


def scored_logps(transformer: nn.Module, scored: ScoredStates) -> Tensor:
    """Log-probabilities of the completions, of a model that `has_plain_head`: (batch,), nats."""
    head = plain_head(transformer)
    device = head.weight.device
    logps = linear_head_logps(
        scored.states.to(device),
        head.weight,
        head.bias,
        scored.targets.to(device),
        logits_at_once=logits_at_once(device),
    )
    return scored.sums(logps)


def logits_at_once(device: torch.device) -> int:
    """Numbers of logits that may stand in memory together; on a CPU few, that they stay in its cache."""
    return LOGITS_AT_ONCE.get(device.type, LOGITS_AT_ONCE["other"])


def _inner(transformer: nn.Module) -> nn.Module:
    return getattr(transformer, getattr(transformer, "base_model_prefix", ""), transformer)


def plain_head(transformer: nn.Module) -> nn.Linear | None:
    """The head where it is a plain linear map on a model of its own; LoRA and quantized ones are other classes."""
    find = getattr(transformer, "get_output_embeddings", None)
    head = None if find is None else find()
    return head if type(head) is nn.Linear and _inner(transformer) is not transformer else None


def _leaves_logits(config: object) -> bool:
    options = {**config.to_dict(), **config.get_text_config().to_dict()}
    changes = {name: value for name, value in options.items() if CHANGES_LOGITS.search(name)}
    return all(value in (None, False, 0, 1) for value in changes.values())


@torch.no_grad()
def _gives_the_same(transformer: nn.Module, head: nn.Linear) -> bool:
    ids = (torch.arange(N_COMPARED, device=head.weight.device) % head.weight.shape[0])[None]
    with evaluating(transformer):
        logits = transformer(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()
        states = _inner(transformer)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[0]
        plain = head(states).float()
    return logits.shape == plain.shape and bool((logits - plain).abs().max() <= CLOSE * logits.abs().max() + 1e-6)
