"""PersonalizedReward: the reward of the person each prompt belongs to; one object, two sockets.

1. `reward(prompts=…, completions=…, annotator_id=…)` → `list[float]`: TRL's reward-function form (PPO, GRPO, RLOO).
2. `reward.score(prompts, completions, annotator_ids)` → tensor `(batch,)`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from palign.data.annotators import canonical_id
from palign.data.rendering import answer_marks, render_completion, render_prompt
from palign.data.turns import as_turn
from palign.functional.reward_scales import RewardScales
from palign.models.notebook.tables import facts_table
from palign.models.scoring_inputs import part_starts, states_in_parts
from palign.models.states.evaluating import evaluating


class Scorer(Protocol):
    """What a reward model must be able to do; `PALRewardModel` is one, and any object of this shape will do."""

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], annotator_ids: Sequence[str] | None = None
    ) -> torch.Tensor:
        """Rewards `(batch,)` of the completions to the people `annotator_ids`.

        A model that also has `score_for_weights(prompts, completions, weights)` → `(batch, n_weights)` reads each
        reference completion once for everybody when reward scales are fitted.
        """


@dataclass
class RewardBatch:
    """Rewards `(batch,)`: `raw` is what the reward model gives, `standardized` what a policy is trained on."""

    raw: torch.Tensor
    standardized: torch.Tensor


class PersonalizedReward:
    """The reward of the person each prompt belongs to.

    Args:
        model: a `Scorer`: `PALRewardModel`, or any object with its `score`.
        weights: `(n_prototypes,)`, fixed weights for everybody (e.g. one prototype, to train its adapter); then
            `model.score` is called with `weights` and the person does not matter.
        standardize: whether `fit_scales` turns rewards into z-scores against the same person's rewards on reference
            completions.
        empty_z: the standardized reward of an empty completion, which is never shown to the reward model: it has
            no text to judge, and an arbitrary high reward there is how policies collapse.
        batch_size: texts per call of the reward model.
    """

    def __init__(
        self,
        model: Scorer,
        *,
        weights: Sequence[float] | None = None,
        standardize: bool = True,
        empty_z: float = -3.0,
        batch_size: int = 256,
    ) -> None:
        self.__name__ = "personalized_reward"  # TRL names the metrics of a reward function after it
        self.model = model.eval() if isinstance(model, nn.Module) else model
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float32)
        self.standardize = standardize
        self.empty_z = empty_z
        self.batch_size = batch_size
        self.scales = RewardScales()

    def __repr__(self) -> str:
        return f"PersonalizedReward({'; '.join(f'{name}: {value}' for name, value in self.facts().items())})"

    def _repr_html_(self) -> str:
        return facts_table("Personalized reward", self.facts())

    def facts(self) -> dict[str, str]:
        """What the reward is, name → text."""
        whose = "the person of each row" if self.weights is None else f"everybody, by weights {self.weights.tolist()}"
        scaled = f"by the scales of {len(self.scales):,} people" if len(self.scales) else "not yet: call fit_scales"
        return {
            "model": " ".join(repr(self.model).split())[:200],
            "reward of": whose,
            "standardized": scaled if self.standardize else "no",
        }

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        annotator_id: Sequence[Any] | None = None,
        reward_prompt: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float]:
        """TRL's reward function: one float per completion.

        Args:
            prompts: list of `batch` prompts as the policy met them, strings or conversations.
            completions: list of `batch` completions, strings or lists of messages.
            annotator_id: the data set's column of people.
            reward_prompt: the data set's column of prompts as the reward model knows them, where the policy's carry
                who is asking; default `prompts`.
            columns: whatever else TRL passes; ignored.

        Raises:
            ValueError: no `annotator_id` column and no fixed weights.
            RuntimeError: a reward is not finite.
        """
        if annotator_id is None and self.weights is None:
            raise ValueError(
                "the reward function got no `annotator_id`: a personalized reward needs to know whom each row belongs "
                "to. Give the training data set an `annotator_id` column (TRL passes every extra column of the data "
                "set on), or build PersonalizedReward with fixed `weights`."
            )
        people = None if annotator_id is None else [canonical_id(person) for person in annotator_id]
        return self.score(prompts if reward_prompt is None else reward_prompt, completions, people).tolist()

    def score(
        self, prompts: Sequence[Any], completions: Sequence[Any], annotator_ids: Sequence[str] | None = None
    ) -> torch.Tensor:
        """Rewards `(batch,)`, standardized where scales were fitted. Same errors as `batch`."""
        return self.batch(prompts, completions, annotator_ids).standardized

    @torch.no_grad()
    def batch(
        self, prompts: Sequence[Any], completions: Sequence[Any], annotator_ids: Sequence[str] | None = None
    ) -> RewardBatch:
        """Raw and standardized rewards of a batch.

        Raises:
            ValueError: lists of different lengths.
            RuntimeError: a reward is NaN or infinite; the message shows the row.
        """
        people = [None] * len(prompts) if annotator_ids is None else list(annotator_ids)
        if not len(prompts) == len(completions) == len(people):
            raise ValueError(
                f"{len(prompts)} prompts, {len(completions)} completions and {len(people)} annotator ids were given "
                "to the reward; give three lists of one length, row for row."
            )
        tokenizer = getattr(self.model, "tokenizer", None)
        asked = [self._asked(prompt) for prompt in prompts]
        texts = [render_prompt(prompt, tokenizer) for prompt in asked]
        closing, answers = self._marks[1].strip(), []
        for prompt, turn, completion in zip(prompts, asked, completions, strict=True):
            kept = prompt if isinstance(completion, str) else turn
            answer = render_completion(kept, completion, tokenizer).strip()
            answers.append(answer if isinstance(completion, str) else answer.removesuffix(closing).strip())
        raw = self._raw(texts, answers, people)
        return self._finish(raw, texts, answers, people)

    @torch.no_grad()
    def fit_scales(
        self, prompts: Sequence[str], completions: Sequence[str], annotator_ids: Iterable[str] | None
    ) -> RewardScales:
        """Fit every person's mean and standard deviation on the same reference completions.

        Args:
            prompts: list of `n_reference` prompts, texts or conversations.
            completions: list of `n_reference` completions of the reference policy; empty ones are left out.
            annotator_ids: whose scales to fit; None with fixed weights.

        Returns:
            The scales, also kept in `scales`.

        Raises:
            ValueError: fewer than two reference completions that are not empty.
        """
        rows = [i for i, text in enumerate(completions) if text.strip()]
        if len(rows) < 2:
            raise ValueError(
                f"{len(rows)} of the {len(completions)} reference completions hold any text; at least two are needed "
                "to standardize rewards. Give more reference completions, or set standardize=False."
            )
        tokenizer = getattr(self.model, "tokenizer", None)
        texts = [render_prompt(self._asked(prompts[i]), tokenizer) for i in rows]
        answers = [completions[i].strip() for i in rows]
        people = list(dict.fromkeys(annotator_ids)) if annotator_ids is not None else [None]
        if self.weights is None and hasattr(self.model, "score_for_weights"):  # texts are read once for everybody
            answers = [self.as_read(text, answer) for text, answer in zip(texts, answers, strict=True)]
            rewards = self.model.score_for_weights(texts, answers, self._weights(people))
            if getattr(self.model, "deviations", None) is not None:
                rewards = rewards + self._own_parts(texts, answers, people)
            rewards = rewards.float().cpu()
            self.scales.fit(dict(zip(people, rewards.unbind(1), strict=True)))
        else:
            self.scales.fit({person: self._raw(texts, answers, [person] * len(rows)) for person in people})
        return self.scales

    def _own_parts(self, texts: list[str], answers: list[str], people: Sequence[Any]) -> torch.Tensor:
        """(n_texts, n_people): what people's own parts add to the reward of their mixture."""
        model, backbone = self.model, self.model.backbone
        options = {"with_prompts": False, "plain_prompts": model.plain_prompts}
        with evaluating(model):
            states = states_in_parts(backbone, texts, answers, batch_size=self.batch_size, **options)
        return model.deviations.features(states) @ model.deviations_for(people).T

    def as_read(self, prompt: str, answer: str) -> str:
        """`answer` as reward models learned to read it: after a conversation with the template's end of turn."""
        before, behind = self._marks
        return answer + behind if before and prompt.endswith(before) else answer

    def _asked(self, prompt: Any) -> Any:
        """A plain prompt as a user's turn, where the reward model learned to read it so."""
        return prompt if getattr(self.model, "plain_prompts", True) else as_turn(prompt)

    @cached_property
    def _marks(self) -> tuple[str, str]:
        return answer_marks(getattr(self.model, "tokenizer", None))

    def _weights(self, people: Sequence[str | None]) -> torch.Tensor:
        fixed = self.weights
        return self.model.weights_for(list(people)) if fixed is None else fixed.expand(len(people), -1)

    def _raw(self, texts: list[str], answers: list[str], people: Sequence[str | None]) -> torch.Tensor:
        raw = torch.full((len(texts),), float("nan"))
        rows = [i for i, answer in enumerate(answers) if answer]
        for start in part_starts(len(rows), self.batch_size, self.model):
            part = rows[start : start + self.batch_size]
            chosen = ([texts[i] for i in part], [self.as_read(texts[i], answers[i]) for i in part])
            if self.weights is not None:
                scores = self.model.score(*chosen, None, weights=self.weights.expand(len(part), -1))
            else:
                scores = self.model.score(*chosen, [people[i] for i in part])
            raw[part] = torch.as_tensor(scores).detach().float().cpu()
        return raw

    def _finish(
        self, raw: torch.Tensor, texts: Sequence[str], answers: Sequence[str], people: Sequence[str | None]
    ) -> RewardBatch:
        mean, std = self.scales.of(people)
        is_empty = torch.tensor([not answer for answer in answers], dtype=torch.bool)
        bad = (~torch.isfinite(raw)) & ~is_empty
        if bad.any():
            row = int(bad.nonzero()[0])
            raise RuntimeError(
                f"the reward model gave {raw[row].item()} to row {row} of a batch of {len(texts)} ({int(bad.sum())} "
                f"such rows): annotator {people[row]!r}, prompt {_short(texts[row])}, completion "
                f"{_short(answers[row])}. Score this row with the reward model alone; if its parameters are not "
                "finite, train it again with a lower learning rate."
            )
        raw = torch.where(is_empty, mean + self.empty_z * std, raw)
        if not (self.standardize and len(self.scales)):
            return RewardBatch(raw, raw)
        return RewardBatch(raw, (raw - mean) / std)


def _short(text: str, limit: int = 120) -> str:
    return repr(text if len(text) <= limit else f"{text[: limit - 1]}…")


@dataclass(frozen=True)
class ScoredRow:
    """One rollout as it was scored."""

    prompt: str
    annotator_id: str
    group: str
    completion: str
    raw_reward: float
    reward: float
    is_training: bool
