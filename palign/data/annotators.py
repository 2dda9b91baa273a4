"""People and their rows: any id ⇄ 0 … n−1."""

import json
import math
import numbers
from collections.abc import Iterable
from pathlib import Path

import numpy as np

__all__ = ["AnnotatorIndex", "canonical_id", "canonical_ids"]


def canonical_id(value: object) -> str:
    """The one text under which an annotator is known: 7, np.int64(7), 7.0 and "7" are one person, "7".

    Texts are kept letter for letter ("007", "a.b/c", " x" and "x" are four people).

    Raises:
        TypeError: neither a text nor a number (a bool, None, a list).
        ValueError: an empty or blank text, NaN or an infinite number.
    """
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"An annotator id is empty ({value!r}). Every row needs the id of the person who judged.")
        return str(value)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"An annotator id must be a text or a number, not {value!r} ({type(value).__name__}). "
            "Every row needs the id of the person who judged."
        )
    if isinstance(value, numbers.Integral):
        return str(int(value))
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"An annotator id is {number}. Every row needs the id of the person who judged.")
    return str(int(number)) if number.is_integer() else repr(number)


def canonical_ids(values: Iterable[object]) -> np.ndarray:
    """`canonical_id` of many, as an object array (n,) in which equal ids are one string in memory.

    Arrays of numbers are done by their unique values, so millions cost a second.

    Raises:
        TypeError, ValueError: as `canonical_id`, with the position (counting from 0) of the first offender.
    """
    if isinstance(values, (str, bytes)):
        raise TypeError(f"Annotator ids must come as a list or an array, not as the single text {values!r}.")
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf" and np.isfinite(values).all():
        unique, inverse = np.unique(values, return_inverse=True)
        return np.array([canonical_id(value) for value in unique.tolist()], dtype=object)[inverse.reshape(-1)]
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    known: dict[str, str] = {}
    canonical = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):
        try:
            name = canonical_id(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (position {position}, counting from 0)") from None
        canonical[position] = known.setdefault(name, name)
    return canonical


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
        names = canonical_ids(ids)
        missing = -1 if unknown is None else unknown
        rows = np.fromiter((self._row_of.get(name, missing) for name in names), dtype=np.int64, count=len(names))
        if unknown is None and len(rows) and rows.min() < 0:
            raise ValueError(_strangers_message(list(dict.fromkeys(names[rows < 0])), self))
        return rows

    def add(self, ids: Iterable[object]) -> np.ndarray:
        """Append people; returns their new rows (n,) int64. Someone already here, or named twice, is a ValueError."""
        names = canonical_ids(ids)
        seen: set[str] = set()
        for name in names:
            if name in self._row_of or name in seen:
                fault = "is in the index already" if name in self._row_of else "is named twice"
                raise ValueError(
                    f"Annotator {name!r} {fault}; every person has one row. Remember that 7, 7.0 and '7' are one "
                    "person. Leave out the repetition, or look the row up with `indices`."
                )
            seen.add(name)
        first = len(self._ids)
        self._ids.extend(names)
        self._row_of.update(zip(names, range(first, len(self._ids)), strict=True))
        return np.arange(first, len(self._ids), dtype=np.int64)

    def save(self, path: str | Path) -> None:
        """Write the ids as a JSON list (UTF-8) in the order of their rows."""
        text = "[\n" + ",\n".join(json.dumps(name, ensure_ascii=False) for name in self._ids) + "\n]\n"
        Path(path).write_bytes(text.encode("utf-8", "surrogatepass"))

    @classmethod
    def load(cls, path: str | Path) -> "AnnotatorIndex":
        """Read what `save` wrote; ValueError when the file is not a JSON list of texts."""
        try:
            ids = json.loads(Path(path).read_bytes().decode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}); a JSON list of annotator ids was expected.") from error
        if not isinstance(ids, list):
            raise ValueError(f"{path} holds a {type(ids).__name__}; a JSON list of annotator ids was expected.")
        return cls(ids)


def _strangers_message(strangers: list[str], index: AnnotatorIndex) -> str:
    shown = ", ".join(map(repr, strangers[:3])) + (f" and {len(strangers) - 3} more" if len(strangers) > 3 else "")
    who = "Annotator" if len(strangers) == 1 else "Annotators"
    known = ", ".join(map(repr, index.ids[:3]))
    return (
        f"{who} {shown} not among the {len(index)} known here{f' ({known}, …)' if known else ''}. Check the ids, or "
        "treat strangers as unknown (the population's mean), or fit them first (fit_annotators, add_annotators)."
    )
