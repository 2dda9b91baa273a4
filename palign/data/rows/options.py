"""How rows are to be read, as options that every command and `load_preferences` share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from palign.data.rows.columns import ColumnNames

__all__ = ["BAD_ROWS", "ReadingOptions"]

BAD_ROWS = ("stop", "drop")


@dataclass
class ReadingOptions(ColumnNames):
    """What the columns are called, what their values mean, and what becomes of rows that cannot be read."""

    source: str | None = field(
        default=None,
        metadata={"help": "Name of the export that the rows are (argilla, label-studio, arena, …); else recognised."},
    )
    winner_values: list[str] = field(
        default_factory=list,
        metadata={"help": "What the winner column means, where it does not say so: first=0 second=1 tie=0.5."},
    )
    items_name: str | None = field(
        default=None, metadata={"help": "Votes: a second file with the text of each item (its id and its text)."}
    )
    items_per_row: int = field(
        default=8, metadata={"help": "Votes: most items that one ranking holds; a person gets as many as it takes."}
    )
    bad_rows: str = field(
        default="stop", metadata={"help": "Rows that cannot be read: stop (all are listed), or drop (and say so)."}
    )

    pseudonyms: bool = field(
        default=False,
        metadata={"help": "Replace everybody's id by a keyed hash as rows are read; the key stays on this machine."},
    )
    pseudonym_key: str | None = field(
        default=None,
        metadata={"help": "File of that key, made where it is missing; ~/.config/palign/pseudonym.key if unset."},
    )

    def __post_init__(self) -> None:
        if self.bad_rows not in BAD_ROWS:
            raise ValueError(f"--bad_rows is {self.bad_rows!r}; allowed are {', '.join(BAD_ROWS)}.")
        if self.items_per_row < 2:
            raise ValueError(f"--items_per_row is {self.items_per_row}; a comparison needs two items or more.")

    @classmethod
    def reading(cls, given: "ReadingOptions | Mapping[str, Any]") -> "ReadingOptions":
        """The shared options alone, of a recipe's arguments or of keyword arguments.

        Raises:
            TypeError: a keyword that is none of them.
        """
        names = [item.name for item in fields(ReadingOptions)]
        if isinstance(given, ReadingOptions):
            return ReadingOptions(**{name: getattr(given, name) for name in names})
        for name in given:
            if name not in names:
                raise TypeError(f"{name!r} is not an argument here; column names are given by {', '.join(names)}.")
        return ReadingOptions(**given)

    @property
    def winners_stated(self) -> Mapping[str, Any] | Sequence[str]:
        """`winner_values` as given: a list of texts, or in Python also a mapping from side to value."""
        return self.winner_values
