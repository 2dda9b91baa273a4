"""PALPPOConfig: TRL's configuration of GRPO, on whose trainer PPO runs, what PPO has of its own, and who asks."""

from dataclasses import dataclass, field

from trl import GRPOConfig

from palign.trainers.pal_grpo_config import GroupPolicyConfig
from palign.trainers.ppo.critic import check_critic
from palign.trainers.ppo.former_names import FormerNames

__all__ = ["PALPPOConfig"]


@dataclass
class PALPPOConfig(FormerNames, GroupPolicyConfig, GRPOConfig):
    """Arguments of `PALPPOTrainer`: those of TRL's `GRPOConfig`, some with other defaults, and those of PPO."""

    num_generations: int = field(default=1, metadata={"help": "Completions drawn for one row; 1 is allowed."})
    num_generations_eval: int | None = field(default=1, metadata={"help": "The same in evaluation."})
    num_iterations: int = field(default=4, metadata={"help": "Passes over the completions of one rollout."})
    beta: float = field(
        default=0.0, metadata={"help": "Coefficient of a KL in the loss, as GRPO has it, beside that in the reward."}
    )
    loss_type: str = field(
        default="dapo",
        metadata={"help": "How the policy's loss is averaged; 'dapo': over all tokens of all processes."},
    )
    scale_rewards: str = field(default="none", metadata={"help": "Not used by PPO: advantages come from the critic."})
    disable_dropout: bool = field(
        default=True, metadata={"help": "Switch dropout off: with it, ratios are not 1 before the first step."}
    )
    kl_coef: float = field(default=0.05, metadata={"help": "Reward lost at a token for one nat of KL."})
    kl_target: float | None = field(
        default=None,
        metadata={"help": "KL to hold, nats per completion: kl_coef follows it (Ziegler et al. 2019). None: fixed."},
    )
    kl_horizon: float = field(default=10000.0, metadata={"help": "Completions over which kl_coef follows kl_target."})
    gamma: float = field(default=1.0, metadata={"help": "Discount of a token."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the critic's loss."})
    cliprange_value: float = field(default=0.2, metadata={"help": "Clipping range of values."})
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Standardize advantages over all tokens of the rollout on all processes."}
    )
    critic: str = field(
        default="lora",
        metadata={
            "help": "'lora': a second adapter on the policy's base, and a head; 'head': a head on its states; "
            "'full', 'layers:N': a copy of the policy, or of its first N layers."
        },
    )
    critic_lora_r: int = field(default=4, metadata={"help": "Rank of the critic's adapter (critic='lora')."})
    critic_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the critic; None is that of the policy."}
    )
    max_prompt_length: int | None = field(
        default=512, metadata={"help": "Prompt tokens kept: the tokenizer's beginning and the end. None keeps all."}
    )

    def __post_init__(self) -> None:
        self.take_former_names()
        self._check()
        n_generations = self.num_generations
        if n_generations == 1:  # TRL asks for groups, and PPO needs none
            self.num_generations = self._a_divisor()
        try:
            super().__post_init__()
        finally:
            self.num_generations = n_generations
        self.take_total_episodes()

    def _a_divisor(self) -> int:
        """A number above 1 by which the completions of a rollout can be divided."""
        n = self.per_device_train_batch_size
        n *= self.steps_per_generation or self.gradient_accumulation_steps
        if self.generation_batch_size is not None:
            n = self.generation_batch_size
        if n < 2:
            raise ValueError(
                "A rollout of one completion has nothing to compare it with: give per_device_train_batch_size or "
                "steps_per_generation of 2 or more."
            )
        return next(k for k in range(2, n + 1) if n % k == 0)

    def _check(self) -> None:
        check_critic(self.critic)
        if self.use_liger_kernel:
            raise ValueError(
                "use_liger_kernel is true; its loss takes one advantage for a completion, PPO has one for a token. "
                "Leave it out."
            )
        for name, low, high in (("gamma", 0.0, 1.0), ("lam", 0.0, 1.0), ("kl_coef", 0.0, float("inf")),
                                ("vf_coef", 0.0, float("inf"))):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)} must be from {low:g} to {high:g}.")
        for name in ("kl_target", "kl_horizon", "cliprange_value", "critic_learning_rate"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0.")
        if self.critic_lora_r < 1 or self.num_generations < 1:
            raise ValueError(
                f"critic_lora_r={self.critic_lora_r} and num_generations={self.num_generations} must be at least 1."
            )
        if self.max_prompt_length is not None and self.max_prompt_length < 1:
            raise ValueError(f"max_prompt_length={self.max_prompt_length} must be at least 1, or None.")
