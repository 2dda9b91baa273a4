"""The figures of a training as one short line now and then, in place of whole dicts."""

from collections.abc import Mapping
from typing import Any

__all__ = ["FigureLines", "log_line"]

SHOWN = (
    "loss", "eval_loss", "objective/reward", "objective/gold", "objective/kl", "reward", "kl", "eval_accuracy",
    "eval_log_likelihood", "rewards/accuracies", "policy/entropy", "completions/mean_length",
)  # fmt: skip
MOST_SHOWN = 5
N_LINES = 12  # of a training; its trackers and log_history have every one


def log_line(logs: Mapping[str, Any], step: int, max_steps: int) -> str:
    """What is shown of one log: the step, and at most five figures under short names; empty where it has none."""
    known = [(name, logs[name]) for name in SHOWN if isinstance(logs.get(name), (int, float, str))]
    parts = [f"{name.rpartition('/')[2]} {_number(value)}" for name, value in known[:MOST_SHOWN]]
    return f"  step {step:>{len(str(max_steps))}}/{max_steps}  {'  '.join(parts)}" if parts else ""


def _number(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


class FigureLines:
    """About `N_LINES` lines of one training, its last log and every evaluation among them."""

    def __init__(self) -> None:
        self.next_step = 0

    def line(self, logs: Mapping[str, Any], step: int, max_steps: int) -> str:
        """The line of a log, or nothing where it is not to be shown."""
        line = log_line(logs, step, max_steps)
        is_judged = any(name.startswith("eval_") for name in logs)
        if not line or not (is_judged or step >= min(self.next_step, max_steps)):
            return ""
        self.next_step = step + max(1, max_steps // N_LINES)
        return line
