"""Options of `recipes/pal_reward.py` and their values where nothing of the user's is given, and how they are read.

Rows of vectors need no backbone, no trainer of transformers and none of the several hundred options of one. Their
command lines are read here; of any other `palign.pipelines.arguments.reward` reads all, after seconds of imports.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from palign.cli.plain_parser import is_launched, plain_arguments
from palign.data.arguments import DataArguments
from palign.data.vote_counts import count_or_auto
from palign.models.people_fit import FIT_METHODS
from palign.models.states.pooling import POOLINGS
from palign.trainers.reward.options import HeadOptions, VectorRewardConfig
from palign.writing import require_writable

__all__ = ["DEFAULTS", "NoModel", "RewardArguments", "parse_vector_arguments", "read_reward_arguments"]

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/pal_reward", "report_to": "none", "head_min_steps": 600,
    "save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 1,  # of the second stage, if there is one
}  # fmt: skip


@dataclass
class RewardArguments:
    """The head, and what is reported beside it."""

    AS_TEXT: ClassVar[tuple[str, ...]] = ("n_prototypes",)

    n_prototypes: int | None = field(
        default=4, metadata={"help": "K, a number, or 'auto': chosen on annotators held out of training."}
    )
    variant: str = field(
        default="auto",
        metadata={
            "help": "'fixed' (PAL-A), 'prompt' (PAL-B), 'linear' (directions fitted by EM), "
            "'metric' (one metric for all) or a registered head. "
            "'auto' is 'fixed'; where items recur in many people's rows it is 'linear', unless people held out are "
            "clearly likelier under 'fixed'."
        },
    )
    personal: str = field(
        default="auto",
        metadata={
            "help": "A person's own deviation from their mixture: 'auto' (where it helps people held out) or 'none'."
        },
    )
    calibrate: bool = field(
        default=True, metadata={"help": "Fit the temperature of rewards on people held out, and keep it in the model."}
    )
    mixing: str = field(default="latent", metadata={"help": "'latent', 'projected' or 'input' (fixed variant)."})
    similarity: str | None = field(
        default=None, metadata={"help": "'squared_distance', 'distance' or 'cosine'; the variant's own if unset."}
    )
    preference_dim: int = field(default=32, metadata={"help": "Width of the preference space."})
    inner_size: int = field(default=64, metadata={"help": "Width of the hidden layers of f and g."})
    n_layers: int = field(default=2, metadata={"help": "Linear layers of f and g; 1 is a linear map."})
    head_dropout: float = field(default=0.4, metadata={"help": "Dropout inside f and g."})
    partition: bool = field(default=False, metadata={"help": "One-hot weights at evaluation."})
    pooling: str = field(
        default="auto",
        metadata={
            "help": "'completion' (the mean over its own tokens), 'completion_last' (the last of them), 'last', "
            "'mean', 'first' or 'max'. 'auto' is what the model's folder asks for; of a causal model without such a "
            "wish, one of the first two, and the layer: chosen on annotators held out."
        },
    )
    layer: int | None = field(
        default=None,
        metadata={"help": "States after that layer, from 1. Unset: chosen with the pooling, or the last."},
    )
    scaling: str = field(
        default="auto",
        metadata={
            "help": "What the head does to centred states: 'common' (one scale) or 'unit' (each to one length). "
            "'auto' is chosen on annotators held out; for ready vectors it is 'common'."
        },
    )
    max_length: int = field(default=1024, metadata={"help": "Tokens of prompt and completion that are read."})
    plain_prompts: bool = field(
        default=False,
        metadata={
            "help": "Read plain prompts bare, though the tokenizer has a chat template; else each is a user's turn."
        },
    )
    pooled_baseline: bool = field(default=True, metadata={"help": "Train the K = 1 model and report it beside."})
    eval_fraction: float = field(
        default=0.2, metadata={"help": "Share of everybody's rows held out where no rows to evaluate on are named."}
    )
    newcomers_dataset_name: str | None = field(
        default=None, metadata={"help": "Answers of people who were not in training, to place them by."}
    )
    newcomers_eval_dataset_name: str | None = field(
        default=None, metadata={"help": "Answers of the same newcomers, to judge their placing by."}
    )
    newcomer_answers: list[int] = field(
        default_factory=lambda: [1, 2, 5, 10, 20],
        metadata={"help": "Numbers of answers that newcomers are placed by."},
    )
    fit_method: str = field(
        default="posterior", metadata={"help": "How newcomers are placed: 'posterior', 'map' or 'official'."}
    )
    safe_csv: bool = field(
        default=False,
        metadata={"help": "In scores.csv put a ' before cells that a spreadsheet would compute (= + - @ first)."},
    )

    def __post_init__(self) -> None:
        self.n_prototypes = count_or_auto(self.n_prototypes, "--n_prototypes")
        if self.personal not in ("auto", "none"):
            raise ValueError(f"--personal is {self.personal!r}; it must be 'auto' or 'none'.")
        if self.pooling not in (allowed := ("auto", *POOLINGS)):
            raise ValueError(f"--pooling is {self.pooling!r}; it must be one of {', '.join(allowed)}.")
        if self.scaling not in (allowed := ("auto", "common", "unit")):
            raise ValueError(f"--scaling is {self.scaling!r}; it must be one of {', '.join(allowed)}.")
        if self.fit_method not in FIT_METHODS:
            raise ValueError(f"--fit_method is {self.fit_method!r}; it must be one of {', '.join(FIT_METHODS)}.")
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"--eval_fraction is {self.eval_fraction}; it must lie between 0 and 1.")
        if (self.newcomers_dataset_name is None) != (self.newcomers_eval_dataset_name is None):
            raise ValueError(
                "Newcomers need two sets of rows: --newcomers_dataset_name to place them by and "
                "--newcomers_eval_dataset_name to judge the placing by. One of them was given."
            )

    def head_options(self) -> dict[str, Any]:
        """Fields of `PALConfig`."""
        names = ("variant", "mixing", "similarity", "preference_dim", "inner_size", "n_layers", "partition")
        options = {name: getattr(self, name) for name in names} | {"dropout": self.head_dropout}
        options["scaling"] = "common" if self.scaling == "auto" else self.scaling
        return options | {"variant": "fixed" if self.variant == "auto" else self.variant}


@dataclass(frozen=True)
class NoModel:
    """In place of `trl.ModelConfig`, where items are vectors."""

    model_name_or_path: None = None
    use_peft: bool = False


def read_reward_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[RewardArguments, DataArguments, HeadOptions, Any]:
    """Read flags over YAML (`--config FILE.yaml`) over defaults.

    Returns:
        The recipe's options, the rows', those of the fit (`VectorRewardConfig` where that is enough, else
        `PALRewardConfig`), and those of the backbone (`NoModel`, or `trl.ModelConfig`).

    Raises:
        ValueError: as `palign.pipelines.arguments.reward.parse_reward_arguments`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    plain = parse_vector_arguments(argv)
    if plain is not None:
        return *plain, NoModel()
    from palign.pipelines.arguments.reward import parse_reward_arguments

    return parse_reward_arguments(argv)


def parse_vector_arguments(
    argv: Sequence[str],
) -> tuple[RewardArguments, DataArguments, VectorRewardConfig] | None:
    """The options of a fit on vectors by one process; None where any other option is given, or one is wrong.

    Raises:
        ValueError: the output folder cannot be written.
    """
    if is_launched():
        return None
    parts = plain_arguments((RewardArguments, DataArguments, VectorRewardConfig), argv, DEFAULTS)
    if parts is None or parts[1].image_folder is not None:
        return None
    script, data_args, args = parts
    if (data_args.dataset_name is None) != (data_args.embeddings is None):  # both, or the embedded default
        return None
    require_writable(args.output_dir)
    _ = args.device  # the first who asks decides where all is computed
    return script, data_args, args
