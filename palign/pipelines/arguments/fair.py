"""Command-line arguments of `recipes/fair_policy.py`, and their values where nothing of the user's is given."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from palign.cli.parser import CommandLine
from palign.data.arguments import DataArguments
from palign.data.synthetic_text import POPULATIONS
from palign.data.vote_counts import count_or_auto
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.writing import require_writable

__all__ = ["OF_THE_MIXTURE", "TYPES_FROM", "FairPolicyArguments", "parse_fair_arguments"]

TYPES_FROM = ("mixture", "declared", "pal")
OF_THE_MIXTURE = ("n_types", "beta", "lora_r", "lora_alpha")  # of one that is trained first
DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/fair_policy", "report_to": "none", "logging_steps": 10,
    "routes": ["rl", "maxmin", "dro", "merge", "soup"],
}  # fmt: skip
EMBEDDED_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 16, "learning_rate": 2e-3, "max_steps": 80, "n_samples": 8,
    "n_eval_samples": 16, "max_new_tokens": 48, "draw_batch_size": 256, "max_kl": 5.0,
}  # fmt: skip


@dataclass
class FairPolicyArguments:
    """Where the types come from, and what is shown of the policy that is made of them."""

    mixture_path: str | None = field(
        default=None,
        metadata={"help": "Folder that recipes/em_dpo.py or MixtureDPOTrainer wrote: adapters and mixture.json."},
    )
    default_mixture_path: str = field(
        default="outputs/em_dpo",
        metadata={"help": "Used without mixture_path where population is 'opposed', if a mixture lies there."},
    )
    population: str | None = field(
        default=None,
        metadata={
            "help": "Embedded default: 'shared', tastes that leave room for one policy that serves all, which is what "
            "is made if unset; or 'opposed', tastes that leave none (those of recipes/em_dpo.py)."
        },
    )
    types_from: str = field(
        default="mixture",
        metadata={
            "help": "'mixture': of mixture_path, else made by EM first; 'declared': one type for each value of "
            "type_column; 'pal': the prototypes of pal_path. The last two train a mixture of given types first."
        },
    )
    pal_path: str | None = field(
        default=None,
        metadata={"help": "A PAL reward model of the same people, for types_from, judges and rl_reward 'pal'."},
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "The base, where a mixture of rows of your own is to be trained first."}
    )
    plain_prompts: bool = field(
        default=False,
        metadata={
            "help": "Read plain prompts bare, though there is a chat template (of a mixture that is trained first)."
        },
    )
    n_types: str | None = field(
        default=None,
        metadata={
            "help": "Latent types of a mixture that is trained first by EM, a number or 'auto'; 'auto' if unset, and "
            "3 in the embedded default."
        },
    )
    beta: float | None = field(
        default=None,
        metadata={
            "help": "DPO's beta of a mixture that is trained first; that of recipes/em_dpo.py if unset. Regrets are "
            "in units of it."
        },
    )
    lora_r: int | None = field(
        default=None,
        metadata={"help": "LoRA rank of a mixture that is trained first; that of recipes/em_dpo.py if unset."},
    )
    lora_alpha: int | None = field(
        default=None,
        metadata={"help": "LoRA alpha of a mixture that is trained first; that of recipes/em_dpo.py if unset."},
    )
    pooled_path: str | None = field(
        default=None,
        metadata={
            "help": "Adapter of one DPO on all votes, to compare with; baselines/pooled of the mixture if unset, and "
            "trained here if that is not there."
        },
    )
    type_column: str = field(default="type", metadata={"help": "Column with an annotator's declared group."})
    prompts_name: str | None = field(
        default=None,
        metadata={
            "help": "Prompts that nobody judged, a file or hub name with a column `prompt`: the game is solved on "
            "them, and eval_fraction of them measure it. Votes are still those of dataset_name. The prompts of the "
            "rows if unset."
        },
    )
    eval_fraction: float = field(
        default=0.2,
        metadata={
            "help": "Share of the prompts held out where no rows, or only prompts_name, are there to measure on."
        },
    )
    n_sample_prompts: int = field(default=4, metadata={"help": "Fresh prompts whose answers are shown side by side."})
    dtype: str = field(
        default="auto",
        metadata={
            "help": "Of the base's weights; 'auto' is that of its files, and float32 where a mixture is trained "
            "first, as in recipes/em_dpo.py."
        },
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with a model of the hub."})
    mixture_epochs: float = field(default=2.0, metadata={"help": "Embedded default: epochs of a mixture made here."})
    lm_steps: int = field(default=250, metadata={"help": "Embedded default: steps of a language model made here."})
    n_annotators: int = field(default=100, metadata={"help": "Embedded default: people of a mixture made here."})
    n_per_annotator: int = field(default=32, metadata={"help": "Embedded default: rankings of each person."})
    n_items: int = field(default=4, metadata={"help": "Embedded default: completions in a ranking."})

    def __post_init__(self) -> None:
        if self.population not in (None, *POPULATIONS):
            raise ValueError(f"--population is {self.population!r}; choose from {', '.join(POPULATIONS)}.")
        if self.types_from not in TYPES_FROM:
            raise ValueError(f"--types_from is {self.types_from!r}; choose from {', '.join(TYPES_FROM)}.")
        if self.types_from == "pal" and self.pal_path is None:
            raise ValueError("--types_from pal needs --pal_path, a folder that recipes/pal_reward.py wrote.")
        if self.types_from != "mixture" and self.mixture_path is not None:
            raise ValueError(
                f"--mixture_path names types that are there, and --types_from {self.types_from} asks for others; "
                "give one of the two."
            )
        asked = [f"--{name}" for name in OF_THE_MIXTURE if getattr(self, name) is not None]
        if asked and self.mixture_path is not None:
            raise ValueError(
                f"{', '.join(asked)} is of a mixture that is trained first, and --mixture_path names one that is "
                "there; give one of the two."
            )
        if self.n_types is not None and self.types_from != "mixture":
            raise ValueError(
                f"--n_types is {self.n_types}, and --types_from {self.types_from} says itself how many types there "
                "are; give one of the two."
            )
        if self.n_types is not None and count_or_auto(self.n_types, "--n_types") == 1:
            raise ValueError("--n_types is 1, and a fair policy is made of several types; give 2 or more, or 'auto'.")
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"--eval_fraction is {self.eval_fraction}; it must lie between 0 and 1.")


def parse_fair_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[FairPolicyArguments, DataArguments, FairPolicyConfig]:
    """Read flags over YAML (`--config FILE.yaml`) over defaults; `CommandLine` refuses unknown names.

    Without `--dataset_name` the defaults are those of the embedded default.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parts = _parser(DEFAULTS).parse_args_and_config(argv)
    require_writable(parts[2].output_dir)
    if parts[0].pal_path is None and ("pal" in parts[2].judges or parts[2].rl_reward == "pal"):
        raise ValueError(
            "--judges or --rl_reward names 'pal': give --pal_path, a folder that recipes/pal_reward.py wrote."
        )
    if parts[1].dataset_name is None:
        return _parser(DEFAULTS | EMBEDDED_DEFAULTS).parse_args_and_config(argv)
    if parts[0].population is not None:
        raise ValueError(
            f"--population {parts[0].population} is of the embedded default, and --dataset_name names rows; give one "
            "of the two."
        )
    if not parts[1].are_texts:
        raise ValueError(f"{parts[1].items_option} is given, and policies answer prompts of text; leave it out.")
    return parts


def _parser(defaults: dict[str, Any]) -> CommandLine:
    parser = CommandLine((FairPolicyArguments, DataArguments, FairPolicyConfig))
    parser.set_defaults(**defaults)
    return parser
