"""PPO: its arguments, and policies trained by it, one per way of saying who is asking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trl import ModelConfig

from palign.pipelines.arguments.policy import PolicyArguments, check_vllm, parse_over
from palign.pipelines.grpo import GRPORuns
from palign.trainers.pal_grpo_trainer import PersonalGroupTrainer
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.ppo.critic import take_off_critic

__all__ = ["EMBEDDED_DEFAULTS", "PPORuns", "parse_policy_arguments"]

EMBEDDED_DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/ppo_pal",
    "per_device_train_batch_size": 16,
    "steps_per_generation": 4,
    "num_iterations": 2,
    "max_steps": 640,
    "critic": "layers:1",
    "learning_rate": 2e-3,
    "adam_beta2": 0.98,
    "kl_coef": 0.1,
    "max_completion_length": 24,
    "temperature": 1.0,
    "logging_steps": 80,
    "use_peft": True,
    "lora_target_modules": ["all-linear"],
    "lora_dropout": 0.0,
    "compare_with": ["none"],
}


@dataclass
class PPORuns(GRPORuns):
    """`PolicyRuns` by `PALPPOTrainer`."""

    @property
    def recipe(self) -> str:
        """`ppo`."""
        return "ppo"

    @property
    def trainer_class(self) -> type[PersonalGroupTrainer]:
        """`PALPPOTrainer`."""
        return PALPPOTrainer

    def _trained(self, trainer: PersonalGroupTrainer) -> Any:
        policy = super()._trained(trainer)
        take_off_critic(policy)
        return policy


def parse_policy_arguments(argv: Sequence[str] | None = None) -> tuple[PolicyArguments, PALPPOConfig, ModelConfig]:
    """Read flags over YAML over defaults, `EMBEDDED_DEFAULTS` where nothing is given; errors as of `parse_over`.

    Raises:
        ImportError: vLLM is asked for and not installed.
        ValueError: `critic=lora`, and no adapter is trained.
    """
    script, args, model_args = parse_over((PolicyArguments, PALPPOConfig, ModelConfig), EMBEDDED_DEFAULTS, argv)
    check_vllm(args, model_args)
    if args.critic == "lora" and not model_args.use_peft:
        raise ValueError(
            "--critic is 'lora' (its default), and the policy is trained whole: a critic on a base that moves would "
            "move as well. Give --use_peft true, or --critic full, layers:N or head."
        )
    return script, args, model_args
