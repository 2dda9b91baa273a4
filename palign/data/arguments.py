"""Where the rows are and what their columns are called, as command-line arguments of a recipe."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from palign.data import guard as guard_module
from palign.data.guard import MODES, GuardOptions, act_on
from palign.data.guards.form import check_raw_form
from palign.data.image_folder import ImageFolder
from palign.data.loading import load_embeddings, read_table
from palign.data.preferences import Preferences
from palign.data.rows.checks import MAX_CHARACTERS
from palign.data.rows.options import ReadingOptions
from palign.data.rows.reader import RowReader
from palign.data.rows.reading import print_reading, similar_groups
from palign.data.rows.table import Table

__all__ = ["DataArguments", "GroupSizes"]


@dataclass
class GroupSizes:
    """How large a group must be in a report, to be ranked and to be shown; a recipe's arguments inherit it."""

    min_ranked_size: int = field(
        default=5,
        metadata={
            "help": "Groups of fewer annotators are listed in reports and not ranked: none is the worst or the best."
        },
    )
    min_group_size: int = field(
        default=1,
        metadata={
            "help": "Groups of fewer annotators keep their counts in reports and lose their numbers; above 1 no "
            "single person is listed."
        },
    )

    def group_sizes(self) -> dict[str, int]:
        """Both, as `palign.evaluation.report.write_report` takes them.

        Raises:
            ValueError: one below 1.
        """
        sizes = {"min_ranked_size": self.min_ranked_size, "min_group_size": self.min_group_size}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"--{name} is {size}; it counts annotators, give at least 1.")
        return sizes


@dataclass
class DataArguments(GroupSizes, ReadingOptions):
    """Parsed by `TrlParser` beside a trainer's config; `train_rows`, `eval_rows` and `vectors` do what it says."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Rows to train on: a file (.jsonl, .json, .csv, .tsv, .xlsx, .parquet), a folder of such, "
            "or a hub name."
        },
    )
    dataset_split: str | None = field(
        default=None,
        metadata={"help": "Split of a folder or hub data set; `train`, or a folder's only file, if unset."},
    )
    eval_dataset_name: str | None = field(
        default=None,
        metadata={"help": "Rows to evaluate on: as dataset_name, which is taken if only a split is named."},
    )
    eval_dataset_split: str | None = field(
        default=None,
        metadata={"help": "Split of the rows to evaluate on; `test` in a folder or hub data set if unset."},
    )
    embeddings: str | None = field(
        default=None,
        metadata={"help": "Vectors in place of texts: a .npy file (n, width); rows then name items by index."},
    )
    image_folder: str | None = field(
        default=None,
        metadata={"help": "Images in place of texts: the folder; rows then name files in it as their completions."},
    )
    image_column: str | None = field(
        default=None,
        metadata={"help": "Votes on images: column with the file of the image; vote_column has the vote."},
    )
    image_model: str | None = field(
        default=None,
        metadata={"help": "With --image_folder: the encoder of images (CLIP or the like), a folder or hub name."},
    )
    group_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Further columns to report by (country, age band, …); never trained on."},
    )
    max_characters: int = field(
        default=MAX_CHARACTERS, metadata={"help": "Longest text allowed in a row; 0 allows any length."}
    )

    guard: str = field(
        default="stop",
        metadata={
            "help": "What to do where the rows cannot show what would be reported: stop, warn, or off (do not look)."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.group_sizes()
        if self.guard not in MODES:
            raise ValueError(f"--guard is {self.guard!r}; allowed are {', '.join(MODES)}.")
        if self.image_column is not None:
            self.item_column = self.image_column
        if (self.image_folder is None) != (self.image_model is None):
            given, other = ("folder", "model") if self.image_model is None else ("model", "folder")
            raise ValueError(f"--image_{given} is given without --image_{other}; images need the two of them.")
        if self.image_column is not None and self.image_folder is None:
            raise ValueError("--image_column names files of images; give --image_folder and --image_model as well.")
        if self.image_folder is not None and self.embeddings is not None:
            raise ValueError("Both --embeddings and --image_folder are given; items are vectors or images. Give one.")

    @property
    def are_texts(self) -> bool:
        """Whether rows hold texts, and not vectors or images."""
        return self.embeddings is None and self.image_folder is None

    @property
    def items_option(self) -> str:
        """Of items that are no texts, the option that names them."""
        return "--embeddings" if self.image_folder is None else "--image_folder"

    def refuse_images(self) -> None:
        """ValueError where images are named to a command that reads none."""
        if self.image_folder is not None:
            raise ValueError(
                "--image_folder is given, and images are read by palign reward, evaluate and ask; give vectors of the "
                "images here, as --embeddings."
            )

    @cached_property
    def images(self) -> ImageFolder | None:
        """The folder of `--image_folder`, listed once."""
        return None if self.image_folder is None else ImageFolder(self.image_folder)

    def vectors(self) -> np.ndarray | None:
        """The file of `--embeddings`, (n_embeddings, hidden) memory-mapped; None when rows hold texts."""
        return None if self.embeddings is None else load_embeddings(self.embeddings)

    def train_rows(self, n_embeddings: int | None = None) -> Preferences:
        """The rows of `dataset_name`, checked, with every group column there; `n_embeddings` = len(self.vectors())."""
        if self.dataset_name is None:
            raise ValueError("No rows are named: give --dataset_name FILE, FOLDER or a name on the hub.")
        return self.load(self.dataset_name, self.dataset_split, n_embeddings)

    def eval_rows(self, n_embeddings: int | None = None) -> Preferences | None:
        """The rows to evaluate on; None when none are named."""
        if self.eval_dataset_name is None and self.eval_dataset_split is None:
            return None
        source = self.eval_dataset_name or self.dataset_name
        if source is None:
            raise ValueError("--eval_dataset_split names a split of nothing: give --eval_dataset_name as well.")
        is_file = Path(source).is_file()
        return self.load(source, self.eval_dataset_split or (None if is_file else "test"), n_embeddings)

    def load(self, source: str, split: str | None, n_embeddings: int | None) -> Preferences:
        """Rows of any source under these column names, checked, with every group column there."""
        options = ReadingOptions.reading(self)
        is_text = n_embeddings is None or self.images is not None  # images are named by texts
        table = read_table(source, split=split, options=options, is_text=is_text)
        if self.are_texts and self.guard != "off" and options.winner_column is None:
            act_on([check_raw_form(table, options)], self.guard)
        prefs = self.read(table, options, n_embeddings)
        for name in self.group_columns:
            prefs.column(name)
        return prefs

    def read(self, table: Table, options: ReadingOptions, n_embeddings: int | None) -> Preferences:
        """Rows of a table under column names of its own, checked; how they were read is printed."""
        is_text = n_embeddings is None or self.images is not None
        reader = RowReader(options, self.max_characters or None, False if is_text else n_embeddings)
        prefs = Preferences(**reader.read(table))
        if prefs.reading is not None:
            columns = [name for name in self.group_columns if name in prefs.columns]
            prefs.reading.notes += [note for name in columns for note in similar_groups(name, prefs.columns[name])]
        print_reading(prefs.reading)
        return prefs if self.images is None else self.images.as_items(prefs)

    def look_at(
        self,
        train: Preferences,
        evaluation: Preferences | None = None,
        *,
        options: GuardOptions | None = None,
        unseen: Preferences | None = None,
        embeddings: np.ndarray | None = None,
    ) -> list[str]:
        """Run the guard as `--guard` says, on two splits or on one.

        Returns:
            How the rows were read, and what the guard does not call ok: a line each.

        Raises:
            GuardError: a check says stop, and so does `--guard`.
        """
        readings = [rows.reading for rows in (train, evaluation) if rows is not None and rows.reading]
        if len(readings) == 2 and readings[0] is readings[1]:  # one file, dealt into two parts
            readings.pop()
        read = [line for reading in readings for line in reading.lines()]
        if self.guard == "off":
            return read
        splits = {"rows": train} if evaluation is None else {"train": train, "eval": evaluation}
        return read + act_on(
            guard_module.guard(splits, unseen=unseen, embeddings=embeddings, options=options), self.guard
        )
