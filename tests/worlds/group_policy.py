"""Tiny GRPO and RLOO trainers whose rewards show whom each completion was rewarded for."""

from pathlib import Path
from typing import Any

from palign.rewards import PersonalizedReward, RewardBatch
from palign.trainers.pal_grpo_config import GroupAlgorithm, PALGRPOConfig, PALRLOOConfig
from palign.trainers.pal_grpo_trainer import PALGRPOTrainer, PALRLOOTrainer, PersonalGroupTrainer
from tests.worlds.lora import lora
from tests.worlds.tiny_policy import IdReward, SeenRow, named_rows, tiny_policy

CONFIGS = {GroupAlgorithm.GRPO: PALGRPOConfig, GroupAlgorithm.RLOO: PALRLOOConfig}
TRAINERS = {GroupAlgorithm.GRPO: PALGRPOTrainer, GroupAlgorithm.RLOO: PALRLOOTrainer}
ALGORITHMS = list(GroupAlgorithm)


class EmptyToo(PersonalizedReward):
    """Asks the reward model about empty completions as well, so that every reward names its person."""

    def batch(self, prompts: Any, completions: Any, annotator_ids: Any = None) -> RewardBatch:
        return super().batch(prompts, [text or "." for text in completions], annotator_ids)


def grpo_config(output_dir: Any, algorithm: str = "grpo", **changes: Any) -> PALGRPOConfig | PALRLOOConfig:
    """Two updates of eight completions: four for each of two rows; no standardization, no penalty."""
    settings: dict[str, Any] = {
        "output_dir": str(output_dir), "use_cpu": True, "per_device_train_batch_size": 8, "num_generations": 4,
        "max_steps": 2, "logging_steps": 1, "max_completion_length": 4, "learning_rate": 1e-2, "disable_tqdm": True,
        "policy_conditioning": "none", "standardize_rewards": False, "missing_eos_penalty": None, "report_to": "none",
        "save_strategy": "no",
    }  # fmt: skip
    return CONFIGS[GroupAlgorithm(algorithm)](**{**settings, **changes})


def make_trainer(
    output_dir: Path, algorithm: str = "grpo", reward: PersonalizedReward | None = None, **changes: Any
) -> PersonalGroupTrainer:
    """A trainer that keeps what it was rewarded for in `trainer.seen`; see `watch`."""
    model, tokenizer = tiny_policy()
    extra = {"peft_config": lora(4)}
    names = ("eval_dataset", "who", "peft_config", "judge", "train_dataset")
    extra |= {name: changes.pop(name) for name in names if name in changes}
    rows = extra.pop("train_dataset", named_rows())
    args = grpo_config(output_dir, algorithm, **changes)
    trainer = TRAINERS[GroupAlgorithm(algorithm)](
        model, reward or EmptyToo(IdReward()), args, tokenizer, rows, **extra
    )
    watch(trainer)
    return trainer


def watch(trainer: PersonalGroupTrainer) -> None:
    """Keep the policy's prompts beside the rewards that TRL got, call by call, in `trainer.seen`."""
    trainer.seen, recorder = [], trainer.recorder

    def spy(prompts: Any, **rest: Any) -> list[float]:
        rewards = recorder(prompts=prompts, **rest)
        trainer.seen.append([SeenRow(query=p, reward=r) for p, r in zip(prompts, rewards, strict=True)])
        return rewards

    trainer.reward_funcs = [spy]
