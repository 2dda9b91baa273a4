"""A training's bar with its name on it, and short lines of figures beside it, in a trainer of transformers."""

from typing import Any

from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from palign.trainers.figure_lines import FigureLines

__all__ = ["NamedProgress", "show_named_progress"]


class NamedProgress(ProgressCallback):
    """The bar of transformers with a name, and short lines of figures.

    Args:
        name: in front of the bar.
        has_bar: whether a bar is shown; else lines alone.
    """

    def __init__(self, name: str, *, has_bar: bool = True):
        super().__init__()
        self.name, self.has_bar, self.lines = name, has_bar, FigureLines()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any):
        self.lines, self.current_step = FigureLines(), 0
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
        line = self.lines.line(logs, state.global_step, state.max_steps)
        if not line:
            return
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
