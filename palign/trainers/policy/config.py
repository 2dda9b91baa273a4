"""What every trainer of a policy is asked about the people: who is told, whose scale, when to stop."""

import logging
from dataclasses import dataclass, field

from palign.conditioning import PolicyConditioning

__all__ = ["PersonalPolicyConfig"]

logger = logging.getLogger(__name__)


@dataclass
class PersonalPolicyConfig:
    """Options that `PALPPOConfig` and the configurations of GRPO and RLOO share, beside those of TRL's class."""

    reward_model_path: str | None = field(default=None, metadata={"help": "Folder or hub name of a PAL reward model."})
    policy_conditioning: PolicyConditioning = field(
        default=PolicyConditioning.PROMPT,
        metadata={
            "help": "How the policy knows who is asking: 'prompt', 'adapter' (one LoRA per prototype) or 'none'."
        },
    )
    plain_prompts: bool = field(
        default=False,
        metadata={
            "help": "Read plain prompts bare, though the tokenizer has a chat template; else each is a user's turn."
        },
    )
    show_annotator_id: bool = field(
        default=False, metadata={"help": "Write the person's id behind their type in the prompt."}
    )
    standardize_rewards: bool = field(
        default=True, metadata={"help": "z-score each person's rewards against theirs on reference completions."}
    )
    n_reference_completions: int = field(
        default=64,
        metadata={"help": "Completions of the reference policy on which each person's reward scale is fitted."},
    )
    max_kl: float | None = field(
        default=15.0,
        metadata={
            "help": "Stop, and go back to the last good weights, when objective/kl stays above this; None never stops."
        },
    )
    max_empty_fraction: float = field(
        default=0.5, metadata={"help": "Stop likewise when more than this share of completions stays empty."}
    )
    stop_patience: int = field(default=3, metadata={"help": "Updates in a row beyond a limit before training stops."})
    log_rewards_by: str | None = field(
        default="type", metadata={"help": "Column to log rewards by, if the rows have it."}
    )
    group_column: str | None = field(
        default=None, metadata={"help": "Former name: log_rewards_by. Taken for one version."}
    )
    push_personal_ids: bool = field(
        default=False,
        metadata={"help": "Let a model be pushed to a hub whose annotators' ids look like e-mail addresses."},
    )
    n_table_rows: int = field(default=4, metadata={"help": "Rows of the sample table."})

    def __post_init__(self) -> None:
        self.policy_conditioning = PolicyConditioning(self.policy_conditioning)
        if self.group_column is not None:
            logger.warning(
                "group_column=%s is a former name, taken for this version only; it now is log_rewards_by=%s.",
                self.group_column, self.group_column,
            )  # fmt: skip
            self.log_rewards_by, self.group_column = self.group_column, None
        super().__post_init__()
        if self.stop_patience < 1 or self.n_reference_completions < 2:
            raise ValueError(
                f"stop_patience={self.stop_patience} must be at least 1 and "
                f"n_reference_completions={self.n_reference_completions} at least 2."
            )
        if not 0 < self.max_empty_fraction <= 1:
            raise ValueError(f"max_empty_fraction={self.max_empty_fraction} must be above 0 and at most 1.")
