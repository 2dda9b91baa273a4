"""What the personalized reward costs: time per PPO update over that of TRL's own trainer with a constant reward.

    OMP_NUM_THREADS=2 python scripts/bench_ppo_overhead.py

Three runs from the same language model on the same prompts, in turn and repeatedly: TRL's `PPOTrainer` with a constant
reward; `PALPPOTrainer` with a constant reward (binding, decoding, metrics); `PALPPOTrainer` with a PAL reward model.
Times are CPU and wall seconds per update, the median over the updates but the first of every run. The garbage
collector
is frozen in all of them, as `PALPPOTrainer` does, so that this is not counted to its credit.
"""

import argparse
import copy
import gc
import json
import tempfile
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import TrainerCallback
from trl.experimental.ppo import PPOTrainer

from palign.conditioning import WhoIsAsking
from palign.rewards import PersonalizedReward
from palign.trainers.embedded import make_embedded_default, train_embedded_reward
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.value_model import make_value_model


class ConstantModule(nn.Module):
    """A reward model that costs nothing, for TRL's trainer."""

    base_model_prefix = "read"

    def read(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(hidden_states=(torch.zeros(*input_ids.shape, 1),))

    def score(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


class ConstantScorer:
    """The same as a reward of people."""

    def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
        return torch.zeros(len(prompts))


class Clock(TrainerCallback):
    """Wall and CPU time of every update."""

    def __init__(self) -> None:
        self.wall, self.cpu = [time.perf_counter()], [time.process_time()]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


def run_once(kind: str, default: Any, reward_model: Any, n_updates: int) -> tuple[np.ndarray, np.ndarray]:
    """Wall and CPU seconds of each update but the first, `(n_updates - 1,)` each."""
    with tempfile.TemporaryDirectory() as folder:
        args = PALPPOConfig(
            output_dir=folder, per_device_train_batch_size=64, total_episodes=64 * n_updates, num_mini_batches=2,
            num_ppo_epochs=2, learning_rate=1e-6, response_length=24, temperature=1.0, num_sample_generations=0,
            disable_tqdm=True, logging_steps=1000, use_cpu=True, standardize_rewards=False,
        )  # fmt: skip
        model, clock = copy.deepcopy(default.language_model), Clock()
        rows = default.prompt_rows(default.train_prompts, 10, seed=0)
        people = default.population.annotator_ids
        who = WhoIsAsking.from_weights(people, default.population.weights)
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        common = {"value_model": make_value_model(model, n_layers=1), "peft_config": lora, "callbacks": [clock]}
        if kind == "trl_constant":
            told = who.condition([row["prompt"] for row in rows], [row["annotator_id"] for row in rows])
            ids = default.tokenizer(told, add_special_tokens=False)["input_ids"]
            data = Dataset.from_dict({"input_ids": ids})
            trainer = PPOTrainer(
                args=args, processing_class=default.tokenizer, model=model, ref_model=None,
                reward_model=ConstantModule(), train_dataset=data, **common,
            )  # fmt: skip
        else:
            reward = PersonalizedReward(ConstantScorer() if kind == "pal_constant" else reward_model)
            trainer = PALPPOTrainer(model, reward, args, default.tokenizer, rows, who=who, **common)
        gc.collect()
        gc.freeze()
        trainer.train()
        gc.unfreeze()
    return np.diff(clock.wall)[1:], np.diff(clock.cpu)[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_updates", type=int, default=12)
    parser.add_argument("--n_repeats", type=int, default=3)
    parser.add_argument("--lm_steps", type=int, default=120)
    options = parser.parse_args()
    default = make_embedded_default(n_steps=options.lm_steps)
    with tempfile.TemporaryDirectory() as folder:
        reward_model = train_embedded_reward(default, folder)
    kinds = ("trl_constant", "pal_constant", "pal_reward")
    times: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in kinds}
    for _ in range(options.n_repeats):
        for kind in kinds:
            times[kind].append(run_once(kind, default, reward_model, options.n_updates))
    found: dict[str, float] = {}
    for kind in kinds:
        for place, clock in enumerate(("wall", "cpu")):
            found[f"{kind}/{clock}_seconds"] = float(np.median(np.concatenate([run[place] for run in times[kind]])))
    for clock in ("wall", "cpu"):
        for kind in kinds[1:]:
            name = f"{kind}/{clock}_over_trl_constant"
            found[name] = found[f"{kind}/{clock}_seconds"] / found[f"trl_constant/{clock}_seconds"]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
