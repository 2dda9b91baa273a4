"""CSV, TSV and XLSX: tables whose every cell is a text ("007" stays "007"), read strictly.

A row that has another number of cells than the header is never read as if a cell were missing or too many: it is kept
aside with its line.
"""

import array
import csv
import io
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from palign.data.rows.checks import shorten
from palign.data.rows.table import CellRows, RaggedLine, Table

__all__ = ["csv_table", "xlsx_table"]

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
N_SNIFFED = 200  # lines
MOST_UNPACKED = 4 << 30  # bytes of a workbook
SHEETS = "xl/worksheets/"


def csv_table(text: str, name: str, path: str = "", *, separator: str | None = None) -> Table:
    """A table of texts; the separator is what gives every line as many cells as the header, and is noted.

    Raises:
        ValueError: no rows, a header that names a column twice or not at all, a quote that is never closed.
    """
    text, separator, skipped = _excel_line(text, separator)
    notes = []
    if separator is None:
        separator = _separator(text)
        if separator != ",":
            notes.append(f"the cells are separated by {SEPARATORS[separator]} ({separator!r})")
    header, cells, lines, ragged = _records(text, separator, name, skipped)
    header, cells = _named_columns(header, cells, name)
    if not cells and not ragged:
        raise ValueError(f"{name} has a header and no rows; at least one judgement is needed.")
    if not cells:
        first = ragged[0]
        raise ValueError(
            f"{name}, line {first.line}: {first.reason}, and so it is on all of the {len(ragged):,} lines below the "
            f"header ({shorten(separator.join(header))}). Quote cells that hold {SEPARATORS[separator]}, or take off "
            "what stands too much at the end of the lines."
        )
    return Table(name, CellRows(header, cells), lines, ragged, notes, cells_are_text=True, path=path)


def _excel_line(text: str, separator: str | None) -> tuple[str, str | None, int]:
    """Excel's first line `sep=;` names the separator and is no header."""
    first, _, rest = text.partition("\n")
    stated = re.fullmatch(r"\s*sep=(.)\s*", first)
    if stated and stated[1] in SEPARATORS:
        return rest, stated[1], 1
    return text, separator, 0


def _separator(text: str) -> str:
    """Of those in the header, the one that gives the most lines as many cells as the header."""
    sample = text[:1_000_000]
    rows_by = {}
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
        try:
            rows = [row for _, row in zip(range(N_SNIFFED), reader, strict=False) if row]
        except csv.Error:
            rows = []
        if rows and len(rows[0]) > 1:
            width = len(rows[0])
            same = sum(len(row) == width for row in rows[1:]) / max(len(rows) - 1, 1)
            rows_by[separator] = (same > 0.5, width, same)
    return max(rows_by, key=rows_by.__getitem__) if rows_by else ","


def _records(
    text: str, separator: str, name: str, skipped: int
) -> tuple[list[str], list[list[str]], "array.array[int]", list[RaggedLine]]:
    """Header, rows of as many cells, the line where each begins, and the lines that are no rows."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    cells: list[list[str]] = []
    lines, ragged, known = array.array("q"), [], {}
    begins, n_header = 1 + skipped, 0
    try:
        for row in reader:
            line, begins = begins, reader.line_num + 1 + skipped
            if not row:
                continue
            if not header:
                header, n_header = [cell.strip() for cell in row], len(row)
            elif row[0].strip() == header[0] and [cell.strip() for cell in row] == header:
                ragged.append(RaggedLine(line, "the header once more, as where files were put behind one another"))
            elif len(row) == n_header:
                # short cells (people, labels, groups) come again and again: one text for all of them
                cells.append([known.setdefault(c, c) if len(c) < 25 and len(known) < 100_000 else c for c in row])
                lines.append(line)
            else:
                what = "1 cell" if len(row) == 1 else f"{len(row)} cells"
                ragged.append(RaggedLine(line, f"{what}, header has {n_header}"))
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {begins}: not CSV ({error}): a quote there is opened and not closed, or stands in the "
            'middle of a cell. Quote whole cells, and write a quote within one twice ("").'
        ) from error
    return header, cells, lines, ragged


def _named_columns(header: list[str], cells: list[list[str]], name: str) -> tuple[list[str], list[list[str]]]:
    """Columns without a name must be empty and are left out; a name that is there twice is an error."""
    twice = [column for column, count in Counter(header).items() if count > 1 and column]
    if twice:
        raise ValueError(f"{name}: the header names the column {twice[0]!r} twice. Give every column its own name.")
    if len(header) == 1 or all(header):
        return header, cells
    blank = [i for i, column in enumerate(header) if not column]
    numbers = [str(n) for n in range(len(cells))]
    for i in list(blank):
        entries = [row[i] for row in cells]
        if any(entries) and not (i == 0 and entries == numbers):  # pandas writes its row numbers under no name
            filled = next(row for row, cell in enumerate(entries) if cell)
            raise ValueError(
                f"{name}: column {i + 1} has no name in the header, and its cells are not empty ({entries[filled]!r} "
                f"in row {filled}, counting from 0). Name the column or delete it."
            )
    kept = [i for i in range(len(header)) if i not in blank]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in cells]


def xlsx_table(path: Path, sheet: str | None) -> Table:
    """A sheet of a workbook (the only one that holds anything, or the one named) as a table of texts.

    Raises:
        ImportError: the package openpyxl is not there.
        ValueError: no readable workbook, several sheets and none named, a formula that ended in an error.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise ImportError(
            f"{path.name}: spreadsheets need the package openpyxl: pip install 'palign[xlsx]'; or save the "
            "sheet as CSV."
        ) from error
    try:
        with zipfile.ZipFile(path) as parts:
            n_bytes = sum(part.file_size for part in parts.infolist())
            if n_bytes > MOST_UNPACKED:
                raise ValueError(f"unpacked it is {n_bytes:,} bytes, and {MOST_UNPACKED:,} are the limit")
            has_formulas = any(
                re.search(rb"<f[ >]", parts.read(part)) for part in parts.namelist() if part.startswith(SHEETS)
            )
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # openpyxl lets what its parts raise through: KeyError, XML errors, BadZipFile
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(
            f"{path.name} is no readable workbook ({text}). Save it as .xlsx again, or as CSV."
        ) from error
    if has_formulas:
        _refuse_formulas_without_values(book, openpyxl.load_workbook(path, read_only=True), path.name)
    sheets = {page.title: _sheet_rows(page) for page in book.worksheets}
    filled = [title for title, rows in sheets.items() if rows]
    if sheet is not None and sheet not in sheets:
        raise ValueError(f"{path.name} has no sheet {sheet!r}; it has {', '.join(map(repr, sheets))}.")
    if sheet is None and len(filled) != 1:
        there = ", ".join(map(repr, filled)) or "nothing"
        raise ValueError(f"{path.name} has several sheets or none: {there}. Name one with --dataset_split SHEET.")
    title = filled[0] if sheet is None else sheet
    table = _sheet_table(sheets[title], path.name, title)
    table.path = str(path)
    return table


def _sheet_rows(page: Any) -> list[tuple[int, list[str]]]:
    """(row of the sheet, cells as texts) of all rows that are not empty."""
    rows = []
    for number, row in enumerate(page.iter_rows(), start=1):
        cells = [_cell_text(cell, page.title) for cell in row]
        if any(cells):
            rows.append((number, cells))
    return rows


def _refuse_formulas_without_values(values: Any, formulas: Any, name: str) -> None:
    """ValueError for a formula that no spreadsheet program has computed: its cell would pass for an empty one."""
    for page in formulas.worksheets:
        for row, computed in zip(page.iter_rows(), values[page.title].iter_rows(), strict=False):
            for cell, value in zip(row, computed, strict=False):
                if cell.data_type == "f" and value.value is None:
                    raise ValueError(
                        f"{name}, sheet {page.title!r}, cell {cell.coordinate}: a formula ({shorten(cell.value)}) "
                        "whose value is not in the file. Open it in a spreadsheet program and save it, or paste "
                        "values in place of formulas."
                    )


def _cell_text(cell: Any, title: str) -> str:
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "e":
        raise ValueError(
            f"sheet {title!r}, cell {cell.coordinate}: {value}, a formula that ended in an error. Mend it, or paste "
            "values in place of formulas."
        )
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _sheet_table(rows: list[tuple[int, list[str]]], name: str, title: str) -> Table:
    if len(rows) < 2:
        raise ValueError(f"{name}, sheet {title!r}, has no rows below a header; at least one judgement is needed.")
    header = [cell.strip() for cell in rows[0][1]]
    while header and not header[-1]:
        header.pop()
    n, cells, lines, ragged = len(header), [], array.array("q"), []
    for number, row in rows[1:]:
        if any(row[n:]):
            ragged.append(RaggedLine(number, f"cells beyond the last of the header ({n})"))
            continue
        cells.append(row[:n] + [""] * (n - len(row)))
        lines.append(number)
    header, cells = _named_columns(header, cells, name)
    return Table(name, CellRows(header, cells), lines, ragged, [f"sheet {title!r}"], cells_are_text=True)
