"""One function under every trainer of others: rows of texts, each with a person, to rewards."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from palign.data.rendering import Written, answer_marks
from palign.models.pal import PALRewardModel
from palign.rewards import PersonalizedReward

__all__ = ["loaded_reward", "parts_of_query", "score_rows"]


@lru_cache(maxsize=4)
def loaded_reward(model_path: str) -> PersonalizedReward:
    """The reward model of a folder or hub name, read once in a process; rewards as they are, not standardised."""
    return PersonalizedReward(PALRewardModel.from_pretrained(model_path), standardize=False)


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
    if not found or before not in ("", beginning):
        raise ValueError("A query does not begin with its prompt. Send query = prompt + completion, and the prompt.")
    opening, closing = answer_marks(tokenizer)
    ends = [mark for mark in (tokenizer.eos_token, tokenizer.pad_token, closing.strip()) if mark]
    completion = completion.rstrip()
    while any(completion.endswith(end) for end in ends):
        completion = next(completion.removesuffix(end) for end in ends if completion.endswith(end)).rstrip()
    return (Written(prompt) if opening and prompt.endswith(opening) else prompt), completion
