"""Exports of annotation tools and published data sets: recognised by their columns or files, or by their name."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palign.data.reading_options import ReadingOptions
from palign.data.table import Table

__all__ = ["folder_export", "read_export", "recognised_export"]


def recognised_export(table: Table, options: ReadingOptions) -> str | None:
    """The name of the export that these columns belong to; None where they belong to none."""
    return None


def folder_export(path: Path, source: str | None) -> str | None:
    """The name of the export whose files lie in a folder, or that a file's suffix names; None where there is none."""
    return None


def read_export(name: str, data: Any, options: ReadingOptions) -> Table:
    """The rows of an export as rows of judgements; the summary says what it was taken for and what was left out."""
    raise NotImplementedError
