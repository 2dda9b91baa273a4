"""Who does the policy know? The one place where a prompt is told who is asking.

The template is `TEMPLATE` for plain prompts and `SYSTEM_TEMPLATE` for conversations (a system message in front, or in
front of the text of the system message that is there). *Who* is a person's dominant type, `type 2`, counted from 0 in
the
order of the reward model's prototypes, and on request their id behind it: `type 2, person_017`. A newcomer is named by
what `PALRewardModel.fit_annotators` found for them, through `WhoIsAsking.add`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

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
        """Each prompt with its own person written into it."""
        pairs = zip(prompts, annotator_ids, strict=True)
        return [condition_prompt(prompt, self.name(annotator_id)) for prompt, annotator_id in pairs]
