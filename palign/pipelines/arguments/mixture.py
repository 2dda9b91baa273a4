"""Command-line arguments of `recipes/em_dpo.py`, and their values where nothing of the user's is given."""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from trl import ModelConfig

from palign.cli.parser import CommandLine
from palign.data.arguments import DataArguments
from palign.pipelines.arguments.policy import check_quantization
from palign.trainers.checkpointing.complete import resume_point
from palign.trainers.mixture.state import MixtureState
from palign.trainers.mixture_dpo_config import MixtureDPOConfig, TypesFrom
from palign.writing import require_writable

__all__ = ["BASELINES", "MixtureArguments", "mixture_defaults", "parse_mixture_arguments"]

BASELINES = ("pooled", "drawn_beta", "cluster", "oracle")
DEFAULT_SPREAD = 0.5  # of ln beta
DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/em_dpo", "report_to": "none", "lora_target_modules": ["all-linear"], "lora_dropout": 0.0,
    "logging_steps": 10,
}  # fmt: skip
EMBEDDED_DEFAULTS: dict[str, Any] = {
    "baselines": ["pooled", "cluster", "oracle"], "per_device_train_batch_size": 16, "learning_rate": 2e-3,
    "num_train_epochs": 3.0, "beta": 0.5, "lora_r": 16, "lora_alpha": 16, "e_step_batch_size": 64,
    "max_new_tokens": 48,
}  # fmt: skip


@dataclass
class MixtureArguments:
    """What is trained beside the mixture, and what is shown of it."""

    baselines: list[str] = field(
        default_factory=lambda: ["pooled"],
        metadata={
            "help": "Trained and reported beside the mixture: 'pooled' (one DPO), 'drawn_beta' (one DPO, the beta of "
            "each row drawn once, no names), 'cluster' (hard clusters, no EM), 'oracle' (the groups of type_column)."
        },
    )
    beta_spread: float | None = field(
        default=None,
        metadata={
            "help": "Baseline 'drawn_beta': standard deviation of ln beta, which is normal about the logarithm of "
            "--beta; 0.5 if unset."
        },
    )
    type_column: str = field(
        default="type",
        metadata={"help": "Column with the true or declared type of an annotator, for 'oracle' and for comparison."},
    )
    eval_fraction: float = field(
        default=0.2, metadata={"help": "Share of the prompts held out where no rows to evaluate on are named."}
    )
    n_sample_prompts: int = field(default=6, metadata={"help": "Held-out prompts that every type answers."})
    max_new_tokens: int | None = field(
        default=None,
        metadata={"help": "Length of those answers; if unset, that within which 95% of the rows' completions end."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with a model of the hub."})
    lm_steps: int = field(default=250, metadata={"help": "Embedded default: steps of the language model."})
    n_annotators: int = field(default=60, metadata={"help": "Embedded default: people."})
    n_per_annotator: int = field(default=12, metadata={"help": "Embedded default: rankings of each person."})
    n_items: int = field(default=4, metadata={"help": "Embedded default: completions in a ranking; 2 gives pairs."})
    safe_csv: bool = field(
        default=False,
        metadata={"help": "In scores.csv put a ' before cells that a spreadsheet would compute (= + - @ first)."},
    )

    def __post_init__(self) -> None:
        unknown = [name for name in self.baselines if name not in BASELINES]
        if unknown:
            raise ValueError(f"--baselines holds {', '.join(unknown)}; choose from {', '.join(BASELINES)}.")
        if self.beta_spread is not None:
            if not 0 < self.beta_spread < float("inf"):
                raise ValueError(f"--beta_spread is {self.beta_spread}; it must be positive and finite.")
            if "drawn_beta" not in self.baselines:
                raise ValueError(
                    "--beta_spread is given, which the baseline 'drawn_beta' alone reads; add that to --baselines."
                )
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"--eval_fraction is {self.eval_fraction}; it must lie between 0 and 1.")
        for name in ("n_sample_prompts", "max_new_tokens", "lm_steps", "n_annotators", "n_per_annotator"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        if self.n_items < 2:
            raise ValueError(f"--n_items is {self.n_items}; a judgement compares at least 2 completions.")


def parse_mixture_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[MixtureArguments, DataArguments, MixtureDPOConfig, ModelConfig]:
    """Read flags over YAML (`--config FILE.yaml`) over defaults; `CommandLine` refuses unknown names.

    Without `--model_name_or_path` and `--dataset_name` the defaults are those of the embedded default.

    Raises:
        ValueError: rows without a model, a model or options of rows without rows; rows of vectors; a
            checkpoint that is none.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    kinds = (MixtureArguments, DataArguments, MixtureDPOConfig, ModelConfig)
    script, data_args, args, model_args = _parser(kinds, DEFAULTS).parse_args_and_config(argv)
    if not data_args.are_texts:
        raise ValueError(f"{data_args.items_option} is given, and policies are trained on text; leave it out.")
    given = {
        "--dataset_name": data_args.dataset_name is not None,
        "--model_name_or_path": model_args.model_name_or_path is not None,
    }
    model_args.use_peft = True
    check_quantization(model_args)
    require_writable(args.output_dir)
    args.resume_from_checkpoint = _resume_point(args)
    if args.types_from == TypesFrom.GIVEN:
        raise ValueError(
            "--types_from given is for MixtureDPOTrainer(responsibilities=…); here take --baselines oracle."
        )
    rows_alone = ("dataset_split", "eval_dataset_name", "eval_dataset_split", "group_columns")
    idle = [f"--{name}" for name in rows_alone if getattr(data_args, name)]
    if idle and not given["--dataset_name"]:
        raise ValueError(
            f"{', '.join(idle)} is given without --dataset_name, whose rows it speaks of; give that, too."
        )
    if not any(given.values()):
        parts = _parser(kinds, DEFAULTS | EMBEDDED_DEFAULTS).parse_args_and_config(argv)
        parts[2].resume_from_checkpoint = args.resume_from_checkpoint
        return parts
    if not all(given.values()):
        lacking = next(name for name, is_given in given.items() if not is_given)
        raise ValueError(
            f"{lacking} is missing: rows of your own need a model (--model_name_or_path) and a model needs rows "
            "(--dataset_name). Give both, or neither for the embedded default."
        )
    return script, data_args, args, model_args


def mixture_defaults(kind: type, *, is_embedded: bool) -> dict[str, Any]:
    """The recipe's defaults of the options of one dataclass, fresh copies, by name.

    Args:
        kind: `MixtureArguments`, `MixtureDPOConfig` or `ModelConfig`.
        is_embedded: neither rows nor a model are the user's.
    """
    names = {option.name for option in fields(kind)}
    defaults = DEFAULTS | (EMBEDDED_DEFAULTS if is_embedded else {})
    return copy.deepcopy({name: value for name, value in defaults.items() if name in names})


def _resume_point(args: MixtureDPOConfig) -> str | None:
    """A complete checkpoint of this trainer; 'true' is the last one in `output_dir`, and stays where there is none."""
    point = resume_point(args.resume_from_checkpoint, args.output_dir)
    if point is not None:
        MixtureState.load(point)
    return "true" if point is None and str(args.resume_from_checkpoint).lower() == "true" else point


def _parser(kinds: tuple[type, ...], defaults: dict[str, Any]) -> CommandLine:
    parser = CommandLine(kinds)
    parser.set_defaults(**copy.deepcopy(defaults))
    return parser
