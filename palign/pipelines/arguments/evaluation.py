"""Command-line arguments of `recipes/evaluate_fairness.py`."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate import PartialState

from palign.cli.parser import CommandLine
from palign.data.arguments import DataArguments
from palign.data.preferences import Preferences
from palign.evaluation.evaluate import group_names
from palign.evaluation.judging.kinds import ModelKind, ModelSource, recognise
from palign.writing import require_writable

__all__ = ["EvaluationArguments", "parse_evaluation_arguments", "rows_to_judge", "sources_of"]

WEIGHTS = ("judgements", "annotators")
METRICS = ("accuracy", "log_likelihood", "reward")
FREE = ("type", "annotator_id")  # groups that need no column of the rows


@dataclass
class EvaluationArguments:
    """Which models, and how their numbers are taken."""

    model_path: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Models to judge, folders or hub names: PAL reward models, reward models of TRL or transformers, "
            "mixtures, fair policies, PEFT adapters, causal language models. The first one opens the report."
        },
    )
    baseline_path: list[str] = field(
        default_factory=list,
        metadata={"help": "Models of the same kinds that the others are compared with, in pairs."},
    )
    reference_path: str | None = field(
        default=None, metadata={"help": "What a causal language model was trained from, for its implicit reward."}
    )
    base_path: str | None = field(
        default=None, metadata={"help": "What an adapter lies on, where its own file names nothing that is here."}
    )
    types_path: str | None = field(
        default=None, metadata={"help": "A PAL reward model or mixture to take people's types from; else the models'."}
    )
    earlier_dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Rows that the same people gave before, for the two baselines below: a file, folder or name."
        },
    )
    own_logistic: bool = field(
        default=False,
        metadata={
            "help": "Also judge a logistic regression of each person's own, of their earlier rows on the vectors that "
            "the first PAL reward model reads."
        },
    )
    in_context_model: str | None = field(
        default=None,
        metadata={"help": "Also judge this language model, shown the person's earlier choices and trained on none."},
    )
    n_shown: int = field(default=4, metadata={"help": "Earlier choices that --in_context_model is shown, at most."})
    beta: float | None = field(
        default=None, metadata={"help": "Of implicit rewards, where no file of the model says it; 0.1 if unset."}
    )
    plain_prompts: bool = field(
        default=False,
        metadata={
            "help": "Read plain prompts bare, though there is a chat template, where no file of a model says how."
        },
    )
    on_training_rows: bool = field(
        default=False,
        metadata={"help": "Judge rows that a model was trained on, too, and say so in the report; else left out."},
    )
    output_dir: str = field(default="outputs/evaluate_fairness", metadata={"help": "Where the report goes."})
    metrics: list[str] = field(
        default_factory=lambda: ["accuracy", "log_likelihood"],
        metadata={"help": "Of accuracy, log_likelihood, reward; rewards of different models are on different scales."},
    )
    weights: str = field(
        default="judgements", metadata={"help": "'judgements': every row counts the same; or 'annotators'."}
    )
    level: float = field(default=0.9, metadata={"help": "Coverage aimed at by intervals, in (0, 1)."})
    n_resamples: int = field(default=1000, metadata={"help": "Resamples of annotators."})
    batch_size: int = field(default=32, metadata={"help": "Completions in a forward pass of one process."})
    max_length: int = field(default=1024, metadata={"help": "Tokens of prompt and completion that are read."})
    dtype: str = field(default="auto", metadata={"help": "Of the models' weights."})
    seed: int = field(default=0, metadata={"help": "Of resamples, and of the embedded default."})
    use_cpu: bool = field(default=False, metadata={"help": "Run on the CPU even where there is an accelerator."})
    n_annotators: int = field(default=60, metadata={"help": "Embedded default: people."})
    lm_steps: int = field(default=100, metadata={"help": "Embedded default: steps of the language model."})
    safe_csv: bool = field(
        default=False,
        metadata={"help": "In scores.csv put a ' before cells that a spreadsheet would compute (= + - @ first)."},
    )

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"--weights is {self.weights!r}; choose from {', '.join(WEIGHTS)}.")
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            given = ", ".join(map(repr, unknown)) or "nothing"
            raise ValueError(f"--metrics has {given}; choose from {', '.join(METRICS)}.")
        if not 0 < self.level < 1:
            raise ValueError(f"--level is {self.level}; it is the coverage aimed at, between 0 and 1, such as 0.9.")
        for name in ("n_resamples", "batch_size", "max_length", "n_shown"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; give at least 1.")


def parse_evaluation_arguments(argv: Sequence[str] | None = None) -> tuple[EvaluationArguments, DataArguments]:
    """Read flags over YAML (`--config FILE.yaml`) over defaults; `CommandLine` refuses unknown names.

    Raises:
        ValueError: models without rows, or rows without models.
    """
    parser = CommandLine((EvaluationArguments, DataArguments))
    script, data_args = parser.parse_args_and_config(list(sys.argv[1:] if argv is None else argv))
    if script.model_path and data_args.dataset_name is None:
        raise ValueError("--model_path is given and no rows are: give --dataset_name, judgements to measure it by.")
    if not script.model_path and (data_args.dataset_name or script.baseline_path):
        raise ValueError("No model to judge is named: give --model_path FOLDER_OR_HUB_NAME (one or several).")
    if (script.own_logistic or script.in_context_model) and script.earlier_dataset_name is None:
        raise ValueError(
            "--own_logistic and --in_context_model start from what people chose before: give --earlier_dataset_name "
            "ROWS (out/pal was trained on them, say)."
        )
    group_names(data_args.group_columns)
    require_writable(script.output_dir)
    return script, data_args


def sources_of(script: EvaluationArguments) -> tuple[list[ModelSource], list[ModelSource], ModelSource | None]:
    """The models to judge, the baselines, and where types come from, all told from files.

    A model is called by its folder; where two would have one name, by their paths.
    """
    paths = [*script.model_path, *(script.baseline_path or _pooled_beside(script.model_path))]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is named more than once among --model_path and --baseline_path.")
    short = Counter(Path(path).name for path in paths)
    options = {"reference": script.reference_path, "base": script.base_path, "beta": script.beta}
    sources = [recognise(p, name=p if short[Path(p).name] > 1 else Path(p).name, **options) for p in paths]
    sources = [s if s.plain_prompts is not None else replace(s, plain_prompts=script.plain_prompts) for s in sources]
    types = None if script.types_path is None else recognise(script.types_path, **options)
    if types is not None and types.kind not in (ModelKind.PAL, ModelKind.MIXTURE):
        raise ValueError(
            f"--types_path names {types.path!r}, a {types.kind}, which knows no types; give a PAL reward model or a "
            "mixture."
        )
    return sources[: len(script.model_path)], sources[len(script.model_path) :], types


def _pooled_beside(paths: list[str]) -> list[str]:
    """The pooled reward in the folder of the one model to judge, where `palign reward` wrote one; said, and taken."""
    folders = [Path(path).expanduser() / "pooled" for path in paths]
    if len(folders) != 1 or not (folders[0] / "config.json").is_file():
        return []
    PartialState().print(f"No --baseline_path is given: compared with {folders[0]}, one reward for everybody.")
    return [str(folders[0])]


def rows_to_judge(data_args: DataArguments, n_embeddings: int | None) -> tuple[Preferences, list[tuple[str, ...]]]:
    """The rows, and the groups to report by; every column named must be there, but for `type` and `annotator_id`.

    Raises:
        ValueError: a column that the rows do not have (the nearest names are offered).
    """
    groups = group_names(data_args.group_columns)
    data_args.group_columns = [n for n in dict.fromkeys(n for names in groups for n in names) if n not in FREE]
    rows = data_args.eval_rows(n_embeddings)
    rows = data_args.train_rows(n_embeddings) if rows is None else rows
    return rows, groups
