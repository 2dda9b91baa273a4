"""Rows as they stand in files and folders of files: JSONL, JSON, CSV, parquet; unchecked but for being rows."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palign.data.checks import shorten
from palign.data.columns import ColumnNames

__all__ = ["KINDS", "SUFFIXES", "file_rows", "files_of_split", "suffix_of"]

KINDS = (".jsonl", ".json", ".csv", ".parquet")
SUFFIXES = (*KINDS, ".jsonl.gz", ".json.gz", ".csv.gz")


def suffix_of(path: Path) -> str:
    """The suffix that says how a file is read, lower-case: `.jsonl.gz` as one, else the last."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), path.suffix.lower())


def files_of_split(folder: Path, split: str | None) -> list[Path]:
    """The file of a folder (or of its `data` folder) that holds a split, or its numbered parts in order."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and suffix_of(path) in SUFFIXES]
    if not files and (folder / "data").is_dir():
        return files_of_split(folder / "data", split)
    if not files:
        raise ValueError(f"The folder {folder} holds no data file; looked for {', '.join(SUFFIXES)}.")
    stems = {path: path.name[: -len(suffix_of(path))] for path in files}
    wanted = split or "train"
    found = [path for path, stem in stems.items() if stem == wanted]
    parts = [path for path, stem in stems.items() if re.fullmatch(re.escape(wanted) + r"-\d+-of-\d+", stem)]
    if not found and not parts and split is None and len(files) == 1:
        return files
    if len(found) == 1 and not parts:
        return found
    if parts and not found:
        return _all_parts(parts)
    there = ", ".join(path.name for path in files)
    if found:
        raise ValueError(
            f"The folder {folder} holds split {wanted!r} in several files ({there}). Join them into one, or name one "
            "file."
        )
    raise ValueError(
        f"The folder {folder} holds no split {wanted!r}; its data files are {there}. Name a split with "
        "--dataset_split, or give the file itself."
    )


def _all_parts(parts: list[Path]) -> list[Path]:
    """Numbered parts, if none is missing."""
    n_parts = {int(path.name.split("-of-")[1].split(".")[0]) for path in parts}
    if n_parts != {len(parts)}:
        there = ", ".join(path.name for path in parts)
        raise ValueError(f"The folder {parts[0].parent} holds {there}; these are not all the parts of one split.")
    return parts


def file_rows(path: Path, names: ColumnNames) -> list[dict[str, Any]]:
    """The rows of one file as dicts; ValueError names a file that is empty, damaged or of another kind."""
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: cannot read {suffix or 'a file without a suffix'}; {', '.join(SUFFIXES)} are.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes); at least one judgement is needed.")
    if suffix == ".parquet":
        return _parquet_rows(path)
    raw = _unpacked(path) if suffix.endswith(".gz") else path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{path.name}, line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    if not text.strip():
        raise ValueError(f"{path.name} is empty (only blanks); at least one judgement is needed.")
    if suffix.startswith(".csv"):
        return _csv_rows(text, path.name, names)
    if suffix.startswith(".jsonl"):
        return list(_json_lines(text, path.name))
    return _json_rows(text, path.name)


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path.name} is no readable parquet file ({str(error).splitlines()[0][:200]}). It may be cut off, or "
            "another kind of file under this name: copy or write it again, or give it the suffix of what it is."
        ) from error


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path.name} is no readable gzip file ({error}). It may be cut off, or not be packed at all: copy or "
            f"pack it again, or take .gz off its name."
        ) from error


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a key that is there twice Python would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        again = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise _TwiceError(again)
    return found


class _TwiceError(ValueError):
    """A key that is there twice."""


def _json_rows(text: str, name: str) -> list[dict[str, Any]]:
    """A JSON list of objects; files called .json with an object on every line are common, and read too."""
    try:
        rows = json.loads(text, object_pairs_hook=_one_of_each)
    except _TwiceError as error:
        raise ValueError(f"{name}: an object has the key {str(error)!r} twice; leave one of them out.") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return list(_json_lines(text, name))
        raise ValueError(f"{name}, line {error.lineno}: not JSON ({error.msg}).") from error
    if isinstance(rows, dict):
        raise ValueError(
            f"{name} holds one object with the keys {', '.join(list(rows)[:8])}; a list of objects (one for each "
            "judgement), or one object on each line, is needed."
        )
    if not isinstance(rows, list):
        raise ValueError(f"{name} holds {shorten(rows)}; a list of objects is needed.")
    return rows


def _json_lines(text: str, name: str) -> Iterator[dict[str, Any]]:
    # not splitlines(): JSON texts may hold U+2028 and its kin
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_one_of_each)
        except _TwiceError as error:
            raise ValueError(
                f"{name}, line {number} (counting from 1): the key {str(error)!r} is there twice; which one counts is "
                "anybody's guess. Leave one of them out."
            ) from None
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{name}, line {number} (counting from 1): not JSON ({error.msg} at character {error.colno}): "
                f"{shorten(line)}. Every line must be one object; mend or drop the line."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{name}, line {number} (counting from 1): {shorten(row)} is no object. Every line must be one row, "
                '{"annotator_id": …, "prompt": …, "chosen": …, "rejected": …}, say; mend or drop the line.'
            )
        yield row


def _csv_rows(text: str, name: str, names: ColumnNames) -> list[dict[str, Any]]:
    """Cells are texts ("007" stays "007"), empty ones are nothing; lists stand in a cell as JSON."""
    import pandas

    try:
        frame = pandas.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_filter=False, engine="c")
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
        _check_separator(text, name)
        raise ValueError(f"{name}: not CSV ({str(error).strip()}). Quote cells that hold commas or lines.") from error
    if len(frame.columns) == 1:
        _check_separator(text, name)
    rows = [{key: value or None for key, value in row.items()} for row in frame.to_dict("records")]
    if not rows:
        raise ValueError(f"{name} has a header and no rows; at least one judgement is needed.")
    lists = (names.completions_column, names.ratings_column, names.completion_indices_column)
    wholes = (names.n_ranked_column, names.chosen_index_column, names.rejected_index_column, names.prompt_index_column)
    for column in frame.columns.intersection(lists):
        for number, row in enumerate(rows):
            row[column] = _parsed(row[column], list, column, number, name)
    for column in frame.columns.intersection(wholes):
        for number, row in enumerate(rows):
            row[column] = _parsed(row[column], (int, float), column, number, name)
    return rows


def _check_separator(text: str, name: str) -> None:
    """A header without a comma and with another separator: spreadsheets write these."""
    header = text.lstrip().split("\n", 1)[0]
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if "," not in header and separator in header:
            raise ValueError(
                f"{name}: the cells are separated by {word} ({separator!r}), not commas; the header is "
                f"{shorten(header.strip())}. Save it with commas, or as JSONL or parquet."
            )


def _parsed(cell: str | None, kind: type | tuple[type, ...], column: str, row: int, name: str) -> Any:
    if cell is None:
        return None
    try:
        value = json.loads(cell)
    except json.JSONDecodeError:
        value = None
    if isinstance(value, kind):
        return value
    what = 'a list in JSON form (["…", "…"])' if kind is list else "a number"
    raise TypeError(
        f"{name}, row {row} (counting from 0), column {column!r}: {what} is needed, found {shorten(cell)}."
    )
