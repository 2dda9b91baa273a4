"""GRPO and RLOO: their arguments, and policies trained by them, one per way of saying who is asking."""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from trl import ModelConfig

from palign.cli.parser import CommandLine
from palign.parallel.deepspeed_launch import trained_model
from palign.pipelines.arguments.policy import PolicyArguments, check_vllm, parse_over
from palign.pipelines.policies import PolicyRun, PolicyRuns
from palign.pipelines.prototype_adapters import History, adapter_name, train_one_by_one
from palign.rewards import PersonalizedReward
from palign.trainers.pal_grpo_config import GroupAlgorithm, GroupPolicyConfig, PALGRPOConfig, PALRLOOConfig
from palign.trainers.pal_grpo_trainer import PALGRPOTrainer, PALRLOOTrainer, PersonalGroupTrainer
from palign.writing import require_writable

__all__ = ["EMBEDDED_DEFAULTS", "GRPOArguments", "GRPORuns", "parse_grpo_arguments"]

TRAINERS = {GroupAlgorithm.GRPO: PALGRPOTrainer, GroupAlgorithm.RLOO: PALRLOOTrainer}
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
class GRPORuns(PolicyRuns):
    """`PolicyRuns` by `PALGRPOTrainer` or `PALRLOOTrainer`.

    Args:
        algorithm: which of the two.
    """

    algorithm: GroupAlgorithm = GroupAlgorithm.GRPO

    @property
    def max_new_tokens(self) -> int:
        """Length at which completions are cut."""
        return self.args.max_completion_length

    @property
    def recipe(self) -> str:
        """The algorithm."""
        return GroupAlgorithm(self.algorithm).value

    @property
    def trainer_class(self) -> type[PersonalGroupTrainer]:
        """What trains."""
        return TRAINERS[self.algorithm]

    def _trainer(
        self, model: PreTrainedModel, reward: PersonalizedReward, args: Any, **who: Any
    ) -> PersonalGroupTrainer:
        trainer = self.trainer_class(
            model, reward, args, self.tokenizer, self.train_rows,
            peft_config=copy.deepcopy(self.peft_config), judge=self.judge, **who,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()
        return trainer

    def _trained(self, trainer: PersonalGroupTrainer) -> Any:
        """The policy, whole and by itself."""
        return trained_model(trainer)

    def _train_one(self, model: PreTrainedModel, args: GroupPolicyConfig) -> PolicyRun:
        trainer = self._trainer(model, self.reward, args, who=self.who)
        policy = self._trained(trainer)
        return PolicyRun(args.policy_conditioning, policy.eval(), pd.DataFrame(trainer.history))

    def _train_adapters(self, model: PreTrainedModel, args: GroupPolicyConfig) -> PolicyRun:
        if self.peft_config is None:
            raise ValueError(
                "policy_conditioning='adapter' trains one LoRA per prototype; give a PEFT config (--use_peft)."
            )
        n_prototypes = self.who.n_types

        def train_one(base: PreTrainedModel, weights: Tensor, run_args: Any) -> tuple[PeftModel, History]:
            run_args.max_steps = (
                max(1, run_args.max_steps // n_prototypes) if run_args.max_steps > 0 else run_args.max_steps
            )
            run_args.num_train_epochs = run_args.num_train_epochs / n_prototypes
            reward = PersonalizedReward(self.reward.model, weights=weights, standardize=args.standardize_rewards)
            trainer = self._trainer(base, reward, run_args)
            return self._trained(trainer), trainer.history

        trained = train_one_by_one(model, args, train_one, n_prototypes=n_prototypes)
        parts = [pd.DataFrame(history).assign(adapter=adapter_name(k)) for k, history in enumerate(trained.histories)]
        return PolicyRun(args.policy_conditioning, trained.policy, pd.concat(parts))


@dataclass
class _Choice:
    algorithm: str = "grpo"


@dataclass
class GRPOArguments(PolicyArguments):
    """What GRPO and RLOO are asked beside `PolicyArguments`."""

    algorithm: str = field(default="grpo", metadata={"help": "'grpo' or 'rloo', each with TRL's options."})

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
    parts = CommandLine((_Choice,)).parse_args_and_config(list(argv), return_remaining_strings=True)
    return GroupAlgorithm(parts[0].algorithm)
