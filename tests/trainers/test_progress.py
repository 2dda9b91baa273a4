"""A training's bar has a name and its figures are short lines."""

from types import SimpleNamespace

import pytest
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from palign.trainers.figure_lines import log_line
from palign.trainers.progress import NamedProgress, show_named_progress

MANY = {f"groups/{k}/reward": 0.1 for k in range(30)} | {"objective/reward": 0.51234, "objective/kl": 1.5, "epoch": 1}


def test_a_dict_of_many_keys_is_one_short_line() -> None:
    assert log_line(MANY, 7, 100) == "  step   7/100  reward 0.5123  kl 1.5"
    assert log_line({"loss": "0.62", "epoch": "1"}, 1, 9) == "  step 1/9  loss 0.62"
    assert log_line({"train_runtime": 3.0, "total_flos": 1}, 9, 9) == ""
    assert (
        len(
            log_line(
                {"loss": 1, "eval_loss": 1, "reward": 1, "kl": 1, "eval_accuracy": 1, "policy/entropy": 1}, 1, 9
            ).split("  ")
        )
        == 7
    )


def state(step: int, last: int = 120) -> SimpleNamespace:
    return SimpleNamespace(is_world_process_zero=True, global_step=step, max_steps=last)


def test_at_most_a_dozen_lines_of_a_training_and_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    progress = NamedProgress("reward-pal", has_bar=False)
    progress.on_train_begin(None, state(0), None)
    for step in range(1, 121):
        progress.on_log(None, state(step), None, logs={"loss": 0.5})
    progress.on_train_end(None, state(120), None)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "reward-pal: 120 steps" and 10 <= len(lines) <= 14
    assert lines[-1] == "  step 120/120  loss 0.5"


def test_the_bar_has_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    progress = NamedProgress("ppo-prompt-seed0")
    progress.on_train_begin(None, state(0, 3), None)
    progress.on_step_end(None, state(1, 3), None)
    progress.on_train_end(None, state(3, 3), None)
    assert "ppo-prompt-seed0" in capsys.readouterr().err


class Trainer:
    """As much of one as takes callbacks."""

    args = SimpleNamespace(run_name="a run")

    def __init__(self, *callbacks: object) -> None:
        self.callbacks = list(callbacks)

    def pop_callback(self, kind: type) -> object:
        found = next((callback for callback in self.callbacks if isinstance(callback, kind)), None)
        self.callbacks = [callback for callback in self.callbacks if callback is not found]
        return found

    def add_callback(self, callback: object) -> None:
        self.callbacks.append(callback)


@pytest.mark.parametrize(("callback", "has_bar"), [(ProgressCallback(), True), (PrinterCallback(), False)])
def test_it_stands_in_the_place_of_transformers_own(callback: object, has_bar: bool) -> None:
    trainer = Trainer(callback)
    show_named_progress(trainer)
    (ours,) = trainer.callbacks
    assert (ours.name, ours.has_bar) == ("a run", has_bar)
    without = Trainer()
    show_named_progress(without)
    assert without.callbacks == []
