"""Rows as they stand in their source, not yet checked."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CellRows", "RaggedLine", "Table"]


@dataclass(frozen=True)
class RaggedLine:
    """A line of a text table that cannot be a row: where it stands, and why, in a phrase."""

    line: int
    reason: str


class CellRows(Sequence[Mapping[str, Any]]):
    """Rows of a text table: the cells are kept, a row becomes a dict when it is asked for.

    A dict for each of a million rows costs more memory than the texts in it. An empty cell is None.

    Args:
        names: of the columns.
        cells: (n_rows) lists of as many texts.
    """

    def __init__(self, names: Sequence[str], cells: list[list[str]]) -> None:
        self.names, self.cells = list(names), cells

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, row: int) -> dict[str, Any]:  # type: ignore[override]
        return dict(zip(self.names, [cell or None for cell in self.cells[row]], strict=True))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names = self.names
        for cells in self.cells:
            yield dict(zip(names, [cell or None for cell in cells], strict=True))

    def column(self, name: str) -> list[Any]:
        """The cells of one column, (n_rows)."""
        at = self.names.index(name)
        return [cells[at] or None for cells in self.cells]


@dataclass
class Table:
    """Rows and where they come from.

    Attributes:
        name: what messages call them, "" for rows in memory.
        rows: mappings from column to value; nothing is checked.
        lines: the line of the file where each row begins, as an editor counts them; None where there are no lines.
        ragged: lines that are no rows.
        notes: what was assumed in reading, a sentence each.
        cells_are_text: every value is a text: a list or a number in a cell still has to be parsed.
        has_loose_numbers: ids may have been texts once, and were turned into numbers by whoever saved them.
        path: where it lies, for a proposed command line; "" for rows in memory.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    lines: Sequence[int] | None = None
    ragged: list[RaggedLine] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cells_are_text: bool = False
    has_loose_numbers: bool = False
    path: str = ""

    @classmethod
    def of(cls, rows: "Table | Iterable[Mapping[str, Any]]", name: str = "") -> "Table":
        """A table as it is; of anything else, its rows under this name.

        Of a pandas DataFrame an index with a name is a column.

        Raises:
            ValueError: a DataFrame has a column twice.
        """
        if isinstance(rows, Table):
            return rows
        if hasattr(rows, "columns") and hasattr(rows, "iloc"):
            return cls(name, _rows_of_frame(rows))
        return cls(name, rows if isinstance(rows, (list, tuple, CellRows)) else list(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return self.rows[row]

    def columns(self) -> list[str]:
        """Every column that any row has, in order of appearance."""
        if isinstance(self.rows, CellRows):
            return list(self.rows.names)
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def column(self, name: str) -> list[Any]:
        """What the rows hold in one column, (n_rows); None where a row lacks it."""
        if isinstance(self.rows, CellRows):
            return self.rows.column(name) if name in self.rows.names else [None] * len(self.rows)
        return [row.get(name) for row in self.rows]

    def line(self, row: int) -> int | None:
        """The line of the file where a row begins."""
        return None if self.lines is None else int(self.lines[row])

    @classmethod
    def joined(cls, tables: "Sequence[Table]", name: str) -> "Table":
        """Several files of one split, one after another."""
        if len(tables) == 1:
            return tables[0]
        rows = [row for table in tables for row in table.rows]
        notes = list(dict.fromkeys(note for table in tables for note in table.notes))
        ragged = [RaggedLine(bad.line, f"{bad.reason} ({table.name})") for table in tables for bad in table.ragged]
        return cls(
            name,
            rows,
            None,
            ragged,
            notes,
            all(table.cells_are_text for table in tables),
            any(table.has_loose_numbers for table in tables),
        )


def _rows_of_frame(frame: Any) -> list[dict[str, Any]]:
    """Rows of a pandas DataFrame."""
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    twice = frame.columns[frame.columns.duplicated()].tolist()
    if twice:
        raise ValueError(f"The DataFrame has the column {twice[0]!r} twice. Give every column its own name.")
    columns = {str(name): frame[name].tolist() for name in frame.columns}
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
