"""Command-line arguments of GRPO and RLOO, and their values where nothing of the user's is given."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trl import ModelConfig

from palign.command_line import CommandLine
from palign.trainers.pal_grpo_config import GroupAlgorithm, PALGRPOConfig, PALRLOOConfig
from palign.trainers.policy_arguments import PolicyArguments, check_vllm, parse_over
from palign.writing import require_writable

__all__ = ["EMBEDDED_DEFAULTS", "GRPOArguments", "parse_grpo_arguments"]

CONFIGS = {GroupAlgorithm.GRPO: PALGRPOConfig, GroupAlgorithm.RLOO: PALRLOOConfig}
SHARED_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "steps_per_generation": 8,
    "num_generations": 8,
    "max_steps": 400,
    "learning_rate": 4e-3,
    "adam_beta2": 0.98,
    "max_completion_length": 24,
    "temperature": 1.0,
    "logging_steps": 20,
    "use_peft": True,
    "lora_target_modules": ["all-linear"],
    "lora_dropout": 0.0,
    "compare_with": ["none"],
}
EMBEDDED_DEFAULTS: dict[GroupAlgorithm, dict[str, Any]] = {
    GroupAlgorithm.GRPO: {**SHARED_DEFAULTS, "output_dir": "outputs/grpo_pal", "beta": 0.1},
    GroupAlgorithm.RLOO: {**SHARED_DEFAULTS, "output_dir": "outputs/rloo_pal", "beta": 0.1},
}


@dataclass
class _Choice:
    algorithm: str = "grpo"


@dataclass
class GRPOArguments(PolicyArguments):
    """What GRPO and RLOO are asked beside `PolicyArguments`."""

    algorithm: str = field(default="grpo", metadata={"help": "'grpo' or 'rloo', each with the options of TRL's own."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.algorithm = GroupAlgorithm(self.algorithm).value


def parse_grpo_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[GRPOArguments, PALGRPOConfig | PALRLOOConfig, ModelConfig]:
    """Read flags over YAML over defaults, `EMBEDDED_DEFAULTS` where nothing is given; errors as of `parse_over`.

    Raises:
        ImportError: vLLM is asked for and not installed.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    algorithm = _algorithm([word for word in argv if word not in ("-h", "--help")])
    script, args, model_args = parse_over(
        (GRPOArguments, CONFIGS[algorithm], ModelConfig), EMBEDDED_DEFAULTS[algorithm], argv
    )
    require_writable(args.output_dir)
    check_vllm(args, model_args)
    return script, args, model_args


def _algorithm(argv: Sequence[str]) -> GroupAlgorithm:
    """What `--algorithm` says, on the command line or in the file behind `--config`: it decides what may be asked."""
    found = CommandLine((_Choice,)).parse_args_and_config(list(argv), return_remaining_strings=True)
    return GroupAlgorithm(found[0].algorithm)
