"""What can be said of a command line before the seconds of imports that a recipe takes: names that are no option, and
rows without a model or a model without rows.

The names of options that other packages define are read out of their sources. Where one of those is not as it was, the
check of names is left to the recipe, which knows all of them.
"""

import ast
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from palign.cli.option_file import OptionError, unknown_options

__all__ = ["inherited_names", "refuse_missing_trackers", "refuse_unknown", "refuse_without_others", "values_of"]

# class → (package, file, class) of all that give it fields
TRAINING = ("transformers", "training_args.py", "TrainingArguments")
TRL_BASE = ("trl", "trainer/base_config.py", "_BaseConfig")
SOURCES = {
    "transformers.TrainingArguments": (TRAINING,),
    "trl.ModelConfig": (("trl", "trainer/model_config.py", "ModelConfig"),),
    "trl.GRPOConfig": (("trl", "trainer/grpo_config.py", "GRPOConfig"), TRL_BASE, TRAINING),
    "trl.RLOOConfig": (("trl", "trainer/rloo_config.py", "RLOOConfig"), TRL_BASE, TRAINING),
}
MODEL, ROWS, REWARD, VECTORS = "model_name_or_path", "dataset_name", "reward_model_path", "embeddings"
POLICY = ((MODEL, (REWARD,)), (MODEL, (ROWS,)), (ROWS, (MODEL,)), (REWARD, (MODEL,)))
# sub-command → (what is given, what of it must be given, too)
TOGETHER = {
    "reward": ((ROWS, (MODEL, VECTORS)), (MODEL, (ROWS,)), (VECTORS, (ROWS,))),
    "em-dpo": ((ROWS, (MODEL,)), (MODEL, (ROWS,))),
    "ppo": POLICY,
    "grpo": POLICY,
    "evaluate": (("model_path", (ROWS,)), (ROWS, ("model_path",))),
}

TRACKERS = {  # of transformers' names: the packages of which one must be there
    "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",),
    "mlflow": ("mlflow",), "comet_ml": ("comet_ml",), "clearml": ("clearml",), "dvclive": ("dvclive",),
    "swanlab": ("swanlab",), "codecarbon": ("codecarbon",), "neptune": ("neptune",),
}  # fmt: skip


def inherited_names(kind: str) -> set[str] | None:
    """The fields of a class of another package, without importing it; None where its source is not as it was."""
    names: set[str] = set()
    for package, file, wanted in SOURCES.get(kind, ()):
        spec = find_spec(package)
        path = None if spec is None or spec.origin is None else Path(spec.origin).parent / file
        if path is None or not path.is_file():
            return None
        found = [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef) and node.name == wanted
        ]
        if len(found) != 1:
            return None
        names |= {node.target.id for node in found[0].body if isinstance(node, ast.AnnAssign)}
    return names or None


def _flags(arguments: Sequence[str]) -> list[str]:
    """The options on a command line, without dashes and values."""
    return [word.split("=")[0].removeprefix("--") for word in arguments if word.startswith("--") and len(word) > 2]


def refuse_unknown(
    arguments: Sequence[str], path: str | None, config: Mapping[str, Any], known: Collection[str]
) -> None:
    """OptionError where a key of the file or a flag is no option; the nearest name is offered."""
    wrong = [key for key in config if key not in known and key != "env"]
    if wrong:
        raise OptionError(f"--config {path}: {unknown_options(wrong, sorted(known))}; --help lists the options.")
    spelled = {*known, *(f"no_{name}" for name in known), "config", "help", "help_all"}
    wrong = [name for name in _flags(arguments) if name.replace("-", "_") not in spelled]
    if wrong:
        raise OptionError(f"{unknown_options(wrong, sorted({*known, 'config'}), '--')}; --help lists the options.")


def refuse_without_others(command: str, arguments: Sequence[str], config: Mapping[str, Any]) -> None:
    """OptionError where rows are given without a model, or the like."""
    given = {name.replace("-", "_") for name in _flags(arguments)} | {k for k, v in config.items() if v is not None}
    for name, others in TOGETHER.get(command, ()):
        if name in given and not given & set(others):
            wanted = " or ".join(f"--{other}" for other in others)
            raise OptionError(
                f"--{name} is given without {wanted}: rows of your own need a model, and a model needs rows. Give "
                f"{wanted} as well, or none of them for the embedded default."
            )


def refuse_missing_trackers(names: Iterable[str]) -> None:
    """OptionError where a tracker of `--report_to` is not installed."""
    for name in names:
        packages = TRACKERS.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            raise OptionError(
                f"--report_to {name} needs the package {packages[0]}, which is not installed: pip install "
                f"{packages[0]}, or give --report_to none."
            )


def values_of(name: str, arguments: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """What an option of one or several values is given, on the command line or else in the file."""
    words = list(arguments)
    for number, word in enumerate(words):
        if word == f"--{name}":
            rest = words[number + 1 :]
            end = next((i for i, other in enumerate(rest) if other.startswith("--")), len(rest))
            return rest[:end]
        if word.startswith(f"--{name}="):
            return [word.partition("=")[2]]
    held = config.get(name)
    return [str(value) for value in held] if isinstance(held, list) else [] if held is None else [str(held)]
