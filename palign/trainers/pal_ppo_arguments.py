"""Command-line arguments of PPO, and their values where nothing of the user's is given."""

from collections.abc import Sequence
from typing import Any

from trl import ModelConfig

from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.policy_arguments import PolicyArguments, check_vllm, parse_over

__all__ = ["EMBEDDED_DEFAULTS", "parse_policy_arguments"]

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
