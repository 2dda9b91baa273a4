"""Who does the policy know? The one place where a prompt is told who is asking.

The template is `TEMPLATE` for plain prompts and `SYSTEM_TEMPLATE` for conversations (a system message in front, or in
front of the text of the system message that is there). *Who* is a person's dominant type, `type 2`, counted from 0 in
the order of the reward model's prototypes, and on request their id behind it: `type 2, person_017`. A newcomer is
named by the type that `PALRewardModel.fit_annotators` fits, through `WhoIsAsking.add`.

A trained policy keeps all that beside its weights, in `conditioning.json`: what it must be told to answer as it was
trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from palign.models.model_folders import read_json

CONDITIONING = "conditioning.json"
TEMPLATE = "[reader: {who}] {prompt}"
SYSTEM_TEMPLATE = "The reader is {who}."

Prompt = str | list[dict[str, str]]


class PolicyConditioning(StrEnum):
    """How a policy learns who is asking: in the prompt, by an adapter per prototype, or not at all."""

    PROMPT = "prompt"
    ADAPTER = "adapter"
    NONE = "none"


def condition_prompt(prompt: Prompt, who: str | None) -> Prompt:
    """`prompt` with `who` written into it by the one template; `who=None` returns the prompt as it is."""
    if who is None:
        return prompt
    if isinstance(prompt, str):
        return TEMPLATE.format(who=who, prompt=prompt)
    line = SYSTEM_TEMPLATE.format(who=who)
    if prompt and prompt[0].get("role") == "system":
        return [{**prompt[0], "content": f"{line} {prompt[0]['content']}"}, *prompt[1:]]
    return [{"role": "system", "content": line}, *prompt]


@dataclass
class WhoIsAsking:
    """The type each person is addressed by.

    Args:
        types: person's id → index of the dominant type.
        n_types: number of types.
        show_annotator_id: whether the id follows the type in the prompt.
    """

    types: dict[str, int] = field(default_factory=dict)
    n_types: int = 1
    show_annotator_id: bool = False

    @classmethod
    def from_weights(
        cls, annotator_ids: Sequence[str], weights: np.ndarray, *, show_annotator_id: bool = False
    ) -> "WhoIsAsking":
        """From `(n_annotators, n_types)` weights on the simplex, one row per id: the dominant type is the argmax."""
        who = cls({}, int(np.asarray(weights).shape[1]), show_annotator_id)
        who.add(annotator_ids, weights)
        return who

    def add(self, annotator_ids: Sequence[str], weights: np.ndarray) -> None:
        """Name further people (newcomers) from their fitted weights `(n_people, n_types)`.

        Raises:
            ValueError: the shape of `weights` does not match the ids or the number of types.
        """
        weights = np.asarray(weights)
        if weights.shape != (len(annotator_ids), self.n_types):
            raise ValueError(
                f"weights of shape {weights.shape} were given for {len(annotator_ids)} annotator ids and "
                f"{self.n_types} types; give one row per id and one column per type: "
                f"{(len(annotator_ids), self.n_types)}."
            )
        self.types.update({str(i): int(k) for i, k in zip(annotator_ids, weights.argmax(1), strict=True)})

    def name(self, annotator_id: str) -> str:
        """What the prompt says of this person, e.g. `type 2`.

        Raises:
            ValueError: the person has no type yet.
        """
        if annotator_id not in self.types:
            raise ValueError(
                f"annotator_id={annotator_id!r} has no fitted type, so the prompt cannot say who is asking; fit this "
                "person with `PALRewardModel.fit_annotators` and add the result with `WhoIsAsking.add`, or train with "
                "policy_conditioning='none'."
            )
        name = f"type {self.types[annotator_id]}"
        return f"{name}, {annotator_id}" if self.show_annotator_id else name

    def condition(self, prompts: Sequence[Prompt], annotator_ids: Sequence[str]) -> list[Prompt]:
        """Each prompt with its person written into it."""
        pairs = zip(prompts, annotator_ids, strict=True)
        return [condition_prompt(prompt, self.name(annotator_id)) for prompt, annotator_id in pairs]

    @classmethod
    def load(cls, folder: str) -> "WhoIsAsking":
        """What a saved policy (its folder or hub name) was trained to call people.

        Raises:
            ValueError: no file says who is of which type, or it says what cannot be.
        """
        record = _record(folder)
        types = {} if record is None else record.get("types")
        if not types:
            fault = "there is none" if record is None else f"its conditioning is {record['policy_conditioning']!r}"
            raise ValueError(
                f"{CONDITIONING} of {folder!r} should say who is of which type, and {fault}. Give the folder of a "
                "policy that was trained with policy_conditioning='prompt', or one with an adapter per prototype."
            )
        n_types = record.get("n_types")
        is_right = isinstance(types, dict) and isinstance(n_types, int)
        if not is_right or any(type(k) is not int or not 0 <= k < n_types for k in types.values()):
            raise ValueError(f"{CONDITIONING} of {folder!r}: `types` must give every person a number below `n_types`.")
        return cls(dict(types), n_types, bool(record.get("show_annotator_id")))


def conditioning_record(
    conditioning: PolicyConditioning,
    who: WhoIsAsking | None,
    reward_model: str | None = None,
    *,
    plain_prompts: bool = True,
) -> dict[str, Any]:
    """What `conditioning.json` of a policy holds; `reward_model` is the name of the one that placed the people, and
    `plain_prompts` says whether it reads plain prompts bare, or as turns (`palign.data.turns`).
    """
    record: dict[str, Any] = {"policy_conditioning": conditioning.value, "reward_model": reward_model}
    record["plain_prompts"] = plain_prompts
    if who is not None:
        record |= {"show_annotator_id": who.show_annotator_id, "n_types": who.n_types, "types": dict(who.types)}
    return record


def conditioning_of(folder: str) -> PolicyConditioning | None:
    """How a saved policy learns who is asking; None where no file says so.

    Raises:
        ValueError: the file says something else than 'prompt', 'adapter' or 'none'.
    """
    record = _record(folder)
    return None if record is None else PolicyConditioning(record["policy_conditioning"])


def reads_plain_prompts(folder: str) -> bool | None:
    """Whether a saved policy reads plain prompts bare; None where no file says how it was trained."""
    record = _record(folder)
    return None if record is None else bool(record.get("plain_prompts", True))


def _record(folder: str) -> dict[str, Any] | None:
    try:
        record = read_json(str(folder), CONDITIONING, None)
        if record is None:
            return None
        PolicyConditioning(record["policy_conditioning"])
    except (ValueError, TypeError, KeyError) as error:
        allowed = ", ".join(PolicyConditioning)
        raise ValueError(
            f"{CONDITIONING} of {str(folder)!r} is not what a training wrote ({error}): `policy_conditioning` must be "
            f"one of {allowed}."
        ) from None
    return record
