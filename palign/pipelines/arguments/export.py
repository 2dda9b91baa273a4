"""Command-line arguments of `recipes/export.py`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from palign.cli.parser import CommandLine
from palign.writing import require_writable

__all__ = ["ExportArguments", "parse_export_arguments"]

WHOSE = "--annotator ID, --prototype K, --population true or --weights W,W,…"


@dataclass
class ExportArguments:
    """What leaves the house, and whose it is."""

    model_path: str | None = field(
        default=None, metadata={"help": "A PAL reward model on a backbone: a folder or hub name."}
    )
    annotator: str | None = field(
        default=None, metadata={"help": "Export the reward of this person of the reward model."}
    )
    prototype: int | None = field(default=None, metadata={"help": "Export the reward of this prototype, from 0."})
    population: bool = field(default=False, metadata={"help": "Export the reward of the population's mean weights."})
    weights: str | None = field(
        default=None, metadata={"help": "Export the reward of these weights, such as .2,.8; they sum to 1."}
    )
    mixture_path: str | None = field(
        default=None, metadata={"help": "A mixture, whose adapters are exported with --vllm true."}
    )
    fair_path: str | None = field(
        default=None, metadata={"help": "With --mixture_path: the fair policy that answers people who are not known."}
    )
    vllm: bool = field(
        default=False, metadata={"help": "Write adapters, routes.json and the line that starts vLLM on them."}
    )
    output_dir: str = field(default="outputs/export", metadata={"help": "The folder that is written."})
    dtype: str = field(default="float32", metadata={"help": "Of the exported classifier's weights."})


def parse_export_arguments(argv: Sequence[str] | None = None) -> tuple[ExportArguments]:
    """Read flags over YAML over defaults.

    Raises:
        ValueError: not exactly one thing to export, or not exactly one whose reward it is.
    """
    parser = CommandLine([ExportArguments])
    (script,) = parser.parse_args_and_config(list(sys.argv[1:] if argv is None else argv))
    whose = {
        "--annotator": script.annotator is not None,
        "--prototype": script.prototype is not None,
        "--population": script.population,
        "--weights": script.weights is not None,
    }
    given = [name for name, is_given in whose.items() if is_given]
    if (script.model_path is None) == (script.mixture_path is None):
        raise ValueError(
            f"Nothing to export, or two things: give --model_path REWARD_MODEL with {WHOSE}; or --mixture_path "
            "MIXTURE with --vllm true."
        )
    if script.model_path is not None and len(given) != 1:
        raise ValueError(f"Whose reward? {' and '.join(given) or 'Nothing'} was given; give one of {WHOSE}.")
    if script.model_path is not None and script.vllm:
        raise ValueError(
            "--vllm true exports the adapters of a mixture; give --mixture_path in place of --model_path."
        )
    if script.mixture_path is not None and (given or not script.vllm):
        raise ValueError("A mixture is exported whole, for vLLM: give --mixture_path MIXTURE --vllm true alone.")
    require_writable(script.output_dir)
    return (script,)
