"""Command-line arguments of `recipes/metric.py`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from palign.cli.parser import CommandLine
from palign.data.arguments import DataArguments
from palign.functional.metric.comparisons import Loss
from palign.functional.metric.regularisers import Penalty
from palign.models.metric.config import ESTIMATORS
from palign.models.states.pooling import POOLINGS
from palign.writing import require_writable

__all__ = ["MetricArguments", "parse_metric_arguments"]

AUTO = "auto"


@dataclass
class MetricArguments:
    """The metric, how it is held, and what is reported beside it."""

    output_dir: str = field(default="outputs/metric", metadata={"help": "The folder that is written."})
    seed: int = field(default=42, metadata={"help": "Of splits, of the embedded default and of the parts held out."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "A backbone that turns texts into vectors, for rows of text: folder or hub name."},
    )
    model_revision: str | None = field(default=None, metadata={"help": "Of the backbone's hub name."})
    pooling: str | None = field(
        default=None,
        metadata={"help": "How a text becomes one vector, as in palign reward; the backbone's own if unset."},
    )
    layer: int | None = field(default=None, metadata={"help": "States after that layer, from 1; the last if unset."})
    max_length: int = field(default=1024, metadata={"help": "Tokens of prompt and completion that are read."})
    plain_prompts: bool = field(
        default=False,
        metadata={
            "help": "Read plain prompts bare, though the tokenizer has a chat template; else each is a user's turn."
        },
    )
    embedding_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder in which vectors of texts are kept by content."}
    )
    max_dim: int = field(
        default=32,
        metadata={"help": "Wider vectors are taken to so many principal directions; the metric is of those."},
    )
    estimator: str = field(
        default="general",
        metadata={"help": "'general', or 'subspaces': learn in each of few subspaces that items lie in, then stitch."},
    )
    subspaces_path: str | None = field(
        default=None,
        metadata={
            "help": "A .npy file (n_vectors,) of whole numbers, the subspace of each vector (-1: none); else they are "
            "looked for."
        },
    )
    loss: str = field(default="logistic", metadata={"help": "'logistic' or 'hinge' (its corner rounded)."})
    penalty: str = field(
        default=AUTO,
        metadata={
            "help": "'ridge', 'balls', 'nuclear' (metrics of low rank), 'joint_nuclear' (metric and people in one "
            "subspace), or 'auto': 'ridge' or 'joint_nuclear', whichever makes held-out rows likelier."
        },
    )
    strengths: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Of the metric and of the people (joint_nuclear: one), for pairs of mean squared length 1; chosen "
            "on rows held out if unset."
        },
    )
    personal: str = field(
        default=AUTO,
        metadata={
            "help": "A person's own quadratic terms beside the metric: 'auto' (where rows held out are surely "
            "likelier with them) or 'none'."
        },
    )
    baselines: bool = field(
        default=True,
        metadata={
            "help": "Report beside it one regression for all, one of each person's own, and one with quadratic terms."
        },
    )
    eval_fraction: float = field(
        default=0.2, metadata={"help": "Share of everybody's rows held out where no rows to evaluate on are named."}
    )
    safe_csv: bool = field(
        default=False,
        metadata={"help": "In scores.csv put a ' before cells that a spreadsheet would compute (= + - @ first)."},
    )
    n_annotators: int = field(default=100, metadata={"help": "People of the embedded default."})
    n_answers: int = field(default=12, metadata={"help": "Answers that each of them gives to learn from."})

    def __post_init__(self) -> None:
        allowed = {
            "personal": (AUTO, "none"),
            "loss": list(Loss), "penalty": [AUTO, *Penalty], "estimator": ESTIMATORS, "pooling": (None, *POOLINGS),
        }  # fmt: skip
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                shown = ", ".join(str(value) for value in values if value is not None)
                raise ValueError(f"--{name} is {getattr(self, name)!r}; it must be one of {shown}.")
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"--eval_fraction is {self.eval_fraction}; it must lie between 0 and 1.")
        for name in ("max_dim", "n_annotators", "n_answers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        if self.strengths and self.penalty == AUTO:
            raise ValueError("--strengths are of one penalty: name it, as --penalty ridge.")
        if self.strengths:
            Penalty(self.penalty).make(tuple(self.strengths))
        if self.estimator == "subspaces" and self.penalty not in (AUTO, Penalty.RIDGE):
            raise ValueError(
                f"--estimator subspaces is fitted with --penalty ridge, not {self.penalty!r}. Leave it out."
            )
        if self.subspaces_path is not None and self.estimator != "subspaces":
            raise ValueError(
                "--subspaces_path is given, and the estimator is general: give --estimator subspaces as well."
            )


def parse_metric_arguments(argv: Sequence[str] | None = None) -> tuple[MetricArguments, DataArguments]:
    """Read flags over YAML (`--config FILE.yaml`) over defaults; `CommandLine` refuses unknown names.

    Raises:
        ValueError: rows of text without a model, a model together with vectors, or either without rows.
    """
    parser = CommandLine([MetricArguments, DataArguments])
    script, data_args = parser.parse_args_and_config(list(sys.argv[1:] if argv is None else argv))
    data_args.refuse_images()
    has_vectors, has_model = data_args.embeddings is not None, script.model_name_or_path is not None
    if has_vectors and has_model:
        raise ValueError("Both --embeddings and --model_name_or_path are given; items are vectors or text. Give one.")
    if data_args.dataset_name is not None and not has_vectors and not has_model:
        raise ValueError(
            "A metric measures items that are vectors, and these rows have none: give --embeddings FILE.npy for rows "
            "that name vectors, or --model_name_or_path, a backbone that makes vectors of texts."
        )
    if data_args.dataset_name is None and (has_vectors or has_model):
        raise ValueError("No rows are named: give --dataset_name FILE, FOLDER or a name on the hub.")
    require_writable(script.output_dir)
    return script, data_args
