"""Rows with a name on each of them → what PPO's loaders carry, and what is bound when the loop takes a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from palign.conditioning import WhoIsAsking, condition_prompt
from palign.data.annotators import canonical_id
from palign.data.loading import read_rows
from palign.data.rendering import render_prompt
from palign.rewards import BoundRows, PPORewardSocket
from palign.trainers.pal_ppo_config import PALPPOConfig


@dataclass
class PolicyRows:
    """Tokenized prompts for the loader, and beside them what only the reward may see.

    Attributes:
        dataset: `input_ids` (the prompt as the policy meets it) and `row`, the row's number.
        prompts: `n_rows` prompts as the reward model knows them.
        annotator_ids: `n_rows` people.
        groups: `n_rows` names, or empty.
        prompt_ids: `n_rows` lists of token ids of `prompts`, or empty where the tokenizers differ.
        group_names: the distinct groups, in order of first appearance.
    """

    dataset: Dataset
    prompts: list[str]
    annotator_ids: list[str]
    groups: list[str]
    prompt_ids: list[list[int]]
    group_names: list[str]

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
) -> PolicyRows:
    """Check rows, write who is asking into the prompts (`who` not None), and tokenize them.

    Raises:
        ValueError: no rows, a missing column, a person without an id or (with `who`) without a type.
    """
    rows = list(source)
    if not rows:
        raise ValueError(f"{name} has no rows; PPO needs prompts.")
    for column in ("prompt", "annotator_id"):
        missing = next((i for i, row in enumerate(rows) if row.get(column) is None), None)
        if missing is not None:
            raise ValueError(
                f"{name}, row {missing}: the column {column!r} is missing or empty; it has {sorted(rows[missing])}. "
                "Every row must be one prompt of one person: `prompt` and `annotator_id`."
            )
    people = [canonical_id(row["annotator_id"]) for row in rows]
    raw = [row["prompt"] for row in rows]
    met = (
        raw if who is None else [condition_prompt(p, who.name(person)) for p, person in zip(raw, people, strict=True)]
    )
    ids = [_token_ids(tokenizer, render_prompt(prompt, tokenizer))[-args.max_prompt_length :] for prompt in met]
    reward_tokenizer = getattr(socket.reward.model, "tokenizer", None) or tokenizer
    prompts = [render_prompt(prompt, reward_tokenizer) for prompt in raw]
    has_groups = args.group_column is not None and all(row.get(args.group_column) is not None for row in rows)
    groups = [str(row[args.group_column]) for row in rows] if has_groups else []
    return PolicyRows(
        dataset=Dataset.from_dict({"input_ids": ids, "row": list(range(len(rows)))}),
        prompts=prompts,
        annotator_ids=people,
        groups=groups,
        prompt_ids=socket.prompt_token_ids(prompts),
        group_names=list(dict.fromkeys(groups)),
    )


def _token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ValueError` unless `tokenizer` pads on the left with a token other than eos, as TRL's PPO needs."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError(
            f"the policy's tokenizer has pad token {tokenizer.pad_token!r} and eos token {tokenizer.eos_token!r}; PPO "
            "tells padding from the end of a completion, so they must differ. Give the tokenizer a pad token of its "
            "own: `tokenizer.add_special_tokens({'pad_token': '[PAD]'})`, and resize the model's embeddings."
        )
    if tokenizer.padding_side != "left":
        raise ValueError(
            f"the policy's tokenizer pads on the {tokenizer.padding_side}; PPO generates behind the prompt and needs "
            "`tokenizer.padding_side = 'left'`."
        )


def read_prompt_rows(
    source: str,
    *,
    split: str | None = None,
    annotator_column: str = "annotator_id",
    prompt_column: str = "prompt",
    group_columns: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Rows to train a policy on, from a file, a folder or the hub: `prompt`, `annotator_id` and the groups.

    Preference rows will do: what is beside the prompt and the person is left out, and so are repeated rows.

    Raises:
        ValueError: no rows, or a column that is missing or empty; the message names row and column.
    """
    found, name = read_rows(source, split=split)
    rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(found):
        for column in (annotator_column, prompt_column, *group_columns):
            if column not in row:
                raise ValueError(
                    f"{name}, row {number}: there is no column {column!r}; the row has {', '.join(map(repr, row))}. "
                    "PPO needs a prompt and a person in every row; say what they are called with --prompt_column and "
                    "--annotator_column."
                )
        try:
            person = canonical_id(row[annotator_column])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}, row {number}, column {annotator_column!r}: {error}") from error
        if not row[prompt_column]:
            raise ValueError(f"{name}, row {number}, column {prompt_column!r}: the prompt is empty. Drop the row.")
        kept = {"prompt": row[prompt_column], "annotator_id": person, **{c: str(row[c]) for c in group_columns}}
        rows.setdefault(repr((kept["prompt"], person)), kept)
    if not rows:
        raise ValueError(f"{name} has no rows; PPO needs prompts.")
    return list(rows.values())
