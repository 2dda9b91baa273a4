"""PALPPOConfig: TRL's PPO configuration, and who each prompt belongs to."""

from dataclasses import dataclass, field
from typing import Literal

from palign.trainers.deepspeed_runs import prepare_deepspeed
from palign.trainers.fsdp_runs import check_fsdp
from palign.trainers.policy_config import PersonalPolicyConfig
from palign.trainers.trl_ppo import require_trl_ppo

require_trl_ppo()

from trl.experimental.ppo import PPOConfig  # noqa: E402  (the version is checked first, to say what to do)


@dataclass
class PALPPOConfig(PersonalPolicyConfig, PPOConfig):
    """Arguments of `PALPPOTrainer`: those of TRL's `PPOConfig`, some with other defaults, and the following."""

    bf16: bool | None = field(
        default=False,
        metadata={"help": "Update in bfloat16 mixed precision; rollouts are drawn in the type of --dtype."},
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Compute activations of policy and value model again to save memory."}
    )
    dataloader_pin_memory: bool = field(default=False, metadata={"help": "Pin memory in data loaders (for GPUs)."})
    save_strategy: str = field(
        default="steps", metadata={"help": "When checkpoints to resume from are saved: 'steps' or 'no'."}
    )
    save_steps: float = field(default=0.1, metadata={"help": "Updates between them; below 1 a share of all updates."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept; older ones are removed."})
    logging_steps: float = field(
        default=10, metadata={"help": "Updates between lines in the log; every update is kept in the history."}
    )
    stop_token: Literal["eos"] | None = field(
        default="eos", metadata={"help": "Cut completions at this token ('eos'), or None."}
    )
    missing_eos_penalty: float | None = field(
        default=1.0,
        metadata={"help": "Taken off the reward of completions that do not end, in standardized reward units."},
    )
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "Clip gradients to this norm in every optimizer step; 0 never clips."}
    )
    max_prompt_length: int = field(default=512, metadata={"help": "Prompt tokens kept, counted from the end."})

    def __post_init__(self) -> None:
        check_fsdp(is_asked=bool(self.fsdp))
        prepare_deepspeed(is_asked=bool(self.deepspeed))
        super().__post_init__()
        if self.fp16:
            raise ValueError(
                "--fp16 is true; PPO's gradients are clipped before they are unscaled, so it cannot train in float16. "
                "Give --bf16 true instead, or leave both out."
            )
