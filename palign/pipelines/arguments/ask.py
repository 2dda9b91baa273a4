"""Command-line arguments of `recipes/ask.py`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from palign.cli.parser import CommandLine
from palign.data.arguments import DataArguments
from palign.writing import require_writable

__all__ = ["AskArguments", "parse_ask_arguments"]


@dataclass
class AskArguments:
    """Who is asked, how much, and what they answered before. What may be asked stands in `--dataset_name`."""

    model_path: str | None = field(
        default=None, metadata={"help": "The PAL reward model that knows the population: a folder or hub name."}
    )
    answers_name: str | None = field(
        default=None,
        metadata={
            "help": "What people answered before: questions.csv with its column `winner` filled in, or rows as those "
            "that the model was trained on."
        },
    )
    annotators: list[str] = field(
        default_factory=list,
        metadata={"help": "Ids of the people to ask; everybody in --answers_name if unset, else one `newcomer`."},
    )
    n_questions: int = field(default=3, metadata={"help": "Questions for each person."})
    together: bool = field(default=False, metadata={"help": "Choose one list of questions for everybody."})
    max_pairs: int = field(
        default=20_000, metadata={"help": "Most pairs to choose among; so many are drawn where there are more."}
    )
    save_path: str | None = field(
        default=None,
        metadata={"help": "Write the model there, with those who answered (--answers_name) added to its people."},
    )
    output_dir: str = field(default="outputs/ask", metadata={"help": "Folder for questions.csv and summary.json."})
    seed: int = field(default=42, metadata={"help": "Of every draw, and of which completion stands first."})

    def __post_init__(self) -> None:
        if self.n_questions < 1:
            raise ValueError(f"--n_questions is {self.n_questions}; ask at least one.")
        if self.max_pairs < 1:
            raise ValueError(f"--max_pairs is {self.max_pairs}; at least one pair is needed to choose from.")
        if self.save_path is not None and self.answers_name is None:
            raise ValueError("--save_path adds people by their answers; give --answers_name, too.")


def parse_ask_arguments(argv: Sequence[str] | None = None) -> tuple[AskArguments, DataArguments]:
    """Read flags over YAML over defaults.

    Raises:
        ValueError: no model or no rows to choose from.
    """
    parser = CommandLine([AskArguments, DataArguments])
    script, data = parser.parse_args_and_config(list(sys.argv[1:] if argv is None else argv))
    if script.model_path is None or data.dataset_name is None:
        raise ValueError(
            "Questions are chosen by a reward model among pairs: give --model_path REWARD_MODEL, and --dataset_name "
            "ROWS with completions that may be shown."
        )
    for folder in filter(None, (script.output_dir, script.save_path)):
        require_writable(folder)
    return script, data
