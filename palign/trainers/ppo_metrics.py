"""What PALPPOTrainer logs beside TRL's metrics, and what it corrects in them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from palign.rewards import ScoredRow

# TRL averages these over a table of (num_ppo_epochs, num_mini_batches, gradient_accumulation_steps) cells
TABLE_METRICS = (
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/clipfrac_avg",
    "policy/entropy_avg",
    "val/ratio",
)


def correct_table_metrics(logs: dict[str, float], args: Any, n_processes: int) -> dict[str, float]:
    """TRL's statistics of the optimisation, averaged over the cells of its table that were filled.

    With `num_mini_batches` above 1 and gradient accumulation, a mini-batch has fewer micro-batches than the table has
    columns for; the rest are zeros, and TRL's average takes them in (`val/ratio` .5 for a ratio of 1).

    Args:
        logs: TRL's metrics of one update.
        args: the `PPOConfig`, with the batch sizes that the trainer filled in.
        n_processes: processes whose tables TRL gathered.

    Returns:
        `logs` with `TABLE_METRICS` and `val/ratio_var` as they would be without the empty cells.
    """
    n_columns = args.gradient_accumulation_steps
    filled = math.ceil(args.local_mini_batch_size / args.per_device_train_batch_size) / n_columns
    if filled >= 1:
        return dict(logs)
    total = args.num_ppo_epochs * args.num_mini_batches * n_columns * n_processes
    mean, n_filled = logs["val/ratio"] / filled, total * filled
    # var·(n−1) = Σx² − n·mean²; the zeros change n and the mean, not Σx²
    sum_of_squares = logs["val/ratio_var"] * (total - 1) + total * logs["val/ratio"] ** 2
    corrected = {**logs, **{name: logs[name] / filled for name in TABLE_METRICS}}
    corrected["val/ratio_var"] = max(0.0, (sum_of_squares - n_filled * mean**2) / max(1.0, n_filled - 1))
    return corrected


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
    raw, reward, empty, words, gold = means[-1].tolist()
    metrics = {
        "objective/reward": reward,
        "objective/raw_reward": raw,
        "completions/empty_fraction": empty,
        "completions/mean_words": words,
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
