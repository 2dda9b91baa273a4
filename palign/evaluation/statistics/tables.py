"""Checks of a tidy table, and its groups as integers: what stands between a user's data frame and the arithmetic."""

import difflib
from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = [
    "MISSING",
    "as_categories",
    "check_columns",
    "check_numbers",
    "group_labels",
    "is_missing",
    "label_text",
    "people_numbers",
]

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
            annotator_note = f" (annotator {row['annotator_id']!r})" if "annotator_id" in table else ""
            raise ValueError(
                f"column {name!r} is {values[bad[0]]} in row {bad[0]:,} (counting from 0){annotator_note}, and is not "
                f"a finite number in {len(bad):,} of {len(values):,} rows. A mean over them would be a guess: drop "
                "these rows on purpose, or find out why the model gave no number there."
            )
        columns.append(values)
    return np.stack(columns, axis=1)


def group_labels(table: pd.DataFrame, columns: Sequence[str]) -> tuple[np.ndarray, pd.Index]:
    """Group of each row as integers (n_rows,) and the groups' labels in reading order, "(missing)" last.

    Several columns give a MultiIndex of the combinations that occur; none gives the one group "(everybody)".
    """
    if not columns:
        return np.zeros(len(table), dtype=np.int64), pd.Index(["(everybody)"], name="group")
    parts = [_codes_and_labels(table[name]) for name in columns]
    if len(columns) == 1:
        return parts[0][0], pd.Index(parts[0][1], name=columns[0], dtype=object)
    shape = tuple(len(labels) for _, labels in parts)
    codes, cells = pd.factorize(np.ravel_multi_index([codes for codes, _ in parts], shape), sort=True)
    places = zip(np.unravel_index(cells, shape), (labels for _, labels in parts), strict=True)
    names = [np.array(labels, dtype=object)[place] for place, labels in places]
    return codes.astype(np.int64), pd.MultiIndex.from_arrays(names, names=list(columns))


def label_text(label: object) -> str:
    """A group as text: "DE × 18-25" of an intersection."""
    return " × ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def is_missing(labels: pd.Index) -> np.ndarray:
    """(n_groups,) whether a group is, or an intersection has, the one of those without a value."""
    return np.array(
        [MISSING in label if isinstance(label, tuple) else label == MISSING for label in labels], dtype=bool
    )


def people_numbers(column: pd.Series) -> np.ndarray:
    """Number of each row's person (n_rows,), 0 … n−1 in order of first appearance; ids are one if their texts are."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return pd.factorize(column.astype(str))[0]
    return pd.factorize(pd.factorize(column.cat.categories.astype(str))[0][column.cat.codes])[0]


def as_categories(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of texts as categories in order of appearance, so that many frames of one table read each text once."""
    texts = [name for name in dict.fromkeys(columns) if isinstance(table[name].dtype, pd.StringDtype)]
    return table.assign(**{name: pd.Categorical.from_codes(*pd.factorize(table[name])) for name in texts})


def _codes_and_labels(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """A column as integers (n_rows,) into its labels, in reading order; where values are of one type each different
    one is read once."""
    if column.dtype == object:  # 1, 1.0 and True are one key and three labels
        column = column.map(_label)
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, values = column.cat.codes.to_numpy(), [*column.cat.categories, None]  # −1 is missing
    else:
        codes, values = pd.factorize(column, use_na_sentinel=False)
    occurs = np.bincount(codes.astype(np.int64) % len(values), minlength=len(values)) > 0
    texts = [_label(value) if there else MISSING for value, there in zip(values, occurs, strict=True)]
    labels = sorted({text for text, there in zip(texts, occurs, strict=True) if there}, key=_reading_order)
    number = {label: place for place, label in enumerate(labels)}
    return np.array([number.get(text, 0) for text in texts], dtype=np.int64)[codes], labels


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
