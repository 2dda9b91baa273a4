"""A training's bar with its name on it, and its figures as one short line now and then, in place of whole dicts."""

from collections.abc import Mapping
from typing import Any

from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

__all__ = ["NamedProgress", "log_line", "show_named_progress"]

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


class NamedProgress(ProgressCallback):
    """The bar of transformers with a name, and at most `N_LINES` lines of figures.

    Args:
        name: in front of the bar.
        has_bar: whether a bar is shown; else lines alone.
    """

    def __init__(self, name: str, *, has_bar: bool = True):
        super().__init__()
        self.name, self.has_bar, self.next_step = name, has_bar, 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any):
        self.next_step, self.current_step = 0, 0
        if self.has_bar:
            super().on_train_begin(args, state, control, **rest)
            if self.training_bar is not None:
                self.training_bar.set_description(self.name)
        elif state.is_world_process_zero:
            print(f"{self.name}: {state.max_steps:,} steps", flush=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any):
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **rest)

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any):
        if self.has_bar:
            super().on_prediction_step(args, state, control, **rest)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **rest: Any
    ):
        if not state.is_world_process_zero or not logs or (self.has_bar and self.training_bar is None):
            return
        line = log_line(logs, state.global_step, state.max_steps)
        is_judged = any(name.startswith("eval_") for name in logs)
        if not line or not (is_judged or state.global_step >= min(self.next_step, state.max_steps)):
            return
        self.next_step = state.global_step + max(1, state.max_steps // N_LINES)
        if self.training_bar is not None:
            self.training_bar.write(line)
        else:
            print(line, flush=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any):
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **rest)


def show_named_progress(trainer: Trainer, name: str | None = None) -> None:
    """Put a `NamedProgress` where transformers' own callback stands; nothing where a user has taken that out.

    Args:
        name: `args.run_name`, or the trainer's, if None.
    """
    removed = [trainer.pop_callback(kind) for kind in (ProgressCallback, PrinterCallback)]
    if any(callback is not None for callback in removed):
        called = name or trainer.args.run_name or type(trainer).__name__
        trainer.add_callback(NamedProgress(called, has_bar=removed[0] is not None))
