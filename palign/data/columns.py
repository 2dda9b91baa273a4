"""What the columns of preference rows are called, and whether those that are needed are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from palign.data.checks import shorten, unknown_column_message

__all__ = ["ColumnNames", "check_columns"]

PERSON_WORDS = ("worker", "user", "rater", "annotator", "labeler", "labeller", "participant", "person", "judge")


def _named(default: str, text: str) -> Any:
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


def check_columns(rows: Sequence[Any], names: ColumnNames, *, is_text: bool, source: str) -> list[str]:
    """All columns that any row has, in order of appearance.

    Raises:
        TypeError: a row is no dict.
        ValueError: there are no rows, or a column that is needed or was named is in none of them.
    """
    start = f"{source}: t" if source else "T"
    if not rows:
        raise ValueError(f"{start}here are no rows; at least one judgement is needed.")
    for row, record in enumerate(rows):
        if not isinstance(record, Mapping):
            raise TypeError(f"{start}he row {row} (counting from 0) is {shorten(record)}, not a dict.")
    available = list(dict.fromkeys(name for record in rows for name in record))
    for item in fields(ColumnNames):
        name = getattr(names, item.name)
        if name in available or (name == item.default and item.name != "annotator_column"):
            continue
        advice = f"Say which one it is with --{item.name}."
        likely = [column for column in available if column.lower().startswith(PERSON_WORDS)]
        if item.name == "annotator_column" and likely:
            advice = f"If {likely[0]!r} holds the person who judged, say --annotator_column {likely[0]}."
        raise ValueError(unknown_column_message(name, available, source, advice))
    if names.several(is_text) not in available and not set(names.pair(is_text)) <= set(available):
        raise ValueError(_no_completions_message(available, names, is_text, source))
    return available


def _no_completions_message(available: list[str], names: ColumnNames, is_text: bool, source: str) -> str:
    pair = names.pair(is_text)
    missing = next(name for name in pair if name not in available)
    option = next(item.name for item in fields(ColumnNames) if getattr(names, item.name) == missing)
    advice = (
        f"Rows need {pair[0]!r} and {pair[1]!r}, or {names.several(is_text)!r}; if they go by another name, say it "
        f"with --{option} and the like."
    )
    if is_text and names.chosen_index_column in available:
        advice += " These rows name vectors: give the file of vectors with --embeddings."
    return unknown_column_message(missing, available, source, advice)
