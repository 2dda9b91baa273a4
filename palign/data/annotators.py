"""People and their rows: any id ⇄ 0 … n−1."""

import json
import math
import numbers
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from palign.reading import read_json

__all__ = ["AnnotatorIndex", "canonical_id", "canonical_ids"]

MANY = 10_000  # from here on a hash table in C is worth the import of pandas


def canonical_id(value: object) -> str:
    """The one text under which an annotator is known: 7, np.int64(7), 7.0 and "7" are one person, "7".

    Texts are kept letter for letter ("007", "a.b/c", " x" and "x" are four people).

    Raises:
        TypeError: neither a text nor a number (a bool, None, a list).
        ValueError: an empty or blank text, NaN, an infinite number or one with a fraction.
    """
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"An annotator id is empty ({value!r}). Every row needs the id of the person who judged.")
        return str(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"An annotator id must be a text or a number, not {value!r} ({type(value).__name__}). Every row needs the "
            "id of the person who judged."
        )
    if isinstance(value, numbers.Integral):
        return str(int(value))
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"An annotator id is {number}. Every row needs the id of the person who judged.")
    if not number.is_integer():
        raise ValueError(
            f"An annotator id is {number}, a number with a fraction. Give a whole number, or a text if this is a name."
        )
    return str(int(number))


def canonical_ids(values: Iterable[object]) -> np.ndarray:
    """`canonical_id` of many, as an object array (n,) in which equal ids are one string in memory.

    Raises:
        TypeError, ValueError: as `canonical_id`, with the position (counting from 0) of the first offender.
    """
    unique, inverse = _unique_ids(values)
    return unique[inverse]


def _unique_ids(values: Iterable[object]) -> tuple[np.ndarray, np.ndarray]:
    """Canonical ids in order of first appearance (n_unique,) object, and where each value went (n,) int64."""
    if isinstance(values, (str, bytes)):
        raise TypeError(f"Annotator ids must come as a list or an array, not as the single text {values!r}.")
    if not isinstance(values, np.ndarray):
        values = np.fromiter(values, dtype=object)
    if len(values) >= MANY and _is_of_one_kind(values):
        import pandas

        inverse, unique = pandas.factorize(values)
        return np.fromiter(map(canonical_id, unique.tolist()), dtype=object, count=len(unique)), inverse
    row_of: dict[str, int] = {}
    inverse = np.empty(len(values), dtype=np.int64)
    for position, value in enumerate(values.tolist()):
        try:
            name = canonical_id(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (position {position}, counting from 0)") from None
        inverse[position] = row_of.setdefault(name, len(row_of))
    return np.fromiter(row_of, dtype=object, count=len(row_of)), inverse


def _is_of_one_kind(values: np.ndarray) -> bool:
    """Whether a hash table may find the unique ones: in a mixture it would take True for 1, and lose NaN."""
    if values.dtype.kind in "iuf":
        return bool(np.isfinite(values).all() and (values == np.trunc(values)).all())
    if values.dtype.kind != "O":
        return False
    from pandas.api.types import infer_dtype

    return infer_dtype(values, skipna=False) == "string" and all(name.strip() for name in set(values))


class AnnotatorIndex:
    """Ordered, unique annotators; each has the number of their row in every per-annotator table.

    Args:
        ids: ids of any kind `canonical_id` takes, each person once.
    """

    def __init__(self, ids: Iterable[object] = ()):
        self._ids: list[str] = []
        self._row_of: dict[str, int] = {}
        self.add(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, value: object) -> bool:
        try:
            return canonical_id(value) in self._row_of
        except (TypeError, ValueError):
            return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnnotatorIndex) and self._ids == other._ids

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self._ids[:3])) + (", …" if len(self) > 3 else "")
        return f"AnnotatorIndex({len(self)} annotators: {shown})"

    @property
    def ids(self) -> list[str]:
        """The ids in the order of their rows (a copy)."""
        return list(self._ids)

    def index(self, value: object) -> int:
        """The row of one annotator; ValueError if it is nobody here."""
        row = self._row_of.get(canonical_id(value))
        if row is None:
            raise ValueError(_strangers_message([canonical_id(value)], self))
        return row

    def indices(self, ids: Iterable[object], unknown: int | None = None) -> np.ndarray:
        """Rows (n,) int64 of many annotators.

        Args:
            unknown: the number that stands for people who are not here (-1, say); None makes them a ValueError
                that names up to three.
        """
        unique, inverse = _unique_ids(ids)
        strangers = [name for name in unique if name not in self._row_of] if unknown is None else []
        if strangers:
            raise ValueError(_strangers_message(list(dict.fromkeys(strangers)), self))
        rows = np.fromiter((self._row_of.get(name, unknown) for name in unique), dtype=np.int64, count=len(unique))
        return rows[inverse]

    def add(self, ids: Iterable[object]) -> np.ndarray:
        """Append people; returns their new rows (n,) int64. Someone already here, or named twice, is a ValueError."""
        names = canonical_ids(ids).tolist()
        first = len(self._ids)
        rows = dict(zip(names, range(first, first + len(names)), strict=True))
        if len(rows) < len(names) or not rows.keys().isdisjoint(self._row_of):
            seen = set(self._row_of)
            name = next(name for name in names if name in seen or seen.add(name))
            fault = "is in the index already" if name in self._row_of else "is named twice"
            raise ValueError(
                f"Annotator {name!r} {fault}; every person has one row. Remember that 7, 7.0 and '7' are one "
                "person. Leave out the repetition, or look the row up with `indices`."
            )
        self._ids.extend(names)
        self._row_of.update(rows)
        return np.arange(first, len(self._ids), dtype=np.int64)

    def save(self, path: str | Path) -> None:
        """Write the ids as a JSON list (UTF-8) in the order of their rows."""
        text = "[\n" + ",\n".join(json.dumps(name, ensure_ascii=False) for name in self._ids) + "\n]\n"
        Path(path).write_bytes(text.encode("utf-8", "surrogatepass"))

    @classmethod
    def load(cls, path: str | Path) -> "AnnotatorIndex":
        """Read what `save` wrote; ValueError when the file is not a JSON list of texts."""
        ids = read_json(path, list, surrogates=True)
        wrong = next((value for value in ids if not isinstance(value, str)), None)
        if wrong is not None or len(set(ids)) < len(ids):
            fault = "an id is there twice" if wrong is None else f"{str(wrong)[:60]!r} is no text"
            raise ValueError(f"{path}: {fault}; it must be a list of annotator ids, each once.")
        return cls(ids)


def _strangers_message(strangers: list[str], index: AnnotatorIndex) -> str:
    shown = ", ".join(map(repr, strangers[:3])) + (f" and {len(strangers) - 3} more" if len(strangers) > 3 else "")
    who = "Annotator" if len(strangers) == 1 else "Annotators"
    known = ", ".join(map(repr, index.ids[:3]))
    return (
        f"{who} {shown} not among the {len(index)} known here{f' ({known}, …)' if known else ''}. Check the ids, or "
        "treat strangers as unknown (the population's mean), or fit them first (fit_annotators, add_annotators)."
    )
