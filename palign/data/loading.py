"""Preferences and vectors from where they lie: a file, a folder, the hub."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from palign.data.checks import MAX_CHARACTERS
from palign.data.columns import ColumnNames
from palign.data.files import KINDS, SUFFIXES, file_rows, files_of_split, suffix_of
from palign.data.preferences import Preferences

__all__ = ["load_embeddings", "load_preferences", "read_rows"]


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
        files = files_of_split(path, split)
        if len(files) > 1:
            names = ColumnNames.of(column_names or {})
            return [row for file in files for row in file_rows(file, names)], f"{path.name} ({len(files)} files)"
        path = files[0]
    if path.is_file():
        return file_rows(path, ColumnNames.of(column_names or {})), path.name
    looks_like_a_path = suffix_of(path) in SUFFIXES or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source))
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
