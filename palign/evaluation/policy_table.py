"""Policies on the same rows → the tidy table of the report: one row per completion and policy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from palign.data.rendering import render_prompt
from palign.evaluation.policy_samples import PolicySamples
from palign.rewards import PersonalizedReward


def policy_table(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    samples: PolicySamples,
    reward: PersonalizedReward,
    gold: Callable[[str, str], float] | None = None,
    group_columns: Sequence[str] = ("type",),
) -> pd.DataFrame:
    """What one policy wrote for `rows`, judged.

    Args:
        name: of the policy, the table's column `model`.
        rows: `n_rows` with `prompt` (as the reward model knows it, a text or messages) and `annotator_id`.
        samples: one completion for each row.
        reward: of the person of the row.
        gold: an independent judge: (completion, annotator_id) → utility.
        group_columns: columns of `rows` to keep, where the rows have them.

    Returns:
        Columns `model`, `annotator_id`, `row`, the groups, `prompt`, `completion`, `reward` (standardized as in
        training), `raw_reward`, `kl`, `is_cut` (the completion was cut at the limit) and, with a judge, `gold`.
    """
    people = [str(row["annotator_id"]) for row in rows]
    prompts = [row["prompt"] for row in rows]
    scored = reward.batch(reward_prompts(prompts, reward), samples.completions, people)
    table = {"model": name, "annotator_id": people, "row": range(len(rows))}
    table |= {column: [row[column] for row in rows] for column in group_columns if column in rows[0]}
    table |= {"prompt": prompts, "completion": samples.completions, "kl": samples.kl}
    table |= {"reward": scored.standardized.numpy(), "raw_reward": scored.raw.numpy()}
    if samples.is_cut is not None:
        table["is_cut"] = samples.is_cut
    if gold is not None:
        table["gold"] = [gold(text, person) for text, person in zip(samples.completions, people, strict=True)]
    return pd.DataFrame(table)


def reward_prompts(prompts: Sequence[Any], reward: PersonalizedReward) -> list[str]:
    """Prompts as the texts that a reward model reads before a completion, which is how trainers score, too."""
    tokenizer = getattr(reward.model, "tokenizer", None)
    return [render_prompt(prompt, tokenizer) for prompt in prompts]


def means_by_type(table: pd.DataFrame, metric: str) -> dict[str, float]:
    """`<model>/<metric>` and, where there are types, `<model>/<type>/<metric>` → mean, for `summary.json`."""
    means = {f"{model}/{metric}": float(value) for model, value in table.groupby("model")[metric].mean().items()}
    if "type" in table:
        by_type = table.groupby(["model", "type"])[metric].mean()
        means |= {f"{model}/{name}/{metric}": float(value) for (model, name), value in by_type.items()}
    return means
