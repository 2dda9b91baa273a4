"""Exports of annotation tools and published data sets: recognised by their columns or files, or by their name."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from palign.data.rows.bad_rows import BadRows
from palign.data.rows.options import ReadingOptions
from palign.data.rows.table import Table
from palign.data.sources import SOURCES, read_source

__all__ = ["folder_export", "read_export", "recognised_export"]

# what all of an export's files have, the more telling one first
COLUMNS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (name, frozenset(columns.split()))
    for name, columns in (
        ("argilla", "fields responses suggestions"),
        ("label-studio", "data annotations"),
        ("label-studio", "annotation_id annotator lead_time"),
        ("arena", "model_a model_b winner conversation_a conversation_b"),
        ("arena", "model_a model_b prompt response_a response_b winner_model_a winner_model_b winner_tie"),
        ("community-alignment", "annotator_id first_turn_prompt first_turn_preferred_response first_turn_response_a"),
        ("helpsteer", "context response1 response2 individual_preference"),
        ("multipref", "text completion_a completion_b normal_worker_annotations"),
        ("shp", "history human_ref_A human_ref_B labels"),
        ("oasst", "message_id parent_id text role rank"),
        ("personal-llm", "prompt response_1 response_2 response_1_gemma_2b"),
        ("reward-bench-2", "prompt chosen rejected subset num_correct"),
        ("ultrafeedback", "instruction completions models"),
        ("tldr", "info summaries choice worker"),
    )
)
FILES = {
    "polis": ("comments.csv", "votes.csv"),
    "prism": ("conversations.jsonl", "survey.jsonl"),
    "llmfao": ("comparisons_public.csv", "prompts.csv", "responses.csv.gz"),
}
PREFLIB = (".soc", ".soi", ".toc", ".toi")


def recognised_export(table: Table, options: ReadingOptions) -> str | None:
    """The name of the export that these columns belong to; None where they belong to none, or columns were named."""
    default = ReadingOptions()
    if any(value != getattr(default, name) for name, value in vars(options).items() if name.endswith("_column")):
        return None
    there = set(table.columns())
    if "annotator_id" in there and ({"chosen", "rejected"} <= there or "completions" in there):
        return None
    if any(name.endswith(".responses.users") for name in there):
        return "argilla"
    return next((name for name, columns in COLUMNS if columns <= there), None)


def folder_export(path: Path, source: str | None) -> str | None:
    """The name of the export whose files lie in a folder, or that a file's suffix names; None where there is none."""
    if source is not None and source not in SOURCES:
        raise ValueError(
            f"--source is {source!r}, which is no export known here; there are {', '.join(sorted(SOURCES))}."
        )
    if path.is_file() and path.suffix.lower() in PREFLIB:
        return "preflib"
    if not path.is_dir():
        return None
    there = {file.name for file in path.iterdir() if file.is_file()}
    if source in ("polis", "prism", "llmfao", "persona"):
        return source
    export = next((name for name, files in FILES.items() if set(files) <= there), None)
    if export is None and any(name.endswith(".statements.csv") for name in there):
        return "polis"
    return export


def read_export(name: str, data: Any, options: ReadingOptions) -> Table:
    """The rows of an export as rows of judgements; the notes say what it was taken for and what was left out.

    Raises:
        ValueError: an unknown name, no row that holds a preference, or whatever the reader finds wrong.
    """
    if name not in SOURCES:
        raise ValueError(
            f"--source is {name!r}, which is no export known here; there are {', '.join(sorted(SOURCES))}."
        )
    reader, dropped = SOURCES[name], Counter()
    called = data.name if isinstance(data, Table) else Path(data).name
    reader_options = {
        key: getattr(options, key) for key in reader.options() if getattr(options, key, None) is not None
    }
    reader_options = {key: value for key, value in reader_options.items() if value != getattr(ReadingOptions(), key)}
    slips: list[str] = []
    try:
        rows = _read(name, data, dropped, reader_options)
    except ValueError as error:
        bad = _bad_records(name, data, reader_options, options.bad_rows) if isinstance(data, Table) else None
        if bad is None or len(bad) in (0, len(data)):  # no slip of a record, but another form
            raise error from None
        slips = bad.settle(len(data) - len(bad))
        dropped.clear()
        rows = _read(name, _without(data, bad), dropped, reader_options)
    left = ", ".join(f"{count:,} {what}" for what, count in dropped.items())
    if not rows:
        raise ValueError(f"{called}: read as {name!r}, no row holds a preference; left out were {left or 'none'}.")
    how = "as asked" if options.source == name else "by its form (say --source NAME if it is another)"
    notes = [
        *(data.notes if isinstance(data, Table) else ()),
        f"read as {name!r} {how}; an annotator is {reader.annotator}"
        + (f"; the file has {len(data):,} records" if isinstance(data, Table) else ""),
    ]
    notes += slips
    if left:
        notes.append(f"left out: {left}")
    if all(row["annotator_id"] == "unknown" for row in rows):
        notes.append("no column says who judged: all rows are of one 'unknown'")
    for key, value in vars(ReadingOptions()).items():
        if key.endswith("_column"):
            setattr(options, key, value)
    return Table(called, rows, notes=notes, path=data.path if isinstance(data, Table) else str(data))


def _read(name: str, data: Any, dropped: Counter, reader_options: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows that the reader makes; whatever it stumbles over as one sentence."""
    called = data.name if isinstance(data, Table) else Path(data).name
    try:
        return list(read_source(name, data, dropped, **reader_options))
    except (KeyError, AttributeError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(
            f"{called}: read as {name!r}, the rows are not of the form expected ({type(error).__name__}: "
            f"{error}). Name its columns instead, or say --source with another name."
        ) from error
    except ValueError as error:
        raise ValueError(str(error) if called in str(error) else f"{called}, read as {name!r}: {error}") from error


def _bad_records(name: str, data: Table, reader_options: dict[str, Any], mode: str) -> BadRows:
    """The records that the reader stumbles over when it is given each by itself: all of them, for one list."""
    bad = BadRows(data, mode)
    for number, record in enumerate(data):
        try:
            for _ in read_source(name, Table(data.name, [record]), Counter(), **reader_options):
                pass
        except (KeyError, AttributeError, TypeError, IndexError, RecursionError) as error:
            what = f"the record is not of the form of {name!r} ({type(error).__name__}: {error})"
            bad.add(number, ValueError(f"{data.name}, row {number} (counting from 0): {what}"))
        except ValueError as error:
            reason = re.sub(r"^row 0( \(counting from 0\))?[:,] ", "", str(error).removeprefix(f"{data.name}, "))
            bad.add(number, ValueError(f"{data.name}, row {number} (counting from 0): {reason}"))
    return bad


def _without(data: Table, bad: BadRows) -> Table:
    left = {one.row for one in bad.rows}
    rows = [record for number, record in enumerate(data) if number not in left]
    return Table(data.name, rows, notes=data.notes, path=data.path)
