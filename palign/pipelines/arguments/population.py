"""Command-line arguments of `recipes/population.py`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from palign.cli.parser import CommandLine
from palign.data.arguments import DataArguments
from palign.writing import require_writable

__all__ = ["PopulationArguments", "parse_population_arguments"]


@dataclass
class PopulationArguments:
    """Where items stand, and what is said of where people do."""

    output_dir: str = field(default="outputs/population", metadata={"help": "The folder that is written."})
    seed: int = field(default=42, metadata={"help": "Of the people held out, of draws and of the embedded default."})
    chosen_position_column: str = field(
        default="chosen_position", metadata={"help": "Column with the place of the chosen item on the line, a number."}
    )
    rejected_position_column: str = field(
        default="rejected_position", metadata={"help": "The same of the rejected item."}
    )
    n_cells: int = field(default=10, metadata={"help": "Most cells that are reported; neighbours are taken together."})
    level: float = field(default=0.9, metadata={"help": "Of every interval."})
    bounds: bool = field(
        default=False,
        metadata={
            "help": "Vectors of more than one dimension: report shares of each pair and bounds of each cell, for "
            "masses are not determined there."
        },
    )
    n_pairs: int = field(
        default=8, metadata={"help": "With --bounds: the pairs, most asked first, that cut the cells."}
    )
    n_annotators: int = field(default=1000, metadata={"help": "People of the embedded default."})

    def __post_init__(self) -> None:
        for name, least in (("n_cells", 2), ("n_pairs", 1), ("n_annotators", 10)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least {least}.")
        if not 0 < self.level < 1:
            raise ValueError(f"--level is {self.level}; it must lie between 0 and 1.")


def parse_population_arguments(argv: Sequence[str] | None = None) -> tuple[PopulationArguments, DataArguments]:
    """Read flags over YAML (`--config FILE.yaml`) over defaults; `CommandLine` refuses unknown names.

    Raises:
        ValueError: vectors without rows, or rows to evaluate on, of which there are none here.
    """
    parser = CommandLine([PopulationArguments, DataArguments])
    script, data_args = parser.parse_args_and_config(list(sys.argv[1:] if argv is None else argv))
    data_args.refuse_images()
    if data_args.dataset_name is None and data_args.embeddings is not None:
        raise ValueError("No rows are named: give --dataset_name FILE, FOLDER or a name on the hub.")
    if data_args.eval_dataset_name is not None or data_args.eval_dataset_split is not None:
        raise ValueError(
            "Rows to evaluate on are not read here: nobody is foretold, people are counted. Leave them out."
        )
    require_writable(script.output_dir)
    return script, data_args
