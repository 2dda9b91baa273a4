"""Preferences and vectors from where they lie: a file, a folder, the hub."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from palign.data.exports import folder_export, read_export, recognised_export
from palign.data.preferences import Preferences
from palign.data.rows.bad_rows import BadRows
from palign.data.rows.checks import MAX_CHARACTERS
from palign.data.rows.files import KINDS, SUFFIXES, file_table, files_of_split, suffix_of
from palign.data.rows.options import ReadingOptions
from palign.data.rows.reader import RowReader
from palign.data.rows.table import Table
from palign.data.rows.votes import is_votes, vote_table

__all__ = ["load_embeddings", "load_preferences", "raw_table", "read_rows", "read_table"]


def load_preferences(
    data: Any,
    /,
    *,
    split: str | None = None,
    n_embeddings: int | None = None,
    max_characters: int | None = MAX_CHARACTERS,
    **reading: Any,
) -> Preferences:
    """Preferences from a file, a folder of files, a hub data set, a pandas DataFrame or a `datasets.Dataset`.

    Args:
        data: a path (JSONL, JSON, CSV, TSV, XLSX, parquet, arrow; .gz too), a hub name like "org/name", or rows.
        split: of a folder, a workbook or a hub data set; None takes `train`, or the only one.
        n_embeddings: rows name vectors, and there are so many; None: rows hold texts.
        max_characters: longest text allowed; None allows any.
        reading: as in `ReadingOptions`: annotator_column="worker", source="argilla", bad_rows="drop", …

    Returns:
        The judgements; their `reading` says what was understood, line by line.

    Raises:
        FileNotFoundError, TypeError, ValueError: one paragraph: what was given, where, what to do.
    """
    options = ReadingOptions.reading(reading)
    table = read_table(data, split=split, options=options, is_text=n_embeddings is None)
    reader = RowReader(options, max_characters, False if n_embeddings is None else n_embeddings)
    return Preferences(**reader.read(table))


def read_table(
    data: Any, *, split: str | None = None, options: ReadingOptions | None = None, is_text: bool = True
) -> Table:
    """Rows of any source as palign's reader takes them: exports and votes are already rows of judgements.

    `options` is set to the names of the columns that an export's rows have.
    """
    options = ReadingOptions() if options is None else options
    if isinstance(data, (str, Path)) and (export := folder_export(Path(data), options.source)) is not None:
        return read_export(export, data, options)
    table = raw_table(data, split=split)
    if table.has_loose_numbers:
        _refuse_loose_ids(table, options)
    name = options.source or (recognised_export(table, options) if is_text else None)
    if name is not None:
        _settle_lines(table, options.bad_rows)
        return read_export(name, table, options)
    if not is_votes(table, options):
        return table
    _settle_lines(table, options.bad_rows)
    return vote_table(table, options, raw_table)


def raw_table(data: Any, *, split: str | None = None) -> Table:
    """The rows as they stand there, unchecked."""
    if isinstance(data, Table):
        return data
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        return Table.of(data)
    if hasattr(data, "to_list") and hasattr(data, "features"):
        return _dataset_table(data, "")
    if hasattr(data, "keys") and all(hasattr(data[part], "features") for part in data):
        return _dataset_table(data[_split_of(list(data), split, "The DatasetDict")], "")
    if not isinstance(data, (str, Path)):
        return Table.of(data)
    path = Path(data)
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return _saved_table(path, split)
        files = files_of_split(path, split)
        called = path.name if len(files) == 1 else f"{path.name} ({len(files)} files)"
        tables = [file_table(file) for file in files]
        return tables[0] if len(tables) == 1 else Table.joined(tables, called)
    if path.is_file():
        return file_table(path, split)
    looks_like_a_path = suffix_of(path) in SUFFIXES or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(data))
    if looks_like_a_path:
        raise FileNotFoundError(
            f"There is no file or folder {str(data)!r} here. Give a file ({', '.join(KINDS)}), a folder of such "
            "files, or the name of a data set on the hub (org/name)."
        )
    return _hub_table(str(data), split)


def read_rows(source: str | Path, *, split: str | None = None) -> tuple[Table, str]:
    """The rows as they stand there, unchecked, and what messages should call them."""
    table = raw_table(source, split=split)
    _settle_lines(table, "stop")
    return table, table.name


def _settle_lines(table: Table, mode: str) -> None:
    """Raise for lines that are no rows, or note that they are left out: what is made of the table knows no lines."""
    table.notes += BadRows(table, mode).settle(len(table))
    table.ragged = []


def load_embeddings(path: str | Path) -> np.ndarray:
    """Vectors of any modality from a .npy file: (n_embeddings, hidden) floating point, memory-mapped, read-only.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a .npy file, not two-dimensional, not numbers, or a NaN or infinite entry (its row is named).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}; --embeddings takes a .npy file of shape (n, width).")
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable .npy file ({error}). Write the vectors with numpy.save(file, array), "
            "array of shape (n, width) and floating point."
        ) from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind != "f" or 0 in vectors.shape:
        content = f"shape {vectors.shape} of {vectors.dtype}" if isinstance(vectors, np.ndarray) else "an archive"
        raise ValueError(f"{path} holds {content}; vectors of shape (n, width), floating point, are needed.")
    step = max(1, 4_000_000 // vectors.shape[1])
    for first in range(0, len(vectors), step):
        bad = np.flatnonzero(~np.isfinite(vectors[first : first + step]).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{path}: row {first + bad[0]} (counting from 0) has a NaN or infinite entry. Every vector must be "
                "finite: mend the program that wrote them, or leave such items out."
            )
    return vectors


def _dataset_table(data: Any, name: str) -> Table:
    """A `datasets.Dataset`; where CSV was read into it, numbers may have been texts ("007") before."""
    table = Table(name, data.to_list())
    table.has_loose_numbers = getattr(data.info, "builder_name", None) in ("csv", "pandas", "text", "excel")
    return table


def _refuse_loose_ids(table: Table, options: ReadingOptions) -> None:
    """ValueError where people's ids are numbers that a reader of CSV made of texts: 007 and 7 are one number."""
    ids = table.column(options.annotator_column)
    if any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in ids):
        raise ValueError(
            f"{f'{table.name}: t' if table.name else 'T'}he data set was read from CSV, and in that the ids of "
            f"{options.annotator_column!r} became numbers: '007' and '7' would be one person now, and nothing here "
            "tells whether there were two. Give the CSV file itself, or read it with that column as a text (features="
            "Features({…: Value('string')}))."
        )


def _saved_table(folder: Path, split: str | None) -> Table:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
        if isinstance(saved, datasets.DatasetDict):
            saved = saved[_split_of(list(saved), split, str(folder))]
        return _dataset_table(saved, folder.name)
    except _NoSplitError:
        raise
    except Exception as error:  # a damaged folder may raise errors of arrow, of JSON or of the library
        text = str(error).splitlines()[0][:200] if str(error) else ""
        raise ValueError(
            f"{folder} is no readable folder of the datasets library ({type(error).__name__}: {text}). It may be cut "
            "off or half-written: save the data set again."
        ) from error


def _hub_table(name: str, split: str | None) -> Table:
    import datasets

    try:
        return _dataset_table(datasets.load_dataset(name, split=split or "train"), name)
    except ValueError as error:
        if "split" not in str(error).lower():
            raise
        raise ValueError(f"The data set {name!r} has no split {split or 'train'!r}: {error}") from error
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{name!r} is no file or folder here, and as a data set of the hub it cannot be had "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}). Check the name; without a network, "
            "download it first and give the folder or file."
        ) from error


class _NoSplitError(ValueError):
    """A split that is not there."""


def _split_of(there: list[str], split: str | None, source: str) -> str:
    if split is None and len(there) == 1:
        return there[0]
    if (split or "train") not in there:
        raise _NoSplitError(
            f"{source} has no split {split or 'train'!r}; it has {', '.join(there)} (--dataset_split)."
        )
    return split or "train"
