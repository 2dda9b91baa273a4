"""Preferences and vectors from where they lie: a file, a folder, the hub."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from palign.data.checks import MAX_CHARACTERS, shorten
from palign.data.preferences import Preferences
from palign.data.rows import ColumnNames

__all__ = ["load_embeddings", "load_preferences", "read_rows"]

KINDS = (".jsonl", ".json", ".csv", ".parquet")
SUFFIXES = (*KINDS, ".jsonl.gz", ".json.gz", ".csv.gz")


def load_preferences(
    source: str | Path,
    *,
    split: str | None = None,
    n_embeddings: int | None = None,
    max_characters: int | None = MAX_CHARACTERS,
    **column_names: str,
) -> Preferences:
    """Preferences from a file (JSONL, JSON, CSV, parquet; .gz too), a folder of such files, or a hub data set.

    Args:
        source: a path, or a hub name like "org/name".
        split: of a folder or hub data set; None takes `train`, or the only file of a folder.
        n_embeddings: rows name vectors, and there are so many; None: rows hold texts.
        max_characters: longest text allowed; None allows any.
        column_names: other names, as in `ColumnNames`: annotator_column="worker", …

    Raises:
        FileNotFoundError, TypeError, ValueError: one paragraph: what was given, where, what to do.
    """
    ColumnNames.of(column_names)
    rows, name = read_rows(source, split=split, column_names=column_names)
    return Preferences.from_rows(
        rows,
        embeddings=False if n_embeddings is None else n_embeddings,
        max_characters=max_characters,
        source=name,
        **column_names,
    )


def read_rows(
    source: str | Path, *, split: str | None = None, column_names: dict[str, str] | None = None
) -> tuple[list[dict[str, Any]], str]:
    """The rows as they stand there, unchecked, and what messages should call them."""
    path = Path(source)
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
            return _saved_rows(path, split)
        path = _file_of_split(path, split)
    if path.is_file():
        return _file_rows(path, ColumnNames.of(column_names or {})), path.name
    looks_like_a_path = _suffix(path) in SUFFIXES or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source))
    if looks_like_a_path:
        raise FileNotFoundError(
            f"There is no file or folder {str(source)!r} here. Give a file ({', '.join(KINDS)}), a folder of such "
            "files, or the name of a data set on the hub (org/name)."
        )
    return _hub_rows(str(source), split)


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
        found = f"shape {vectors.shape} of {vectors.dtype}" if isinstance(vectors, np.ndarray) else "an archive"
        raise ValueError(f"{path} holds {found}; vectors of shape (n, width), floating point, are needed.")
    step = max(1, 4_000_000 // vectors.shape[1])
    for first in range(0, len(vectors), step):
        bad = np.flatnonzero(~np.isfinite(vectors[first : first + step]).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{path}: row {first + bad[0]} (counting from 0) has a NaN or infinite entry. Every vector must be "
                "finite: mend the program that wrote them, or leave such items out."
            )
    return vectors


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), path.suffix.lower())


def _file_of_split(folder: Path, split: str | None) -> Path:
    """The one file of a folder (or of its `data` folder) that holds a split."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and _suffix(path) in SUFFIXES]
    if not files and (folder / "data").is_dir():
        return _file_of_split(folder / "data", split)
    if not files:
        raise ValueError(f"The folder {folder} holds no data file; looked for {', '.join(SUFFIXES)}.")
    stems = {path: path.name[: -len(_suffix(path))] for path in files}
    wanted = split or "train"
    found = [path for path, stem in stems.items() if re.fullmatch(re.escape(wanted) + r"(-\d+-of-\d+)?", stem)]
    if not found and split is None and len(files) == 1:
        return files[0]
    if len(found) == 1:
        return found[0]
    there = ", ".join(path.name for path in files)
    if found:
        raise ValueError(
            f"The folder {folder} holds split {wanted!r} in {len(found)} files ({there}). Join them into one, or name "
            "one file."
        )
    raise ValueError(
        f"The folder {folder} holds no split {wanted!r}; its data files are {there}. Name a split with "
        "--dataset_split, or give the file itself."
    )


def _file_rows(path: Path, names: ColumnNames) -> list[dict[str, Any]]:
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: cannot read {suffix or 'a file without a suffix'}; {', '.join(SUFFIXES)} are.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes); at least one judgement is needed.")
    if suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    raw = gzip.decompress(path.read_bytes()) if suffix.endswith(".gz") else path.read_bytes()
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


def _json_rows(text: str, name: str) -> list[dict[str, Any]]:
    """A JSON list of objects; files called .json with an object on every line are common, and read too."""
    try:
        rows = json.loads(text)
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
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{name}, line {number} (counting from 1): not JSON ({error.msg} at character {error.colno}): "
                f"{shorten(line)}. Every line must be one object; mend or drop the line."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{name}, line {number} (counting from 1): {shorten(row)} is no object.")
        yield row


def _csv_rows(text: str, name: str, names: ColumnNames) -> list[dict[str, Any]]:
    """Cells are texts ("007" stays "007"), empty ones are nothing; lists stand in a cell as JSON."""
    import io

    import pandas

    try:
        frame = pandas.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_filter=False, engine="c")
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
        raise ValueError(f"{name}: not CSV ({str(error).strip()}). Quote cells that hold commas or lines.") from error
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


def _saved_rows(folder: Path, split: str | None) -> tuple[list[dict[str, Any]], str]:
    import datasets

    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        saved = saved[_split_of(list(saved), split, str(folder))]
    return saved.to_list(), folder.name


def _hub_rows(name: str, split: str | None) -> tuple[list[dict[str, Any]], str]:
    import datasets

    try:
        return datasets.load_dataset(name, split=split or "train").to_list(), name
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


def _split_of(there: list[str], split: str | None, source: str) -> str:
    if split is None and len(there) == 1:
        return there[0]
    if (split or "train") not in there:
        raise ValueError(f"{source} has no split {split or 'train'!r}; it has {', '.join(there)} (--dataset_split).")
    return split or "train"
