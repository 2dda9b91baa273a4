"""PersonalizedReward: the reward of the person each prompt belongs to; one object, three sockets.

1. `reward(prompts=…, completions=…, annotator_id=…)` → `list[float]`: TRL's reward-function form (GRPO, RLOO).
2. `reward.for_ppo(tokenizer)` → an `nn.Module` that TRL's PPO takes for a reward model.
3. `reward.score(prompts, completions, annotator_ids)` → tensor `(batch,)`.

The PPO socket sees the policy's token ids only. Who asked, and the prompt as the reward model knows it (without the
words that tell the policy who is asking), is bound by `PPORewardSocket.bind` as `BindingLoader` takes a batch. What is
scored is checked against what was bound: the token ids of the prompts must be the bound ones, row by row, and the rows
consumed must be the rows bound, or a `RuntimeError` is raised.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from palign.data.annotators import canonical_id
from palign.data.binding import BoundRows
from palign.data.rendering import answer_marks, render_completion, render_prompt
from palign.functional.reward_scales import RewardScales


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
    """Rewards `(batch,)`: `raw` is what the reward model said, `standardized` what a policy is trained on."""

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
        texts = [render_prompt(prompt, tokenizer) for prompt in prompts]
        closing, answers = self._marks[1].strip(), []
        for prompt, completion in zip(prompts, completions, strict=True):
            answer = render_completion(prompt, completion, tokenizer).strip()
            answers.append(answer if isinstance(completion, str) else answer.removesuffix(closing).strip())
        raw = self._raw(texts, answers, people)
        return self._finish(raw, texts, answers, people)

    @torch.no_grad()
    def fit_scales(
        self, prompts: Sequence[str], completions: Sequence[str], annotator_ids: Iterable[str] | None
    ) -> RewardScales:
        """Fit every person's mean and standard deviation on the same reference completions.

        Args:
            prompts: list of `n_reference` prompts.
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
        texts, answers = [prompts[i] for i in rows], [completions[i].strip() for i in rows]
        people = list(dict.fromkeys(annotator_ids)) if annotator_ids is not None else [None]
        has_own = getattr(self.model, "deviations", None) is not None
        if self.weights is None and hasattr(self.model, "score_for_weights") and not has_own:
            answers = [self.as_read(text, answer) for text, answer in zip(texts, answers, strict=True)]
            rewards = self.model.score_for_weights(texts, answers, self._weights(people)).float().cpu()
            self.scales.fit(dict(zip(people, rewards.unbind(1), strict=True)))
        else:
            self.scales.fit({person: self._raw(texts, answers, [person] * len(rows)) for person in people})
        return self.scales

    def for_ppo(self, tokenizer: PreTrainedTokenizerBase) -> "PPORewardSocket":
        """The `nn.Module` that TRL's PPO takes for a reward model; `tokenizer` is the policy's."""
        return PPORewardSocket(self, tokenizer)

    @torch.no_grad()
    def batch_tokens(
        self, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]], people: Sequence[str | None]
    ) -> torch.Tensor:
        """Raw rewards `(batch,)` of token ids of the reward model's own tokenizer: the fast path of the PPO socket."""
        device = next(self.model.parameters()).device
        longest = max(len(head) + len(tail) for head, tail in zip(prompt_ids, completion_ids, strict=True))
        ids = torch.zeros((len(prompt_ids), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (head, tail) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
            ids[row, : len(head) + len(tail)] = torch.tensor([*head, *tail], dtype=torch.long)
            mask[row, : len(head) + len(tail)] = 1
        lengths = torch.tensor([len(head) for head in prompt_ids], device=device)
        rewards = self.model.score_tokens(
            ids.to(device), mask.to(device), self._weights(people), lengths, **self._deviations(people)
        )
        return rewards.detach().float().cpu()

    def as_read(self, prompt: str, answer: str) -> str:
        """`answer` as reward models learned to read it: after a conversation with the template's end of turn."""
        before, behind = self._marks
        return answer + behind if before and prompt.endswith(before) else answer

    @cached_property
    def _marks(self) -> tuple[str, str]:
        return answer_marks(getattr(self.model, "tokenizer", None))

    def _weights(self, people: Sequence[str | None]) -> torch.Tensor:
        fixed = self.weights
        return self.model.weights_for(list(people)) if fixed is None else fixed.expand(len(people), -1)

    def _deviations(self, people: Sequence[str | None]) -> dict[str, torch.Tensor]:
        """What `score_tokens` adds for a person's own part; nothing for fixed weights, or a model without such."""
        if self.weights is not None or getattr(self.model, "deviations", None) is None:
            return {}
        return {"deviations": self.model.deviations_for(list(people))}

    def _raw(self, texts: list[str], answers: list[str], people: Sequence[str | None]) -> torch.Tensor:
        raw = torch.full((len(texts),), float("nan"))
        rows = [i for i, answer in enumerate(answers) if answer]
        for start in range(0, len(rows), self.batch_size):
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


class PPORewardSocket(nn.Module):
    """What TRL's PPO calls its reward model: reads token ids, answers with the bound people's rewards.

    `trl.experimental.utils.get_reward` calls `getattr(model, model.base_model_prefix)(input_ids=…, …)`, then
    `model.score(hidden_states[-1])`, and reads one position of the result `(batch, seq_len, 1)`. Here the first call
    does the scoring and the reward stands at every position, so that it does not matter which one is read.
    """

    base_model_prefix = "read_rows"

    def __init__(self, reward: PersonalizedReward, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.reward = reward
        self.tokenizer = tokenizer
        if isinstance(reward.model, nn.Module):
            self.reward_model = reward.model  # registered, so that it moves with `.to`
        self.config = getattr(reward.model, "config", None) or SimpleNamespace()
        self.shares_tokenizer = _reads_tokens_of(reward.model, tokenizer)
        self.n_bound = 0
        self.n_consumed = 0
        self.scored: list[ScoredRow] = []
        self._rows: BoundRows | None = None
        self._position = 0

    def prompt_token_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of `prompts` as the reward model reads them, or an empty list where tokenizers differ."""
        if not self.shares_tokenizer:
            return []
        return [text.ids for text in self.reward.model.backbone.tokenize(list(prompts))]

    def bind(self, rows: BoundRows) -> None:
        """Say whose the next `len(rows.prompts)` rewards are.

        Raises:
            RuntimeError: rows bound before have not all been scored.
        """
        self.check_all_consumed()
        self._rows, self._position = rows, 0
        self.n_bound += len(rows.prompts)

    def check_all_consumed(self) -> None:
        """Raise `RuntimeError` unless every bound row has been scored."""
        if self._rows is not None and self._position != len(self._rows.prompts):
            raise RuntimeError(
                f"{self._position} of the {len(self._rows.prompts)} rows bound to people were scored before the next "
                "batch was taken: rewards and people are out of step. The loop must score every row of a batch, in "
                "batch order, before it takes the next one."
            )

    def read_rows(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SimpleNamespace:
        """Score the next bound rows; `input_ids` and `attention_mask` are `(rows, context + response)`."""
        rows, start, stop = self._take(input_ids.shape[0])
        context = rows.context_length
        self._check_queries(rows, input_ids, attention_mask, start, stop)
        answer_ids = [
            [token for token in ids[mask.bool()].tolist() if token not in self._stop_ids()]
            for ids, mask in zip(input_ids[:, context:].cpu(), attention_mask[:, context:].cpu(), strict=True)
        ]
        answers = [text.strip() for text in self.tokenizer.batch_decode(answer_ids, skip_special_tokens=True)]
        scored = self._score(rows, range(start, stop), answer_ids, answers)
        self._record(rows, start, answers, scored)
        rewards = scored.standardized.to(input_ids.device)
        return SimpleNamespace(hidden_states=(rewards[:, None, None].expand(-1, input_ids.shape[1], 1),))

    def score(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The second half of the contract: the rewards `(batch, seq_len, 1)` are ready, pass them on."""
        return hidden_states

    def drain(self) -> list[ScoredRow]:
        """The rows scored since the last call."""
        scored, self.scored = self.scored, []
        return scored

    def _take(self, n_rows: int) -> tuple[BoundRows, int, int]:
        n_left = 0 if self._rows is None else len(self._rows.prompts) - self._position
        if self._rows is None or n_rows > n_left:
            raise RuntimeError(
                f"{n_rows} rows are to be scored but {n_left} of the rows bound to people are left: nobody said whose "
                "these are. Take batches through BindingLoader, which binds people to rows when the loop takes a "
                "batch."
            )
        start = self._position
        self._position += n_rows
        self.n_consumed += n_rows
        return self._rows, start, start + n_rows

    def _check_queries(
        self, rows: BoundRows, input_ids: torch.Tensor, attention_mask: torch.Tensor, start: int, stop: int
    ) -> None:
        """The prompts to be scored must be those of the bound rows, token by token."""
        context = rows.context_length
        ids, mask = input_ids[:, :context].cpu(), attention_mask[:, :context].bool().cpu()
        for i, row in enumerate(range(start, stop)):
            if ids[i][mask[i]].tolist() != rows.query_ids[row]:
                raise RuntimeError(
                    f"row {row} is bound to annotator {rows.annotator_ids[row]!r} and the prompt "
                    f"{_short(self.tokenizer.decode(rows.query_ids[row]))}, but the tokens to be scored read "
                    f"{_short(self.tokenizer.decode(ids[i][mask[i]]))}: rewards and people are out of step. Rows must "
                    "be scored in the order in which they were bound."
                )

    def _stop_ids(self) -> tuple[int | None, int | None]:
        return self.tokenizer.eos_token_id, self.tokenizer.pad_token_id

    def _score(self, rows: BoundRows, picked: range, answer_ids: list[list[int]], answers: list[str]) -> RewardBatch:
        people = [rows.annotator_ids[i] for i in picked]
        prompts = [rows.prompts[i] for i in picked]
        full = [i for i, answer in enumerate(answers) if answer]
        heads = [rows.prompt_ids[picked[i]] for i in full] if rows.prompt_ids else []
        tails = [answer_ids[i] for i in full]
        if not (heads and self._text_reads(heads, tails, [self.reward.as_read(prompts[i], answers[i]) for i in full])):
            return self.reward.batch(prompts, answers, people)
        raw = torch.full((len(answers),), float("nan"))
        raw[full] = self.reward.batch_tokens(heads, tails, [people[i] for i in full])
        return self.reward._finish(raw, prompts, answers, people)

    def _text_reads(self, heads: list[list[int]], tails: list[list[int]], answers: list[str]) -> bool:
        """Whether the texts would give the reward model the very ids that the policy drew.

        Not so where outer spaces were taken off, where one text has several segmentations, or where there is no room.
        """
        backbone = self.reward.model.backbone
        fits = all(len(head) + len(tail) <= backbone.max_length for head, tail in zip(heads, tails, strict=True))
        return fits and tails == backbone.tokenizer(answers, add_special_tokens=False, verbose=False)["input_ids"]

    def _record(self, rows: BoundRows, start: int, answers: list[str], scored: RewardBatch) -> None:
        for i, (answer, raw, value) in enumerate(
            zip(answers, scored.raw.tolist(), scored.standardized.tolist(), strict=True), start
        ):
            group = rows.groups[i] if rows.groups else ""
            self.scored.append(
                ScoredRow(rows.prompts[i], rows.annotator_ids[i], group, answer, raw, value, rows.is_training)
            )


def _reads_tokens_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the reward model reads the policy's token ids as they are: one vocabulary and a causal backbone."""
    backbone = getattr(model, "backbone", None)
    if not hasattr(model, "score_tokens") or not getattr(backbone, "is_causal", False):
        return False
    own = backbone.tokenizer
    return own is tokenizer or (len(own) == len(tokenizer) and own.get_vocab() == tokenizer.get_vocab())
