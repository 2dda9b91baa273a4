"""Command-line arguments of PPO, and their values where nothing of the user's is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trl import ModelConfig

from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.policy_arguments import PolicyArguments, parse_over

EMBEDDED_DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/ppo_pal",
    "per_device_train_batch_size": 64,
    "total_episodes": 5120,
    "num_mini_batches": 4,
    "num_ppo_epochs": 2,
    "learning_rate": 2e-3,
    "adam_beta2": 0.98,
    "kl_coef": 0.1,
    "response_length": 24,
    "temperature": 1.0,
    "num_sample_generations": 4,
    "use_peft": True,
    "lora_target_modules": ["all-linear"],
    "lora_dropout": 0.0,
    "value_model_layers": 1,
    "compare_with": ["none"],
}


@dataclass
class PPOArguments(PolicyArguments):
    """What PPO is asked beside `PolicyArguments`."""

    value_model_layers: int | None = field(
        default=None, metadata={"help": "Layers of the policy that the value model keeps; all of them if unset."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with a model of the hub."})


def parse_policy_arguments(argv: Sequence[str] | None = None) -> tuple[PPOArguments, PALPPOConfig, ModelConfig]:
    """Read flags over YAML over defaults, `EMBEDDED_DEFAULTS` where nothing is given; errors as of `parse_over`."""
    return parse_over((PPOArguments, PALPPOConfig, ModelConfig), EMBEDDED_DEFAULTS, argv)
