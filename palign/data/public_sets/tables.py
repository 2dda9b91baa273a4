"""Rows of a public data set as it is published, one after another: a file, a folder of files, or a name on the hub.

Nothing is checked here but that a row is a row; a table larger than the memory can be read.
"""

import csv
import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palign.data.rows.files import SUFFIXES, file_rows, suffix_of

__all__ = ["find_files", "stream_table"]


def stream_table(source: Any, *, table: str | None = None, split: str = "train") -> Iterator[dict[str, Any]]:
    """Rows of one table.

    Args:
        source: rows that are read already; a file; a folder with the table as a file (`<table>.jsonl`), as a folder of
            parts (`<table>/…​.parquet`) or, without a name, as its data files; or a hub name like "org/name".
        table: which of several tables (the configuration of a hub data set).
        split: of a hub data set, or of a folder whose files are named after splits.

    Raises:
        FileNotFoundError, ValueError: nothing there, or a file that cannot be read.
    """
    if not isinstance(source, (str, Path)):
        yield from source
        return
    path = Path(source)
    if path.is_file():
        yield from _stream_file(path)
    elif path.is_dir():
        for file in find_files(path, table=table, split=split):
            yield from _stream_file(file)
    elif suffix_of(path) in SUFFIXES or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise FileNotFoundError(
            f"There is no file or folder {str(source)!r} here. Give a file ({', '.join(SUFFIXES)}), a folder of such, "
            "or the name of a data set on the hub (org/name)."
        )
    else:
        yield from _stream_hub(str(source), table, split)


def find_files(folder: Path, *, table: str | None = None, split: str = "train") -> list[Path]:
    """The data files of a table, in order: those named after it or in a folder named after it; of several splits, the
    one asked for."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and suffix_of(path) in SUFFIXES]
    if table is not None:
        files = [path for path in files if table in (_stem(path), *path.relative_to(folder).parts[:-1])]
    split_files = [path for path in files if _is_of(split, path, folder)] or files
    if not split_files:
        what = f"no table {table!r}" if table else "no data file"
        raise ValueError(f"The folder {folder} holds {what}; looked for {', '.join(SUFFIXES)} in it and below.")
    others = {_stem(path).split("-")[0] for path in split_files}
    if table is None and len(others) > 1:
        raise ValueError(
            f"The folder {folder} holds several tables ({', '.join(sorted(others)[:6])}) and no split {split!r}; name "
            "one file."
        )
    return split_files


def _stem(path: Path) -> str:
    return path.name[: -len(suffix_of(path))]


def _is_of(split: str, path: Path, folder: Path) -> bool:
    return split in (_stem(path).split("-")[0], *path.relative_to(folder).parts[:-1])


def _stream_file(path: Path) -> Iterator[dict[str, Any]]:
    suffix = suffix_of(path)
    if suffix.startswith(".jsonl"):
        yield from _stream_lines(path)
    elif suffix.startswith(".csv"):
        csv.field_size_limit(sys.maxsize)
        with _opened(path) as file:
            for row in (reader := csv.DictReader(file)):
                if None in row or None in row.values():
                    n = len(reader.fieldnames or ())
                    raise ValueError(
                        f"{path.name}, line {reader.line_num}: another number of cells than the header's {n}."
                    )
                yield row
    elif suffix == ".parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1000):
                yield from batch.to_pylist()
    else:
        yield from file_rows(path)


def _stream_lines(path: Path) -> Iterator[dict[str, Any]]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path.name}, line {number} (counting from 1): not JSON ({error.msg}).") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path.name}, line {number} (counting from 1): no object.")
            yield row


def _opened(path: Path) -> Any:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _stream_hub(name: str, table: str | None, split: str) -> Iterator[dict[str, Any]]:
    import datasets

    try:
        yield from datasets.load_dataset(name, table, split=split, streaming=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{name!r} is no file or folder here, and as a data set of the hub it cannot be had "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}). Without a network, download it first and "
            "give the folder."
        ) from error
