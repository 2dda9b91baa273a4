"""verl's reward function: `reward.custom_reward_function.path=…/palign/integrations/verl.py`, `.name=compute_score`.

Its managers call `compute_score(data_source=…, solution_str=…, ground_truth=…, extra_info=…)` for a row, with what
`reward.custom_reward_function.reward_kwargs` holds beside (verl/trainer/ppo/reward.py and
experimental/reward_loop/reward_manager/naive.py, verl 0.9.1); the `batch` manager calls the plural form for many rows.
verl does not hand over the prompt: `extra_info` of every row must hold `prompt` and `annotator_id`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from palign.integrations.rows import person_of_label, score_rows

__all__ = ["compute_score", "compute_scores"]


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None,
    *, model_path: str, **_: Any,
) -> float:  # fmt: skip
    """The reward of one completion; arguments as of `compute_scores`."""
    return compute_scores([data_source], [solution_str], [ground_truth], [extra_info], model_path=model_path)[0]


def compute_scores(
    data_sources: Sequence[str], solution_strs: Sequence[str], ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any] | None], *, model_path: str, **_: Any,
) -> list[float]:  # fmt: skip
    """Rewards (n,) of completions (n,).

    Args:
        data_sources, ground_truths: are not read.
        solution_strs: what the policy wrote, special tokens left out.
        extra_infos: of each row, with `annotator_id` and `prompt`: the question as a text, or its messages.
        model_path: of the reward model; give it as a `reward_kwargs`.

    Raises:
        ValueError: a row's `extra_info` lacks one of the two.
    """
    lacking = [i for i, info in enumerate(extra_infos) if not {"annotator_id", "prompt"} <= set(info or ())]
    if lacking:
        raise ValueError(
            f"Row {lacking[0]} (counting from 0) has an extra_info without annotator_id or prompt. verl hands over no "
            "prompt: write both into extra_info when the parquet file is made."
        )
    prompts = [_prompt(info["prompt"]) for info in extra_infos]
    answers = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, solution_strs, strict=True)
    ]
    return score_rows(model_path, prompts, answers, [person_of_label(info["annotator_id"]) for info in extra_infos])


def _prompt(value: Any) -> Any:
    """A text, or a list of messages out of whatever a parquet reader makes of one."""
    return value if isinstance(value, str) else [dict(turn) for turn in value]
