"""The reference shown what a person chose before: a policy that nobody trained, beside those of PPO, GRPO and RLOO."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palign.data.arguments import DataArguments
from palign.data.rows.options import ReadingOptions
from palign.evaluation.judging.in_context import IN_CONTEXT, behind_choices, shown_choices
from palign.pipelines.arguments.policy import PolicyArguments
from palign.trainers.policy.rows import query_ids

__all__ = ["IN_CONTEXT", "choices_before", "told_prompts"]


def choices_before(
    script: PolicyArguments, eval_rows: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, list[str]], list[str]]:
    """Person → their latest choices, `--n_shown` at most, and what to say of them; nothing where none are named.

    Choices on a prompt that the same person is judged on are left out: they would say the answer.

    Raises:
        ValueError: the rows cannot be read, or none is left.
    """
    if script.earlier_dataset_name is None:
        return {}, []
    reading = DataArguments(**vars(ReadingOptions.reading(script)), guard="off")
    earlier = reading.load(script.earlier_dataset_name, None, None)
    asked = {(str(row["annotator_id"]), _key(row["prompt"])) for row in eval_rows}
    pairs = zip(earlier.annotator_ids, earlier.prompt_indices, strict=True)
    kept = np.array([(person, _key(earlier.prompts[number])) not in asked for person, number in pairs], dtype=bool)
    if not kept.any():
        raise ValueError(
            f"All rows of --earlier_dataset_name {script.earlier_dataset_name} are on prompts that the same people "
            "are judged on. Give rows on other prompts."
        )
    notes = []
    if not kept.all():
        notes.append(f"{int((~kept).sum())} earlier rows are on prompts judged here, and are not shown.")
    return shown_choices(earlier.select(np.flatnonzero(kept)), script.n_shown), notes


def told_prompts(
    prompts: Sequence[Any], people: Sequence[str], choices: Mapping[str, list[str]], tokenizer: Any, room: int | None
) -> tuple[list[list[int]], str]:
    """Token ids of each prompt behind the person's choices, and a sentence that says how many were shown them.

    Args:
        prompts: as the reference reads them, texts or messages.
        people: the id of each prompt's person.
        room: tokens of a prompt, at most: the oldest choices are left out of longer ones; None: no limit.
    """
    token_ids, n_told, n_fewer = [], 0, 0
    for prompt, person in zip(prompts, people, strict=True):
        known = choices.get(person, [])
        _, ids, n_shown = behind_choices(prompt, known, lambda told: query_ids([told], tokenizer)[0], room)
        n_told += n_shown > 0
        n_fewer += n_shown < len(known)
        token_ids.append(ids)
    most = max(map(len, choices.values()), default=0)
    sentence = (
        f"{IN_CONTEXT} is the reference with up to {most} earlier choices of the person in its prompt, trained on "
        f"nothing: {n_told} of {len(token_ids)} prompts show some."
    )
    return token_ids, sentence + (f" {n_fewer} had room for fewer than there are." if n_fewer else "")


def _key(prompt: Any) -> str:
    return json.dumps(prompt, sort_keys=True)
