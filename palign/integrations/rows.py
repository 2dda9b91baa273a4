"""One function under every trainer of others: rows of texts, each with a person, to rewards."""

import json
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from palign.data.annotators import canonical_id
from palign.data.rendering import Written, answer_marks
from palign.models.pal import PALRewardModel
from palign.rewards import PersonalizedReward

__all__ = ["loaded_reward", "parts_of_query", "person_of_label", "score_rows"]

_ONE_AT_A_TIME = threading.Lock()  # trainers call from several threads


@lru_cache(maxsize=4)
def _read(model_path: str) -> PersonalizedReward:
    return PersonalizedReward(PALRewardModel.from_pretrained(model_path), standardize=False)


def loaded_reward(model_path: str) -> PersonalizedReward:
    """The reward model of a folder or hub name, read once in a process; rewards as they are, not standardised."""
    with _ONE_AT_A_TIME:
        return _read(model_path)


def score_rows(
    reward: PersonalizedReward | str, prompts: Sequence[Any], completions: Sequence[Any], annotator_ids: Sequence[Any]
) -> list[float]:
    """Rewards (n,) of completions (n,) to prompts (n,) for people (n,).

    Args:
        reward: or the folder of the reward model.
        prompts, completions: texts or lists of messages.
        annotator_ids: people; strangers get the population's mean weights.
    """
    reward = loaded_reward(reward) if isinstance(reward, str) else reward
    return reward(prompts, completions, annotator_id=annotator_ids)


def parts_of_query(query: str, prompt: str, tokenizer: Any) -> tuple[str, str]:
    """(prompt, completion) of a text that a trainer has written: the prompt through a template, and what was sampled.

    Special tokens that end the completion are taken off. A prompt that ends as the chat template opens an answer is
    `Written`: it is read as it stands, and not put through the template again.

    Raises:
        ValueError: the query does not hold the prompt.
    """
    before, found, completion = query.partition(prompt)
    beginning = getattr(tokenizer, "bos_token", None)
    if not found or before.strip() not in ("", beginning):  # some tokenizers decode a space before the first word
        raise ValueError("A query does not begin with its prompt. Send query = prompt + completion, and the prompt.")
    opening, closing = answer_marks(tokenizer)
    ends = [mark for mark in (tokenizer.eos_token, tokenizer.pad_token, closing.strip()) if mark]
    completion = completion.rstrip()
    while any(completion.endswith(end) for end in ends):
        completion = next(completion.removesuffix(end) for end in ends if completion.endswith(end)).rstrip()
    return (Written(prompt) if opening and prompt.endswith(opening) else prompt), completion


def person_of_label(label: Any) -> str:
    """The person in a row's label: an id, a mapping with `annotator_id`, or that as JSON.

    Raises:
        ValueError, TypeError: there is none.
    """
    if isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            label = json.loads(label)
        except json.JSONDecodeError:
            raise ValueError(
                "A label begins as JSON does and is none. Give the person's id, or JSON with annotator_id."
            ) from None
    if isinstance(label, dict):
        if "annotator_id" not in label:
            raise ValueError(
                f"A label holds {', '.join(map(repr, label))} and no 'annotator_id'. Give the person's id."
            )
        label = label["annotator_id"]
    return canonical_id(label)
