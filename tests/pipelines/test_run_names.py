"""A tracker tells the trainings of a recipe apart, and is told the KL of each."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from palign.pipelines.policies import PolicyRun
from palign.pipelines.ppo import PPORuns
from palign.pipelines.run_names import run_name
from tests.worlds.group_policy import make_trainer
from tests.worlds.ppo_policy import make_trainer as make_ppo_trainer


class Tracker(TrainerCallback):
    """What TensorBoard, Weights & Biases and Trackio are handed: the `logs` of `on_log`."""

    def __init__(self) -> None:
        self.seen: list[dict] = []

    def on_log(self, args, state, control, logs=None, **_) -> None:
        self.seen.append(dict(logs))


def test_a_name_says_recipe_policy_and_seed_and_keeps_the_users() -> None:
    assert run_name(None, "ppo", "adapter", seed=3) == "ppo-adapter-seed3"
    assert run_name("mine", "ppo", "adapter", seed=3) == "mine-adapter"


def test_policies_of_one_recipe_have_different_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def train(self, model, args) -> PolicyRun:
        names.append(args.run_name)
        return PolicyRun(args.policy_conditioning, model, pd.DataFrame())

    monkeypatch.setattr(PPORuns, "_clean_model", lambda self: None)
    monkeypatch.setattr(PPORuns, "_train_one", train)
    args = SimpleNamespace(output_dir=str(tmp_path), seed=7, run_name=None, policy_conditioning=None)
    runs = PPORuns(None, None, None, None, [], [], args)
    for conditioning in ("none", "prompt"):
        (tmp_path / conditioning).mkdir()
        runs.train(conditioning)
    assert names == ["ppo-none-seed7", "ppo-prompt-seed7"] and args.run_name is None


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_kl_of_a_completion_reaches_the_trackers(algorithm: str, tmp_path: Path) -> None:
    """TRL's `kl` is a mean over tokens; times the mean length it is that of a completion."""
    trainer = make_trainer(tmp_path, algorithm, beta=0.1, max_steps=3)
    for name, parameter in trainer.model.named_parameters():  # a policy that has left its reference
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tracker = Tracker()
    trainer.add_callback(tracker)
    trainer.train()
    seen = [logs for logs in tracker.seen if "objective/reward" in logs]
    assert len(seen) == 3 and any(logs["kl"] != 0 for logs in seen)
    for logs, kept in zip(seen, trainer.history, strict=True):
        assert logs["objective/kl"] == pytest.approx(logs["kl"] * logs["completions/mean_length"])
        assert kept["objective/kl"] == logs["objective/kl"]


def test_the_kl_of_ppo_reaches_them(tmp_path: Path) -> None:
    trainer = make_ppo_trainer(tmp_path)
    tracker = Tracker()
    trainer.add_callback(tracker)
    trainer.train()
    seen = [logs for logs in tracker.seen if "objective/reward" in logs]
    assert seen and all(isinstance(logs["objective/kl"], float) for logs in seen)
