"""What PALPPOTrainer corrects in the metrics of TRL."""

import math
from typing import Any

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
