"""Facts as a small table for a notebook, and rows of a data frame as a model takes them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["columns_of", "facts_table", "plain_list"]


def facts_table(title: str, facts: Mapping[str, object]) -> str:
    """HTML of a title and a row for each fact; every text is escaped."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(str(name))}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f"<table><caption style='text-align:left'><b>{escape(title)}</b></caption>{rows}</table>"


def plain_list(values: Any) -> Any:
    """A column of a data frame as a list, in its order; anything else as it is."""
    return values.tolist() if hasattr(values, "iloc") and hasattr(values, "tolist") else values


def columns_of(frame: "pd.DataFrame", names: Sequence[str]) -> list[list[Any]]:
    """Columns of a data frame as lists.

    Raises:
        TypeError: no data frame.
        ValueError: a column is missing (those that are there are named), or a value is.
    """
    if not hasattr(frame, "columns") or not hasattr(frame, "iloc"):
        raise TypeError(f"a {type(frame).__name__} was given; give a pandas DataFrame with a row for each completion.")
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"The frame has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}. Name yours: "
            "prompt_column=…, completion_column=…, annotator_column=…."
        )
    columns = [frame[name] for name in names]
    for name, column in zip(names, columns, strict=True):
        if bool((empty := column.isna()).any()):
            raise ValueError(f"Column {name!r} is empty in row {int(empty.to_numpy().argmax())} (counting from 0).")
    return [column.tolist() for column in columns]
