"""Command-line arguments of the recipes that train a policy, and their values where nothing of the user's is given."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trl import ModelConfig, TrlParser

from palign.conditioning import PolicyConditioning
from palign.trainers.pal_ppo_config import PALPPOConfig

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
class PolicyArguments:
    """What a policy is trained on, and what it is compared with."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Rows with a prompt and a person: a file, a folder, or a hub name."}
    )
    dataset_split: str | None = field(default=None, metadata={"help": "Split of a folder or hub data set."})
    annotator_column: str = field(
        default="annotator_id", metadata={"help": "Column with the id of the person who asks."}
    )
    prompt_column: str = field(default="prompt", metadata={"help": "Column with the prompt, a text or messages."})
    group_columns: list[str] = field(default_factory=list, metadata={"help": "Further columns to report by."})
    guard: str = field(
        default="stop",
        metadata={"help": "What to do where everybody is asked only their own prompts: stop, warn, off."},
    )
    compare_with: list[str] = field(
        default_factory=list,
        metadata={"help": "Further policies to train: any of 'none', 'prompt', 'adapter'."},
    )
    value_model_layers: int | None = field(
        default=None, metadata={"help": "Layers of the policy that the value model keeps; all of them if unset."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with a model of the hub."})
    n_eval_rows: int = field(default=480, metadata={"help": "Held-out rows on which policies are judged, at most."})
    lm_steps: int = field(default=250, metadata={"help": "Embedded default: steps of the language model."})
    n_annotators: int = field(default=60, metadata={"help": "Embedded default: people."})

    def __post_init__(self) -> None:
        self.compare_with = [PolicyConditioning(name).value for name in self.compare_with]
        for name in ("n_eval_rows", "lm_steps", "n_annotators"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")


def parse_policy_arguments(argv: Sequence[str] | None = None) -> tuple[PolicyArguments, PALPPOConfig, ModelConfig]:
    """Read flags over YAML (`--config FILE.yaml`) over defaults; an unknown key is an error.

    Without `--model_name_or_path` the defaults are those of the embedded default, `EMBEDDED_DEFAULTS`.

    Raises:
        ValueError: an unknown key, or a model without the reward model and the rows that belong to it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    kinds = (PolicyArguments, PALPPOConfig, ModelConfig)
    script, args, model_args = TrlParser(kinds, allow_abbrev=False).parse_args_and_config(argv)
    if model_args.model_name_or_path is None:
        for name in ("reward_model_path", "dataset_name"):
            if getattr(args, name, None) or getattr(script, name, None):
                raise ValueError(f"--{name} was given without --model_name_or_path; a policy of your own needs both.")
        parser = TrlParser(kinds, allow_abbrev=False)
        parser.set_defaults(**EMBEDDED_DEFAULTS)
        return parser.parse_args_and_config(argv)
    for name, value in (("reward_model_path", args.reward_model_path), ("dataset_name", script.dataset_name)):
        if not value:
            raise ValueError(
                f"--model_name_or_path was given without --{name}; a policy of your own needs a model "
                "(--model_name_or_path), a PAL reward model (--reward_model_path, a folder that recipes/pal_reward.py "
                "wrote) and rows with prompts and people (--dataset_name)."
            )
    return script, args, model_args
