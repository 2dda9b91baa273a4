"""Rows with a name on each of them → the columns that TRL's GRPO and RLOO hand to a reward function."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from palign.conditioning import WhoIsAsking
from palign.data.rendering import render_prompt
from palign.data.turns import as_turns
from palign.trainers.policy.rows import PolicyRows, groups_of, named_rows

__all__ = ["prepare_group_rows"]


def prepare_group_rows(
    source: Dataset | Sequence[dict[str, Any]],
    *,
    name: str,
    log_rewards_by: str | None,
    tokenizer: PreTrainedTokenizerBase,
    who: WhoIsAsking | None,
    plain_prompts: bool = True,
    reward_reads_plain: bool = True,
) -> PolicyRows:
    """Check rows, and write who is asking into the prompts (`who` not None).

    Args:
        source: rows with `prompt` and `annotator_id`.
        name: of the rows, for messages.
        log_rewards_by: column to report rewards by.
        tokenizer: the reward model's, which renders conversational prompts for it.
        who: names for the people.
        plain_prompts: the policy reads plain prompts bare; else each as a user's turn.
        reward_reads_plain: the same of the reward model.

    Returns:
        Rows whose `dataset` has `prompt` (as the policy meets it), `reward_prompt` (as the reward model knows it),
        `annotator_id` and, where every row has one, `group`.

    Raises:
        ValueError: no rows, a missing column, a person without an id or (with `who`) without a type, or texts and
            conversations mixed.
    """
    rows, people = named_rows(source, name=name)
    raw = [row["prompt"] for row in rows]
    odd = next((i for i, prompt in enumerate(raw) if isinstance(prompt, str) != isinstance(raw[0], str)), None)
    if odd is not None:
        kinds = ("a text", "a list of messages")
        first, other = kinds if isinstance(raw[0], str) else kinds[::-1]
        raise ValueError(
            f"{name}, row {odd}, column 'prompt': it is {other}, and that of row 0 is {first}. TRL reads a data "
            "set of one kind; give all prompts as texts or all as lists of messages."
        )
    asked, met = raw if reward_reads_plain else as_turns(raw), raw if plain_prompts else as_turns(raw)
    prompts, groups = [render_prompt(prompt, tokenizer) for prompt in asked], groups_of(rows, log_rewards_by)
    columns = {"prompt": met if who is None else who.condition(met, people), "reward_prompt": prompts}
    columns |= {"annotator_id": people} | ({"group": groups} if groups else {})
    return PolicyRows(
        dataset=Dataset.from_dict(columns),
        prompts=prompts,
        annotator_ids=people,
        groups=groups,
        group_names=list(dict.fromkeys(groups)),
    )
