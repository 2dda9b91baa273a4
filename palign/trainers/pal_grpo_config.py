"""PALGRPOConfig, PALRLOOConfig: TRL's configurations of GRPO and RLOO, and who each prompt belongs to."""

from dataclasses import dataclass, field
from enum import StrEnum

import torch
from trl import GRPOConfig, RLOOConfig

from palign.parallel.deepspeed_launch import prepare_deepspeed
from palign.parallel.fsdp_launch import check_fsdp
from palign.parallel.launch_checks import check_launch
from palign.trainers.policy.config import PersonalPolicyConfig

__all__ = ["GroupAlgorithm", "GroupPolicyConfig", "PALGRPOConfig", "PALRLOOConfig"]


class GroupAlgorithm(StrEnum):
    """How a group of completions of one prompt becomes advantages."""

    GRPO = "grpo"  # reward less the group's mean, over the group's standard deviation
    RLOO = "rloo"  # reward less the mean of the others of the group


@dataclass
class GroupPolicyConfig(PersonalPolicyConfig):
    """What `PALGRPOConfig` and `PALRLOOConfig` have in common: values that also run without a GPU, and a penalty."""

    bf16: bool | None = field(
        default=None, metadata={"help": "Train in bfloat16; if unset, where there is an accelerator that can."}
    )
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade compute for memory."})
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Pin memory in data loaders (for GPUs)."})
    save_strategy: str = field(default="steps", metadata={"help": "When checkpoints to resume from are saved."})
    save_steps: float = field(default=0.1, metadata={"help": "Updates between them; below 1 a share of all updates."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept; older ones are removed."})
    missing_eos_penalty: float | None = field(
        default=1.0,
        metadata={"help": "Taken off the reward of completions that do not end, in standardized reward units."},
    )

    def __post_init__(self) -> None:
        check_fsdp(is_asked=bool(self.fsdp))
        prepare_deepspeed(is_asked=bool(self.deepspeed))
        if self.bf16 is None:  # TRL would take None for True, on a CPU as well
            has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            self.bf16 = has_bf16 and not (self.use_cpu or self.fp16)
        check_launch(self)
        super().__post_init__()


@dataclass
class PALGRPOConfig(GroupPolicyConfig, GRPOConfig):
    """Arguments of `PALGRPOTrainer`: those of TRL's `GRPOConfig`, some with other defaults."""

    beta: float = field(
        default=0.04, metadata={"help": "KL coefficient. At 0 no KL is measured in training, and none can stop it."}
    )


@dataclass
class PALRLOOConfig(GroupPolicyConfig, RLOOConfig):
    """Arguments of `PALRLOOTrainer`: those of TRL's `RLOOConfig`, some with other defaults."""

    beta: float = field(
        default=0.05, metadata={"help": "KL coefficient. At 0 no KL is measured in training, and none can stop it."}
    )
