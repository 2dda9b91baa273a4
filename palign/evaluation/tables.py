"""Checks of a tidy table, and its groups as integers: what stands between a user's data frame and the arithmetic."""

import difflib
from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["MISSING", "check_columns", "check_numbers", "group_labels"]

MISSING = "(missing)"


def check_columns(table: pd.DataFrame, wanted: Sequence[str]) -> None:
    """Raise ValueError for an empty table or a column that it lacks, offering the nearest names."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"the table is a {type(table).__name__}; give a pandas DataFrame with one row per judgement.")
    available = [str(name) for name in table.columns]
    for name in wanted:
        if name in table.columns:
            continue
        near = difflib.get_close_matches(str(name), available, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(f"the table has no column {name!r}. {hint}It has: {', '.join(available) or 'no columns'}.")
    if not len(table):
        raise ValueError("the table has no rows; there is nothing to report. Give at least one judgement.")


def check_numbers(table: pd.DataFrame, metrics: Sequence[str]) -> np.ndarray:
    """The metric columns as (n_rows, n_metrics) float64; text, NaN or infinity: ValueError with row and column."""
    if not metrics:
        raise ValueError("no metric is named; give the name of at least one numeric column.")
    columns = []
    for name in metrics:
        try:
            values = table[name].to_numpy(dtype=float, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"column {name!r} does not hold numbers ({error}); a metric is a numeric column."
            ) from error
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            row = table.iloc[bad[0]]
            who = f" (annotator {row['annotator_id']!r})" if "annotator_id" in table else ""
            raise ValueError(
                f"column {name!r} is {values[bad[0]]} in row {bad[0]:,} (counting from 0){who}, and is not a finite "
                f"number in {len(bad):,} of {len(values):,} rows. A mean over them would be a guess: drop these rows "
                "on purpose, or find out why the model gave no number there."
            )
        columns.append(values)
    return np.stack(columns, axis=1)


def group_labels(table: pd.DataFrame, columns: Sequence[str]) -> tuple[np.ndarray, pd.Index]:
    """Group of each row as integers (n_rows,) and the groups' labels in reading order, "(missing)" last.

    Several columns give a MultiIndex of the combinations that occur; none gives the one group "(everybody)".
    """
    if not columns:
        return np.zeros(len(table), dtype=np.int64), pd.Index(["(everybody)"], name="group")
    texts = [_texts(table[name]) for name in columns]
    if len(columns) == 1:
        labels = sorted(texts[0].unique(), key=_reading_order)
        index = pd.Index(labels, name=columns[0], dtype=object)
        return index.get_indexer(texts[0]).astype(np.int64), index
    rows = pd.MultiIndex.from_arrays(texts, names=list(columns))
    labels = sorted(rows.unique(), key=lambda label: [_reading_order(part) for part in label])
    index = pd.MultiIndex.from_tuples(labels, names=list(columns))
    return index.get_indexer(rows).astype(np.int64), index


def _texts(column: pd.Series) -> pd.Series:
    """Labels of a column's values; where values are of one type each different one is read once."""
    if column.dtype == object:  # 1, 1.0 and True are one key and three labels
        return column.map(_label)
    codes, values = pd.factorize(column, use_na_sentinel=False)
    return pd.Series(np.array([_label(value) for value in values], dtype=object)[codes], index=column.index)


def _label(value: object) -> str:
    """A group's value as text: 3.0 is "3", missing values and blanks are "(missing)"."""
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return MISSING
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    text = str(value)
    return text if text.strip() else MISSING


def _reading_order(label: str) -> tuple[int, float, str]:
    """Numbers by size, then texts by alphabet, then the missing."""
    if label == MISSING:
        return (2, 0.0, label)
    try:
        return (0, float(label), label) if np.isfinite(float(label)) else (1, 0.0, label)
    except ValueError:
        return (1, 0.0, label)
