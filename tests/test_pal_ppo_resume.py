"""PPO stopped and resumed ends where an uninterrupted run does, wherever it is stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from policy_helpers import train_beyond_the_limit, went_back_at
from ppo_helpers import IdReward, lora, named_rows, ppo_config, tiny_policy

from palign.rewards import PersonalizedReward
from palign.trainers.pal_ppo_trainer import PALPPOTrainer

TIMES = ("eps",)  # of a history: what no two runs share


class Stopped(Exception):
    pass


def make_trainer(
    folder: Path, *, stop: int | None = None, peft: bool = True, seed: int = 0, **changes: Any
) -> PALPPOTrainer:
    """Six updates of eight rows out of 20 (two batches an epoch), a table every second update, save every update."""
    torch.manual_seed(seed)
    settings = {"total_episodes": 48, "save_strategy": "steps", "save_steps": 1, "num_sample_generations": 3}
    args = ppo_config(folder, **settings | {"standardize_rewards": True, "n_reference_completions": 4} | changes)
    model, tokenizer = tiny_policy()
    rows = named_rows(20)
    trainer = PALPPOTrainer(
        model, PersonalizedReward(IdReward(), standardize=True), args, tokenizer, rows, eval_dataset=rows[:4],
        peft_config=lora() if peft else None,
    )  # fmt: skip
    if stop is not None:
        bind = trainer.dataloader.bind

        def bind_until(*batch: Any) -> None:
            if trainer.state.global_step == stop:
                raise Stopped
            bind(*batch)

        trainer.dataloader.bind = bind_until
    return trainer


def outcome(trainer: PALPPOTrainer) -> dict[str, torch.Tensor]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def history(trainer: PALPPOTrainer) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in trainer.history]


WHOLE = pytest.param(False, (1, 4), 1e-4, marks=pytest.mark.slow)


@pytest.mark.parametrize(("peft", "stops", "rate"), [(True, (2, 5), 1e-3), WHOLE])
def test_resumed_is_uninterrupted(tmp_path: Path, peft: bool, stops: tuple[int, ...], rate: float) -> None:
    """At an end of an epoch of two batches, and in the midst of one. At a rate of 1e-2 two uninterrupted runs of the
    whole policy differ by up to 5e-6 themselves.
    """
    whole = make_trainer(tmp_path / "whole", peft=peft, learning_rate=rate)
    whole.train()
    expected = outcome(whole)
    for stop in stops:
        folder = tmp_path / f"stop{stop}"
        with pytest.raises(Stopped):
            make_trainer(folder, stop=stop, peft=peft, learning_rate=rate).train()
        resumed = make_trainer(folder, peft=peft, seed=stop, learning_rate=rate)  # what it starts with must not matter
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == 6 and resumed.state.max_steps == 6
        assert resumed.args.num_total_batches == 6
        for name, tensor in outcome(resumed).items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0, msg=f"{stop}: {name}")
        for found, wanted in zip(history(resumed), history(whole), strict=True):
            assert found == pytest.approx(wanted, abs=1e-5, nan_ok=True)
        kept = [(row["step"], row.get("lr")) for row in resumed.state.log_history]
        assert kept == [(row["step"], row.get("lr")) for row in whole.state.log_history]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        make_trainer(tmp_path, stop=1).train()
    checkpoint = str(tmp_path / "checkpoint-1")
    cases = {
        "batch_size 8 \\(now 4\\)": {"per_device_train_batch_size": 4},
        "of another policy or value model": {"peft": False},
    }
    for words, changes in cases.items():
        with pytest.raises(ValueError, match=words):
            make_trainer(tmp_path / "other", **changes).train(resume_from_checkpoint=checkpoint)
    (tmp_path / "checkpoint-1" / "optimizer.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="optimizer.pt has 4 bytes, and .* were written"):
        make_trainer(tmp_path / "other").train(resume_from_checkpoint=checkpoint)


def test_a_stop_at_the_last_update_goes_back_and_so_does_a_resume(tmp_path: Path) -> None:
    """Beyond the limit from update 3 on, two in a row: the last of four is the stop, and no further batch is taken."""
    for resume in (False, True):
        trainer = make_trainer(tmp_path, total_episodes=32, stop_patience=2, learning_rate=1e-2)
        train_beyond_the_limit(trainer, 3, resume)
        went_back_at(4, trainer.guard, trainer.state.global_step, trainer._trainable_policy_parameters())


def test_a_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    """Also of a run that has ended, whose policy would come back as it is."""
    make_trainer(tmp_path, total_episodes=8).train()
    other = make_trainer(tmp_path, total_episodes=8)
    other.train_rows.annotator_ids[0] = "9"
    with pytest.raises(ValueError, match=r"rows 20 rows, key \w+ \(now 20 rows, key \w+\)\. Go on"):
        other.train(resume_from_checkpoint=True)
    make_trainer(tmp_path, total_episodes=16).train(resume_from_checkpoint=True)  # longer: another update
    assert (tmp_path / "checkpoint-2").is_dir()
