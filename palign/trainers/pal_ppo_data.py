"""Rows with a name on each of them → what PPO's loaders carry, and what is bound when the loop takes a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from palign.conditioning import WhoIsAsking
from palign.data.rendering import render_prompt
from palign.models.architectures import special_ids
from palign.rewards import BoundRows, PPORewardSocket
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.policy_rows import PolicyRows, groups_of, named_rows, query_ids


@dataclass
class PPORows(PolicyRows):
    """`PolicyRows` whose `dataset` has `input_ids` (the prompt as the policy meets it) and `row`, the row's number.

    Attributes:
        prompt_ids: `n_rows` lists of token ids of `prompts`, or empty where the tokenizers differ.
    """

    prompt_ids: list[list[int]]

    def bound(self, rows: Sequence[int], *, context_length: int, is_training: bool) -> BoundRows:
        """What to bind for a batch made of `rows`, whose prompts were padded to `context_length`."""
        return BoundRows(
            query_ids=self.dataset[rows]["input_ids"],
            context_length=context_length,
            prompts=[self.prompts[row] for row in rows],
            annotator_ids=[self.annotator_ids[row] for row in rows],
            groups=[self.groups[row] for row in rows] if self.groups else [],
            prompt_ids=[self.prompt_ids[row] for row in rows] if self.prompt_ids else [],
            is_training=is_training,
        )


def prepare_rows(
    source: Dataset | Sequence[dict[str, Any]],
    *,
    name: str,
    args: PALPPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    who: WhoIsAsking | None,
    socket: PPORewardSocket,
) -> PPORows:
    """Check rows, write who is asking into the prompts (`who` not None), and tokenize them.

    Raises:
        ValueError: no rows, a missing column, a person without an id or (with `who`) without a type.
    """
    rows, people = named_rows(source, name=name)
    raw = [row["prompt"] for row in rows]
    met = raw if who is None else who.condition(raw, people)
    ids = query_ids(met, tokenizer, max_length=args.max_prompt_length)
    reward_tokenizer = getattr(socket.reward.model, "tokenizer", None) or tokenizer
    prompts = [render_prompt(prompt, reward_tokenizer) for prompt in raw]
    groups = groups_of(rows, args.group_column)
    return PPORows(
        dataset=Dataset.from_dict({"input_ids": ids, "row": list(range(len(rows)))}),
        prompts=prompts,
        annotator_ids=people,
        groups=groups,
        prompt_ids=socket.prompt_token_ids(prompts),
        group_names=list(dict.fromkeys(groups)),
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ValueError` unless `tokenizer` pads on the left with a token of its own, as TRL's PPO needs."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError(
            f"the policy's tokenizer has pad token {tokenizer.pad_token!r} and eos token {tokenizer.eos_token!r}; PPO "
            "tells padding from the end of a completion, so they must differ. Give the tokenizer a pad token of its "
            "own: `tokenizer.add_special_tokens({'pad_token': '[PAD]'})`, and resize the model's embeddings."
        )
    if tokenizer.pad_token_id in special_ids(tokenizer, is_causal=True)[0]:
        raise ValueError(
            f"the policy's tokenizer pads with {tokenizer.pad_token!r}, which it also puts before every text, and PPO "
            "masks all pad tokens. Give the tokenizer a pad token of its own: "
            "`tokenizer.add_special_tokens({'pad_token': '[PAD]'})`, and resize the model's embeddings."
        )
    if tokenizer.padding_side != "left":
        raise ValueError(
            f"the policy's tokenizer pads on the {tokenizer.padding_side}; PPO generates behind the prompt and needs "
            "`tokenizer.padding_side = 'left'`."
        )
