"""What the columns of preference rows are called, and whether those that are needed are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from palign.data.rows.checks import shorten, unknown_column_message
from palign.data.rows.suggestions import PERSON_WORDS, proposal
from palign.data.rows.table import Table
from palign.data.rows.winners import counterpart

__all__ = ["ColumnNames", "check_columns", "one_hot_columns"]


def _named(default: str | None, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ColumnNames:
    """What the columns are called; the defaults are the names of the documentation."""

    annotator_column: str = _named("annotator_id", "Column with the id of the person who judged.")
    prompt_column: str = _named("prompt", "Column with the prompt: a text, a list of messages, or nothing.")
    chosen_column: str = _named("chosen", "Column with the better completion of a pair.")
    rejected_column: str = _named("rejected", "Column with the worse completion of a pair.")
    completions_column: str = _named("completions", "Column with two or more completions, best first unless rated.")
    ratings_column: str = _named("ratings", "Column with one number per completion, higher is better, equal is a tie.")
    n_ranked_column: str = _named(
        "n_ranked", "Column that says how many of the completions, from the first, are in order."
    )
    chosen_index_column: str = _named("chosen_index", "With embeddings: column with the row of the better item.")
    rejected_index_column: str = _named("rejected_index", "With embeddings: column with the row of the worse item.")
    completion_indices_column: str = _named(
        "completion_indices", "With embeddings: column with the rows of the items."
    )
    prompt_index_column: str = _named("prompt_index", "With embeddings: column with the row of the prompt, if any.")
    ranks_column: str = _named("ranks", "Column with one number per completion, 1 is best, equal is a tie.")
    first_column: str | None = _named(None, "Two answers and a winner: column with the first answer.")
    second_column: str | None = _named(None, "Two answers and a winner: column with the second answer.")
    winner_column: str | None = _named(
        None, "Two answers and a winner: column that names the better one, or three columns of 0/1 joined by commas."
    )
    item_column: str | None = _named(None, "Votes: column with the item (its text, or its id in --items_name).")
    vote_column: str | None = _named(None, "Votes: column with the vote or score, higher is better.")

    @classmethod
    def of(cls, names: Mapping[str, str]) -> "ColumnNames":
        """From keyword arguments; TypeError for one that does not exist."""
        allowed = [item.name for item in fields(ColumnNames)]
        for name in names:
            if name not in allowed:
                raise TypeError(f"{name!r} is not an argument here; column names are given by {', '.join(allowed)}.")
        return cls(**names)

    def pair(self, is_text: bool) -> tuple[str, str]:
        """The two columns of a pair of texts, or of vectors."""
        if is_text:
            return self.chosen_column, self.rejected_column
        return self.chosen_index_column, self.rejected_index_column

    def several(self, is_text: bool) -> str:
        """The column of a list of texts, or of vectors."""
        return self.completions_column if is_text else self.completion_indices_column


def check_columns(table: Table, names: ColumnNames, *, is_text: bool, needs_items: bool = True) -> list[str]:
    """All columns that any row has, in order of appearance.

    Args:
        needs_items: False where a prompt and a person are enough.

    Raises:
        TypeError: a row is no dict.
        ValueError: there are no rows, or a column that is needed or was named is in none of them.
    """
    start = f"{table.name}: t" if table.name else "T"
    if not len(table):
        raise ValueError(f"{start}here are no rows; at least one judgement is needed.")
    for row, record in enumerate(table.rows if isinstance(table.rows, list) else ()):
        if not isinstance(record, Mapping):
            raise TypeError(f"{start}he row {row} (counting from 0) is {shorten(record)}, not a dict.")
    available = table.columns()
    for item in fields(ColumnNames):
        name = getattr(names, item.name)
        if name in available or (name == item.default and item.name != "annotator_column"):
            continue
        if item.name == "winner_column" and (len(one_hot_columns(name, available)) == 3 or not needs_items):
            continue
        if not needs_items and item.name not in ("annotator_column", "prompt_column"):
            continue
        advice = f"Say which one it is with --{item.name}."
        likely = [column for column in available if column.lower().startswith(PERSON_WORDS)]
        if item.name == "annotator_column" and likely:
            advice = f"If {likely[0]!r} holds the person who judged, say --annotator_column {likely[0]}."
        advice += proposal(table, names)
        where = table.name if needs_items else f"{table.name or 'rows'}, row 0"
        raise ValueError(unknown_column_message(name, available, where, advice))
    if not needs_items:
        return available
    if (names.first_column, names.second_column, names.winner_column) != (None, None, None):
        _check_winner_columns(names)
    elif names.several(is_text) not in available and not set(names.pair(is_text)) <= set(available):
        raise ValueError(_no_completions_message(table, available, names, is_text))
    return available


def one_hot_columns(name: str, available: Sequence[str]) -> list[str]:
    """The columns of the first, the second and a tie that a winner column stands for: named, or their beginning."""
    if "," in name:
        parts = [part.strip() for part in name.split(",")]
        return parts if len(parts) == 3 and set(parts) <= set(available) else []
    tie = f"{name}_tie"
    for first in available:
        second = counterpart(first)
        if tie in available and first.startswith(f"{name}_") and second in available:
            return [first, second, tie]
    return []


def _check_winner_columns(names: ColumnNames) -> None:
    given = {n: getattr(names, n) for n in ("first_column", "second_column", "winner_column")}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(
            f"Two answers and a winner need three columns, and --{missing[0]} is not given: say --first_column, "
            "--second_column and --winner_column."
        )
    if len(set(given.values())) < 3:
        raise ValueError(
            "--first_column, --second_column and --winner_column name one column twice; they are three columns."
        )


def _no_completions_message(table: Table, available: list[str], names: ColumnNames, is_text: bool) -> str:
    pair = names.pair(is_text)
    missing = next(name for name in pair if name not in available)
    option = next(item.name for item in fields(ColumnNames) if getattr(names, item.name) == missing)
    advice = (
        f"Rows need {pair[0]!r} and {pair[1]!r}, or {names.several(is_text)!r}; if they go by another name, say it "
        f"with --{option} and the like."
    )
    if is_text and names.chosen_index_column in available:
        advice += " These rows name vectors: give the file of vectors with --embeddings."
    return unknown_column_message(missing, available, table.name, advice + proposal(table, names))
