"""Tidy tables → ``report.json``, ``report.md`` and ``report.html``: who is served how well, with counts and intervals.

``report.json`` holds every number of every model; `palign.evaluation.pages.report_keys` names its keys, numbered by
``schema_version``. ``report.md`` is the same for a reader, and goes into a model card; ``report.html`` is the page to
decide with, and has the figures. Both are made of the content of ``report.json`` and nothing else. A number that is
masked or unknown is ``null`` there and "–" here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from palign.evaluation.pages.conclusion import conclusion
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.html_page import render_page
from palign.evaluation.pages.markdown import render_report
from palign.evaluation.pages.record import Groups, Settings, figures_record, names_of, report_sections, settings_record
from palign.evaluation.pages.report_keys import ReportRecord, SectionRecord
from palign.evaluation.pages.sentences import frame_of, headline_sentences, main_metric
from palign.evaluation.scoring import RESERVED
from palign.evaluation.statistics.tables import as_categories, check_columns
from palign.writing import whole_file

__all__ = ["Report", "write_report"]

SCHEMA_VERSION = 3
TAKEN = tuple(name for name in RESERVED if name not in ("type", "annotator_id"))


@dataclass(frozen=True)
class Report:
    """What :func:`write_report` wrote: three paths, the opening sentences, and the content of report.json."""

    json_path: Path
    markdown_path: Path
    html_path: Path
    headline: list[str]
    data: ReportRecord

    @property
    def conclusion(self) -> list[str]:
        """What it concludes of the main reward model; empty where the report is of policies alone."""
        return self.data["conclusion"]


def write_report(
    tables: pd.DataFrame | Sequence[pd.DataFrame],
    *,
    output_dir: str | Path,
    metrics: str | Sequence[str] = ("accuracy", "log_likelihood", "reward", "gold", "kl"),
    group_columns: Sequence[Groups] = (),
    title: str = "Fairness report",
    baseline: str | Sequence[str] = "pooled",
    reference: str | Sequence[str] = ("reference", "none"),
    main: str | None = None,
    figures: FigureData | None = None,
    notes: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    annotator_column: str = "annotator_id",
    weights: str = "judgements",
    judgements: str = "judgements",
    remarks: Sequence[str] = (),
    higher_is_better: Mapping[str, bool] | None = None,
    min_group_size: int = 1,
    min_ranked_size: int = 5,
    level: float = 0.9,
    seed: int = 0,
    n_resamples: int = 1000,
) -> Report:
    """Write ``report.json``, ``report.md`` and ``report.html`` into ``output_dir``.

    Args:
        tables: tidy score table(s) with a column ``model``; several are put under one another. A model that has an
            ``accuracy`` is a reward model; one that has none is a policy, whose rows are completions it wrote.
        metrics: columns to report; of each model those that it has any number of.
        group_columns: declared groups; a tuple of names is their intersection. ``type``, where the table has it, and
            the annotators themselves are always reported; the report opens with the one named here whose gap chance
            explains least; where chance may explain all of them, with ``type``, if that gap is more than chance, and
            else with the first.
        baseline: the reward model(s) that the others are compared with, those of them that are in the table;
            reference: likewise for policies.
        main: the model that the report opens with; the last one that is nobody's baseline, if unset.
        figures: what the page's figures need beyond the table.
        notes: sentences to print; facts: what the report is made of, name → text, such as "data" and "backbone"; what
            was judged, and when, is added; extra: figures of the run to print and keep (name → number, text or list).
        judgements: what the rows are called where the report concludes, such as "held-out judgements";
            remarks: phrases that the first sentence of the conclusion ends with.
        weights, min_group_size, min_ranked_size: as :class:`GroupFrame`. With ``min_group_size`` above 1 no single
            person is listed. ``min_ranked_size`` does not hold where groups are single people.
        level, seed, n_resamples: of every interval.

    Raises:
        ValueError: no rows, no known metric, an unknown column, or a metric with gaps (NaN) within one model.
    """
    table, metrics = _joined(tables, annotator_column), names_of(metrics)
    asked = [_plain([_declared(name, table) for name in names_of(groups)]) for groups in group_columns]
    always = [annotator_column, *(["type"] if "type" in table else [])]
    settings = Settings(
        tuple(name for name in metrics if name in table),
        (*always, *(groups for groups in dict.fromkeys(asked) if groups not in always)),
        asked[0] if asked else always[-1],
        annotator_column,
        weights,
        higher_is_better or {},
        min_group_size,
        min_ranked_size,
        level,
        seed,
        n_resamples,
    )
    grouped = [name for groups in settings.groups for name in names_of(groups)]
    check_columns(table, grouped)
    table = as_categories(table, ["model", *grouped])
    if not settings.metrics:
        raise ValueError(
            f"the table has none of the metrics {', '.join(metrics)}; it has {', '.join(map(str, table))}."
        )
    sections = report_sections(table, names_of(baseline), names_of(reference), settings, main)
    settings = replace(
        settings,
        opens_with=_leading(sections, asked, [] if annotator_column in asked else always[1:]) or settings.opens_with,
    )
    data: ReportRecord = {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "palign_version": _version(),
        "date": date.today().isoformat(),
        "facts": {**(facts or {}), **_made_of(sections, judgements)},
        "settings": settings_record(settings, names_of(baseline), names_of(reference), judgements, remarks),
        "sections": sections,
        "notes": list(notes),
        "extra": dict(extra or {}),
        "figures": figures_record(figures or FigureData(), table, settings),
        "conclusion": [],
        "headline": [],
    }
    data["conclusion"] = conclusion(data)
    data["headline"] = headline_sentences(data)
    return _written(_strict(data), Path(output_dir))


def _made_of(sections: list[SectionRecord], judgements: str) -> dict[str, str]:
    """What was judged, of how many people, and when."""
    judged = {}
    for section in sections:
        what = "completions" if section["name"] == "policies" else judgements
        main = next(model for model in section["models"] if model["model"] == section["main"])
        counts = f"{main['n_judgements']:,} {what} of {main['n_annotators']:,} annotators"
        judged["judged" if len(sections) == 1 else f"judged, {section['name']}"] = counts
    return {**judged, "made": f"{date.today().isoformat()}, by palign {_version()}"}


def _leading(sections: list[SectionRecord], asked: Sequence[Groups], others: Sequence[Groups]) -> Groups | None:
    """The grouping whose gap chance explains least, of those asked for before the others; None where it may explain
    all.

    By the lower end of the gap's interval, for the main model of the first section.
    """
    section = sections[0]
    model = next(model for model in section["models"] if model["model"] == section["main"])
    metric = main_metric(section["name"], model["metrics"])
    for candidates in (asked, others if asked else ()):
        lows = {g: frame_of(model, list(names_of(g)))["metrics"][metric]["gap"]["low"] for g in candidates}
        above = {groups: low for groups, low in lows.items() if low is not None and low > 0}  # NaN is not above
        if above:
            return max(above, key=above.__getitem__)
    return None


def _written(data: ReportRecord, output_dir: Path) -> Report:
    json_path = _write(output_dir / "report.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    markdown_path = _write(output_dir / "report.md", render_report(data))
    html_path = _write(output_dir / "report.html", render_page(data))
    return Report(json_path, markdown_path, html_path, data["headline"], data)


def _joined(tables: pd.DataFrame | Sequence[pd.DataFrame], annotator_column: str) -> pd.DataFrame:
    parts = [tables] if isinstance(tables, pd.DataFrame) else list(tables)
    for part in parts:
        check_columns(part, ["model", annotator_column])
    if not parts:
        raise ValueError("no table was given; there is nothing to report.")
    table = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    return table.assign(model=table["model"].astype(str))


def _declared(name: str, table: pd.DataFrame) -> str:
    """A column of the user's whose name a score table takes for itself stands in it as `declared_<name>`."""
    return f"declared_{name}" if name in TAKEN and f"declared_{name}" in table else name


def _plain(groups: Groups | Sequence[str]) -> Groups:
    """A list of names as a tuple, and an intersection of one as that one."""
    names = names_of(groups)
    return names[0] if len(names) == 1 else names


def _version() -> str:
    import palign

    return palign.__version__


def _strict(value: Any) -> Any:
    """Plain Python values only; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray, pd.Series)):
        return [_strict(entry) for entry in value]
    if isinstance(value, np.generic):
        return _strict(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _write(path: Path, text: str) -> Path:
    """Write a whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial_file:
        partial_file.write_text(text, encoding="utf-8", errors="replace")
    return path
