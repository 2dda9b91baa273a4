"""What a recipe ends with, beside the report: summary.json, figures in the card, words on the screen."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from palign.models.files.card import add_measured
from palign.writing import write_whole

if TYPE_CHECKING:
    from palign.evaluation.report import Report

__all__ = ["end_of_run", "write_summary"]


def write_summary(folder: Path, summary: Mapping[str, float]) -> None:
    """summary.json, figure → number."""
    write_whole(folder / "summary.json", json.dumps(summary, indent=1) + "\n")


def end_of_run(output: Path, summary: dict[str, float], report: "Report") -> None:
    """What a recipe of rewards ends with: figures into card and summary.json, and the conclusion on the screen."""
    add_measured(output, report.headline)
    write_summary(output, summary)
    print(f"\n{pd.Series(summary).round(4).to_string()}\n", *report.conclusion, sep="\n")
    print(f"\nmodel: {output}\nreport: {report.html_path}", flush=True)
