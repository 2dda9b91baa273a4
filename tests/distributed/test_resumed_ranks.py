"""Two processes that go on from a checkpoint: each with what it had recorded, and only with as many as wrote it."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback, set_seed

import palign.trainers.pal_grpo_trainer  # noqa: F401  (imported before the fork: TRL takes seconds)
from palign.rewards import PersonalizedReward
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from tests.distributed.ranks import run_ranks
from tests.worlds.colour import colour_lm, colour_tokenizer, planted
from tests.worlds.group_policy import make_trainer as group_trainer
from tests.worlds.lora import lora
from tests.worlds.tiny_policy import IdAndLength, named_rows


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or state.global_step == self.step


def mixture(folder: str, stop: int, size: int) -> dict[str, Any]:
    """Six steps of 16 rows in two rounds, every row recorded as it is trained on."""
    set_seed(0)
    args = MixtureDPOConfig(
        output_dir=folder, n_types=2, n_rounds=2, max_steps=6, per_device_train_batch_size=size, n_restarts=2,
        n_permutations=0, head_dim=8, learning_rate=5e-3, m_step="weighted", use_cpu=True, disable_tqdm=True,
        report_to="none", logging_strategy="no", seed=0, save_strategy="steps", save_steps=1, save_total_limit=1,
    )  # fmt: skip
    trainer = MixtureDPOTrainer(
        colour_lm(), args, planted(), processing_class=colour_tokenizer(), peft_config=lora(),
        callbacks=[StopAt(stop)],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=True)
    evidence = [row["mixture/evidence"] for row in trainer.mixture.history]
    return {"evidence": evidence, "responsibilities": trainer.mixture.responsibilities.tolist()}


def group(folder: str, stop: int, size: int) -> dict[str, Any]:
    """Six updates, two on each generation."""
    reward = PersonalizedReward(IdAndLength(), standardize=False)
    trainer = group_trainer(
        Path(folder), "grpo", reward, max_steps=6, steps_per_generation=2, per_device_train_batch_size=size, seed=0,
        train_dataset=named_rows(8), save_strategy="steps", save_steps=1, save_total_limit=1,
    )  # fmt: skip
    trainer.add_callback(StopAt(stop))
    trainer.train(resume_from_checkpoint=True)
    return {"steps": trainer.state.global_step}


@pytest.mark.slow
def test_a_round_resumed_on_two_processes_has_the_e_step_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """In the midst of the first round: half of its rows were recorded by the second process."""
    whole = run_ranks(mixture, tmp_path / "w", str(tmp_path / "whole"), 0, 8)[0]
    run_ranks(mixture, tmp_path / "b", str(tmp_path / "parts"), 2, 8)
    assert run_ranks(mixture, tmp_path / "c", str(tmp_path / "parts"), 0, 8)[0] == whole


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_checkpoint_goes_on_in_as_many_processes_only(tmp_path: Path, before: int, after: int) -> None:
    """The batch of all of them being the same. Said at once; more of them waited for ever."""
    run_ranks(group, tmp_path / "a", str(tmp_path / "run"), 3, 8 // before, n_ranks=before)
    with pytest.raises(AssertionError, match=rf"ValueError(.|\n)*n_processes {before} \(now {after}\)"):
        run_ranks(group, tmp_path / "b", str(tmp_path / "run"), 0, 8 // after, n_ranks=after)
