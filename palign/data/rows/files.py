"""Rows as they stand in files and folders of files: JSONL, JSON, CSV, TSV, XLSX, parquet, arrow; unchecked but for
being rows.
"""

import array
import codecs
import gzip
import io
import json
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palign.data.rows.checks import shorten
from palign.data.rows.table import RaggedLine, Table
from palign.data.rows.text_tables import csv_table, xlsx_table
from palign.reading import reading

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "KINDS", "SUFFIXES", "csv_frame", "file_rows", "file_table", "files_of_split", "suffix_of", "text_of", "unpacked",
]  # fmt: skip

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".parquet", ".arrow")
SUFFIXES = (*KINDS, ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
MOST_UNPACKED = 4 << 30  # bytes that a .gz file may hold
MOST_RATIO = 300  # unpacked bytes for one packed, beyond ALWAYS_ALLOWED; texts have 3 to 20
ALWAYS_ALLOWED = 256 << 20
NO_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
MARKS = {  # the byte order mark of a file → how it is read; the longer ones first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def suffix_of(path: Path) -> str:
    """The suffix that says how a file is read, lower-case: `.jsonl.gz` as one, else the last."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), path.suffix.lower())


def files_of_split(folder: Path, split: str | None) -> list[Path]:
    """The file of a folder that holds a split, or its numbered parts in order.

    Where the folder itself has no data files, they are those of its folder of that split, of its `data` folder or of
    the only folder below (that of a configuration).
    """
    files = _data_files(folder)
    if not files:
        return files_of_split(_folder_below(folder, split), split)
    stems = {path: path.name[: -len(suffix_of(path))] for path in files}
    wanted = split or "train"
    whole_files = [path for path, stem in stems.items() if stem == wanted]
    parts = [path for path, stem in stems.items() if re.fullmatch(re.escape(wanted) + r"-\d+-of-\d+", stem)]
    if not whole_files and not parts and (split is None or folder.name == split) and len(files) == 1:
        return files
    if len(whole_files) == 1 and not parts:
        return whole_files
    if parts and not whole_files:
        return _all_parts(parts)
    there = ", ".join(path.name for path in files)
    if whole_files:
        raise ValueError(
            f"The folder {folder} holds split {wanted!r} in several files ({there}). Join them into one, or name one "
            "file."
        )
    raise ValueError(
        f"The folder {folder} holds no split {wanted!r}; its data files are {there}. Name a split with "
        "--dataset_split, or give the file itself."
    )


def _data_files(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and suffix_of(path) in SUFFIXES]
    return [path for path in files if path.name not in NO_DATA]


def _folder_below(folder: Path, split: str | None) -> Path:
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    below = [path for path in below if any(suffix_of(p) in SUFFIXES for p in path.rglob("*") if p.is_file())]
    named = [path for path in below if path.name in ((split or "train"), "data")]
    if len(named) == 1 or len(below) == 1:
        return (named or below)[0]
    if below:
        raise ValueError(
            f"The folder {folder} holds several folders of data ({', '.join(path.name for path in below[:8])}); "
            "give one of them."
        )
    raise ValueError(f"The folder {folder} holds no data file; looked for {', '.join(SUFFIXES)}.")


def _all_parts(parts: list[Path]) -> list[Path]:
    """Numbered parts, if none is missing."""
    n_parts = {int(path.name.split("-of-")[1].split(".")[0]) for path in parts}
    if n_parts != {len(parts)}:
        there = ", ".join(path.name for path in parts)
        raise ValueError(f"The folder {parts[0].parent} holds {there}; these are not all the parts of one split.")
    return parts


def file_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one file as dicts; ValueError also for a line that is no row."""
    table = file_table(path)
    if table.ragged:
        bad = table.ragged[0]
        raise ValueError(f"{path.name}, line {bad.line} (counting from 1): {bad.reason}")
    return list(table.rows)


def file_table(path: Path, sheet: str | None = None) -> Table:
    """The rows of one file; ValueError names a file that is empty, damaged or of another kind.

    Args:
        sheet: of a workbook that has several.
    """
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: cannot read {suffix or 'a file without a suffix'}; {', '.join(SUFFIXES)} are.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes); at least one judgement is needed.")
    if suffix == ".xlsx":
        return xlsx_table(path, sheet)
    if suffix in (".parquet", ".arrow"):
        return Table(path.name, _arrow_rows(path, suffix), path=str(path))
    text, notes = text_of(path)
    if not text.strip():
        raise ValueError(f"{path.name} is empty (only blanks); at least one judgement is needed.")
    if suffix.startswith((".csv", ".tsv")):
        table = csv_table(text, path.name, str(path), separator="\t" if suffix.startswith(".tsv") else None)
    elif suffix.startswith(".jsonl"):
        table = _json_lines(text, path.name)
    else:
        table = _json_rows(text, path.name)
    table.path, table.notes = str(path), [*notes, *table.notes]
    return table


def text_of(path: Path) -> tuple[str, list[str]]:
    """The text of a file, packed or not: UTF-8, or what its byte order mark says; and what was assumed."""
    raw = unpacked(path) if path.name.lower().endswith(".gz") else path.read_bytes()
    encoding = next((how for mark, how in MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path.name}, line {line}: not {encoding.removesuffix('-sig').upper()} ({error.reason}). Save the file "
            "as UTF-8."
        ) from error
    if encoding == "utf-8" and "\0" in text[:10_000]:
        raise ValueError(
            f"{path.name} holds zero bytes: a file of another kind under this name, or UTF-16 without its mark. Save "
            "it as UTF-8."
        )
    if text.startswith("version https://git-lfs.github.com/spec/"):
        raise ValueError(f"{path.name} is a pointer of Git LFS and not the data: get the file itself (git lfs pull).")
    if text[:1000].lstrip().lower().startswith(("<!doctype html", "<html")):
        raise ValueError(f"{path.name} is a web page and not the data: download the file itself (its raw form).")
    return text, [f"the file is {encoding.upper()}, as its mark says"] if encoding.startswith(
        ("utf-16", "utf-32")
    ) else []


def _arrow_rows(path: Path, suffix: str) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    try:
        if suffix == ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        with pyarrow.memory_map(str(path)) as source:
            try:
                return pyarrow.ipc.open_file(source).read_all().to_pylist()
            except pyarrow.ArrowInvalid:  # what `datasets` writes has no footer
                source.seek(0)
                return pyarrow.ipc.open_stream(source).read_all().to_pylist()
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise ValueError(
            f"{path.name} is no readable {suffix[1:]} file ({str(error).splitlines()[0][:200]}). It may be cut off, "
            "or another kind of file under this name: copy or write it again, or give it the suffix of what it is."
        ) from error


def csv_frame(path: Path, **options: Any) -> "pd.DataFrame":
    """A CSV file, packed or not, as pandas reads it; `options` are those of `pandas.read_csv`.

    Raises:
        ValueError: it is missing, damaged, or unpacks without end.
    """
    import pandas as pd

    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}, which this source has. Give the whole folder.")
    raw = unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    with reading(path, "The table"):
        return pd.read_csv(io.BytesIO(raw), **options)


def unpacked(path: Path) -> bytes:
    """What a gzip file holds; a small file that unpacks without end is refused before it fills the memory."""
    limit = min(MOST_UNPACKED, max(ALWAYS_ALLOWED, MOST_RATIO * path.stat().st_size))
    try:
        with gzip.open(path) as file:
            raw = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path.name} is no readable gzip file ({error}). It may be cut off, or not be packed at all: copy or "
            f"pack it again, or take .gz off its name."
        ) from error
    if len(raw) > limit:
        raise ValueError(
            f"{path.name} unpacks to more than {limit:,} bytes from {path.stat().st_size:,}; this is the limit. "
            "Unpack it yourself if it is what you mean to read."
        )
    return raw


def _one_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a key that is there twice Python would keep the last without a word."""
    record = dict(pairs)
    if len(record) < len(pairs):
        again = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise _TwiceError(again)
    return record


class _TwiceError(ValueError):
    """A key that is there twice."""


def _json_rows(text: str, name: str) -> Table:
    """A JSON list of objects; files called .json with an object on every line are common, and read too."""
    try:
        rows = json.loads(text, object_pairs_hook=_one_of_each)
    except _TwiceError as error:
        raise ValueError(f"{name}: an object has the key {str(error)!r} twice; leave one of them out.") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(text, name)
        raise ValueError(f"{name}, line {error.lineno}: not JSON ({error.msg}).") from error
    except RecursionError:
        raise ValueError(f"{name}: brackets are nested too deep to be rows. Is it the right file?") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{name}: not readable as JSON ({error}).") from error
    if isinstance(rows, dict):
        raise ValueError(
            f"{name} holds one object with the keys {', '.join(list(rows)[:8])}; a list of objects (one for each "
            "judgement), or one object on each line, is needed."
        )
    if not isinstance(rows, list):
        raise ValueError(f"{name} holds {shorten(rows)}; a list of objects is needed.")
    wrong = next((number for number, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise ValueError(
            f"{name}, row {wrong} (counting from 0): {shorten(rows[wrong])} is no object. Every row must be one; mend "
            "or drop it."
        )
    return Table(name, rows)


def _json_lines(text: str, name: str) -> Table:
    """An object on every line; a line that is none is kept aside with the reason."""
    rows, lines, ragged = [], array.array("q"), []
    # not splitlines(): JSON texts may hold U+2028 and its kin
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row, reason = _json_object(line)
        if reason:
            ragged.append(RaggedLine(number, reason))
        else:
            rows.append(row)
            lines.append(number)
    return Table(name, rows, lines, ragged)


def _json_object(line: str) -> tuple[Any, str]:
    """The object on a line, or why it is none."""
    try:
        row = json.loads(line, object_pairs_hook=_one_of_each)
    except _TwiceError as error:
        return (
            None,
            f"the key {str(error)!r} is there twice; which one counts is anybody's guess. Leave one of them out.",
        )
    except json.JSONDecodeError as error:
        return None, (
            f"not JSON ({error.msg} at character {error.colno}): {shorten(line)}. Every line must be one object; mend "
            "or drop the line."
        )
    except RecursionError:
        return None, f"brackets are nested too deep to be a row: {shorten(line)}. Mend or drop the line."
    except ValueError as error:  # a number of thousands of digits
        return None, f"not readable as JSON ({error}): {shorten(line)}. Mend or drop the line."
    if not isinstance(row, dict):
        return None, (
            f'{shorten(row)} is no object. Every line must be one row, {{"annotator_id": …, "prompt": …, "chosen": …, '
            '"rejected": …}, say; mend or drop the line.'
        )
    return row, ""
