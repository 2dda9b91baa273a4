"""Quick arguments of PPO, and a trainer that keeps what it was rewarded for; of all policies: policy_helpers."""

from pathlib import Path
from typing import Any

import torch

from palign.rewards import PersonalizedReward
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from tests.worlds.group_policy import EmptyToo, watch
from tests.worlds.lora import lora
from tests.worlds.tiny_policy import N_PEOPLE, IdReward, SeenRow, named_rows, tiny_policy, wrong_pairings

__all__ = [
    "N_PEOPLE", "IdReward", "SeenRow", "lora", "make_trainer", "named_rows", "ppo_config", "tiny_policy",
    "wrong_pairings",
]  # fmt: skip


def ppo_config(output_dir: Any, **changes: Any) -> PALPPOConfig:
    """Two rollouts of eight completions, one step on each; no standardization, no penalty."""
    settings: dict[str, Any] = {
        "output_dir": str(output_dir), "use_cpu": True, "per_device_train_batch_size": 8, "max_steps": 2,
        "num_iterations": 1, "max_completion_length": 4, "learning_rate": 1e-2, "policy_conditioning": "none",
        "standardize_rewards": False, "missing_eos_penalty": None, "disable_tqdm": True, "logging_steps": 1,
        "temperature": 1.0, "save_strategy": "no", "report_to": "none",
    }  # fmt: skip
    return PALPPOConfig(**{**settings, **changes})


def make_trainer(output_dir: Path, reward: PersonalizedReward | None = None, **changes: Any) -> PALPPOTrainer:
    """A trainer that keeps what it was rewarded for in `trainer.seen`."""
    names = ("eval_dataset", "who", "peft_config", "judge", "train_dataset", "model", "tokenizer")
    extra = {"peft_config": lora(4)} | {name: changes.pop(name) for name in names if name in changes}
    model, tokenizer = tiny_policy()
    model, tokenizer = extra.pop("model", model), extra.pop("tokenizer", tokenizer)
    rows = extra.pop("train_dataset", named_rows())
    args = ppo_config(output_dir, **changes)
    torch.manual_seed(args.seed)  # TRL up to 1.12 draws an adapter's first weights before it sets its seed
    trainer = PALPPOTrainer(model, reward or EmptyToo(IdReward()), args, tokenizer, rows, **extra)
    watch(trainer)
    return trainer
