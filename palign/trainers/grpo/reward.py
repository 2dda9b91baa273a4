"""What TRL's GRPO and RLOO call for their rewards: `PersonalizedReward`, and a record of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from palign.data.rendering import Written
from palign.data.turns import question_of
from palign.rewards import PersonalizedReward, ScoredRow
from palign.trainers.policy.metrics import reward_metrics

__all__ = ["RecordedReward"]


class RecordedReward:
    """A reward function of TRL's form that also logs raw and standardized rewards, in all and by group.

    TRL hands on every column of the data set, so the person comes with the row and nothing needs to be bound. What is
    logged is summed over all processes first: TRL gathers logged metrics by name, and a group may have rows on one
    process only.

    Args:
        reward: of the person each row belongs to.
        group_names: of all rows, in one order on every process.
        judge: an independent judge, (completion, annotator_id) → utility; it trains nothing.
        stop_ids: tokens that end a completion; where the last one is none of them, it did not end.
        missing_eos_penalty: taken off the standardized reward of such completions; None takes nothing.

    Attributes:
        latest: this process's rows of the last call.
        accelerator: sums over processes; set by the trainer, which has it only once it is made.
    """

    def __init__(
        self,
        reward: PersonalizedReward,
        *,
        group_names: Sequence[str] = (),
        judge: Callable[[str, str], float] | None = None,
        stop_ids: Sequence[int | None] = (),
        missing_eos_penalty: float | None = None,
    ) -> None:
        self.__name__ = reward.__name__  # TRL names the metrics of a reward function after it
        self.reward = reward
        self.group_names = list(group_names)
        self.judge = judge
        self.stop_ids = set(stop_ids) - {None}
        self.missing_eos_penalty = missing_eos_penalty
        self.latest: list[ScoredRow] = []
        self.accelerator: Accelerator | None = None

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        annotator_id: Sequence[str],
        reward_prompt: Sequence[str],
        log_metric: Callable[[str, float], None],
        group: Sequence[str] | None = None,
        **_: Any,
    ) -> list[float]:
        """One float per completion, on which the policy is trained.

        Args:
            prompts: `batch` prompts as the policy met them.
            completions: `batch` texts, or lists with one message.
            completion_ids: `batch` lists of token ids.
            annotator_id, reward_prompt, group: columns of the data set.
            log_metric: TRL's; averages a metric over the steps between two lines of the log.

        Raises:
            RuntimeError: a reward is not finite; the message shows the row.
        """
        texts = [_text(completion).strip() for completion in completions]
        reward_prompt = [Written(prompt) for prompt in reward_prompt]  # `prepare_group_rows` has rendered it
        scored = self.reward.batch(reward_prompt, texts, annotator_id)
        groups = group or [""] * len(texts)
        asked = [text if _is_text(met) else question_of(met) for met, text in zip(prompts, reward_prompt, strict=True)]
        columns = (asked, annotator_id, groups, texts, scored.raw.tolist(), scored.standardized.tolist())
        self.latest = [ScoredRow(*row, is_training=True) for row in zip(*columns, strict=True)]
        for name, value in reward_metrics(self.latest, self.group_names, self.accelerator, self.judge).items():
            log_metric(name, value)
        if not self.missing_eos_penalty:
            return scored.standardized.tolist()
        is_open = torch.tensor([not ids or ids[-1] not in self.stop_ids for ids in completion_ids])
        return (scored.standardized - self.missing_eos_penalty * is_open).tolist()


def _is_text(prompt: Any) -> bool:
    return not (isinstance(prompt, list) and prompt and isinstance(prompt[0], Mapping))


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    return "".join(str(message["content"]) for message in completion)
