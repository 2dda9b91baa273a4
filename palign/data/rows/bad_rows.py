"""Rows that cannot be read: all of them in one pass, sorted by kind, and named by the line an editor shows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from palign.data.rows.table import Table

__all__ = ["BadRow", "BadRows"]

N_SHOWN = 3  # of each kind
MOST_KINDS = 12
_PLACE = re.compile(r"^.*?row \d+(?: \(counting from 0\))?, (column .+?)(?=[:,] )[:,] (.*)$", re.S)
_ROW = re.compile(r"^[^\n]*?, row \d+(?: \(counting from 0\))?: (.*)$", re.S)
_VALUE = re.compile(r"'(?:[^'\\]|\\.)*'…?|\"(?:[^\"\\]|\\.)*\"…?|-?\d[\d,.]*")


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be read.

    Attributes:
        row: its number, from 0; None for a line that is no row at all.
        line: the line of the file, from 1; None where there are no lines.
        error: what is wrong with it.
    """

    row: int | None
    line: int | None
    error: Exception

    @property
    def place(self) -> str:
        """`line 7`, or `row 5` where there are no lines."""
        return f"row {self.row}" if self.line is None else f"line {self.line}"


class BadRows:
    """What could not be read of one table.

    Args:
        table: the rows.
        mode: "stop" raises, "drop" says what is left out.
    """

    def __init__(self, table: Table, mode: str) -> None:
        self.table, self.mode = table, mode
        start = f"{table.name}, " if table.name else ""
        self.rows = [
            BadRow(None, bad.line, ValueError(f"{start}line {bad.line} (counting from 1): {bad.reason}"))
            for bad in table.ragged
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: int, error: Exception) -> None:
        """Row `row` is bad."""
        self.rows.append(BadRow(row, self.table.line(row), error))

    def settle(self, n_kept: int) -> list[str]:
        """Raise where there are bad rows and the mode says stop, or nothing else is left; else sentences for a
        summary.

        Raises:
            TypeError, ValueError: that of the only bad row; of several, one list by kind.
        """
        if not self.rows:
            return []
        if self.mode == "stop" or n_kept == 0:
            self._stop()
        return [f"dropped {len(self.rows):,} bad rows (--bad_rows drop): {'; '.join(self._kinds())}"]

    def _stop(self) -> NoReturn:
        bad = self.rows[0]
        if len(self.rows) == 1:
            where = "" if bad.row is None or bad.line is None else f" (line {bad.line} of the file)"
            raise type(bad.error)(f"{bad.error}{where}") from None
        n_all = len(self.table) + len(self.table.ragged)
        start = f"{self.table.name}: " if self.table.name else ""
        kinds = self._kinds()
        if len(kinds) == 1 and len(self.rows) == n_all:  # no slip of a row, but a column that is another
            raise type(bad.error)(f"{bad.error} So it is in all {n_all:,} rows.")
        kind = TypeError if all(isinstance(bad.error, TypeError) for bad in self.rows) else ValueError
        raise kind(
            f"{start}{len(self.rows):,} of {n_all:,} rows are bad: {'; '.join(kinds)}. Mend them, or leave them out "
            "with --bad_rows drop."
        )

    def _kinds(self) -> list[str]:
        """`12 × column 'answer_b': nothing is there … (lines 3, 8, 15, …)`, the commonest first."""
        kinds: dict[str, list[BadRow]] = {}
        for bad in self.rows:
            kinds.setdefault(_VALUE.sub("…", _fault(bad)), []).append(bad)
        by_count = sorted(kinds.values(), key=len, reverse=True)
        texts = [f"{len(rows):,} × {_fault(rows[0])} ({_places(rows)})" for rows in by_count[:MOST_KINDS]]
        rest = sum(map(len, by_count[MOST_KINDS:]))
        return [*texts, f"{rest:,} of other kinds"] if rest else texts


def _fault(bad: BadRow) -> str:
    """The column and what is wrong, without the place and the advice."""
    text = str(bad.error)
    if (m := _PLACE.match(text)) is not None:
        text = f"{m[1]}: {m[2]}"
    elif (m := _ROW.match(text)) is not None:
        text = m[1]
    elif bad.row is None:
        text = re.sub(r"^.*?line \d+ \(counting from 1\): ", "", text)
    text = text.split(". ")[0]
    return (text if len(text) <= 160 else text[:159] + "…").rstrip(".")


def _places(rows: Sequence[BadRow]) -> str:
    what = rows[0].place.split(" ")[0] + ("s" if len(rows) > 1 else "")
    numbers = ", ".join(bad.place.split(" ")[1] for bad in rows[:N_SHOWN])
    return f"{what} {numbers}{', …' if len(rows) > N_SHOWN else ''}"
