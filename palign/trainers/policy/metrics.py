"""What trainers of a policy log beside TRL's metrics: rewards in all and by group, and a table of samples."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from palign.rewards import ScoredRow

__all__ = ["reward_metrics", "sample_table"]


def reward_metrics(
    rows: Sequence[ScoredRow],
    group_names: Sequence[str],
    accelerator: Accelerator,
    judge: Callable[[str, str], float] | None = None,
) -> dict[str, float]:
    """Means over the scored rows of all processes, in all and by group.

    Args:
        rows: this process's rows.
        group_names: the groups in one order on every process.
        accelerator: sums over processes.
        judge: an independent judge, (completion, annotator_id) → utility; it is logged and trains nothing.

    Returns:
        `objective/reward` (standardized), `objective/raw_reward`, `completions/empty_fraction`,
        `completions/mean_words`, and `groups/<name>/reward`, `groups/<name>/raw_reward` for groups with rows; with a
        judge also `objective/gold` and `groups/<name>/gold`.
    """
    sums = torch.zeros(len(group_names) + 1, 6)
    position = {name: i for i, name in enumerate(group_names)}
    for row in rows:
        gold = 0.0 if judge is None else judge(row.completion, row.annotator_id)
        values = (row.raw_reward, row.reward, float(not row.completion), len(row.completion.split()), gold, 1.0)
        for cell in {len(group_names), position.get(row.group, len(group_names))}:
            sums[cell] += torch.tensor(values)
    sums = accelerator.reduce(sums.to(accelerator.device), "sum").cpu()
    means = sums[:, :-1] / sums[:, -1:].clamp(min=1)
    raw, reward, empty, n_words, gold = means[-1].tolist()
    metrics = {
        "objective/reward": reward,
        "objective/raw_reward": raw,
        "completions/empty_fraction": empty,
        "completions/mean_words": n_words,
    }
    for name, i in position.items():
        if sums[i, -1] > 0:
            metrics[f"groups/{name}/reward"] = means[i, 1].item()
            metrics[f"groups/{name}/raw_reward"] = means[i, 0].item()
            if judge is not None:
                metrics[f"groups/{name}/gold"] = means[i, 4].item()
    if judge is not None:
        metrics["objective/gold"] = gold
    return metrics


def sample_table(rows: Sequence[ScoredRow]) -> str:
    """`rows` as lines of text: person, group, reward, completion, prompt, long texts shortened."""
    lines = [f"{'person':<16}{'group':<12}{'reward':>7}  completion ← prompt"]
    for row in rows:
        head = f"{row.annotator_id[:15]:<16}{row.group[:11]:<12}{row.reward:>7.2f}"
        lines.append(f"{head}  {row.completion[:90]!r} ← {row.prompt[-50:]!r}")
    return "\n".join(lines)
