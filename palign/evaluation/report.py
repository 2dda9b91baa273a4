"""Tidy tables → ``report.json``, ``report.md`` and ``report.html``: who is served how well, with counts and intervals.

``report.json`` holds every number of every model; its layout is documented in ``docs/fairness.md`` and numbered by
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

from palign.evaluation.comparison import compare_models
from palign.evaluation.group_frame import GroupFrame
from palign.evaluation.pages.conclusion import conclusion
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.html_page import render_page
from palign.evaluation.pages.markdown import render_report
from palign.evaluation.pages.sentences import frame_of, headline_sentences, main_metric
from palign.evaluation.scoring import RESERVED
from palign.evaluation.statistics.inequality import if_alike
from palign.evaluation.statistics.tables import as_categories, check_columns, people_numbers
from palign.writing import whole_file

__all__ = ["Report", "write_report"]

SCHEMA_VERSION = 2
ALPHA = 0.1
SPREADS = ("worst", "gap", "ratio", "gini", "cvar")
ANNOTATORS_LISTED = 10_000  # above that report.json sums people up and does not list them
TAKEN = tuple(name for name in RESERVED if name not in ("type", "annotator_id"))
Groups = str | tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What :func:`write_report` wrote: three paths, the opening sentences, and the content of report.json."""

    json_path: Path
    markdown_path: Path
    html_path: Path
    headline: list[str]
    data: dict[str, Any]

    @property
    def conclusion(self) -> list[str]:
        """What it concludes of the main reward model; empty where it is of policies."""
        return self.data["conclusion"]


@dataclass(frozen=True)
class Settings:
    """How the numbers of one report are computed; see :func:`write_report`."""

    metrics: tuple[str, ...]
    groups: tuple[Groups, ...]
    opens_with: Groups
    annotator_column: str
    weights: str
    higher_is_better: Mapping[str, bool]
    min_group_size: int
    level: float
    seed: int
    n_resamples: int

    def frame(self, rows: pd.DataFrame, metrics: Sequence[str], groups: Groups) -> GroupFrame:
        """One model's frame over one grouping."""
        return GroupFrame(
            rows,
            metrics=metrics,
            groups=_names(groups),
            annotator_column=self.annotator_column,
            weights=self.weights,
            higher_is_better=self.higher_is_better,
            min_group_size=self.min_group_size,
        )


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
    extra: Mapping[str, Any] | None = None,
    annotator_column: str = "annotator_id",
    weights: str = "judgements",
    judgements: str = "judgements",
    remarks: Sequence[str] = (),
    higher_is_better: Mapping[str, bool] | None = None,
    min_group_size: int = 1,
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
            explains least, with the first where chance may explain all, or with ``type``.
        baseline: the reward model(s) that the others are compared with, those of them that are in the table;
            reference: likewise for policies.
        main: the model that the report opens with; the last one that is nobody's baseline, if unset.
        figures: what the page's figures need beyond the table.
        notes: sentences to print; extra: figures of the run to print and keep (name → number, text or list).
        judgements: what the rows are called where the report concludes, such as "held-out judgements";
            remarks: phrases that the first sentence of the conclusion ends with.
        weights, min_group_size: as :class:`GroupFrame`. With ``min_group_size`` above 1 no single person is listed.
        level, seed, n_resamples: of every interval.

    Raises:
        ValueError: no rows, no known metric, an unknown column, or a metric with gaps (NaN) within one model.
    """
    table, metrics = _joined(tables, annotator_column), _names(metrics)
    asked = [_plain([_declared(name, table) for name in _names(groups)]) for groups in group_columns]
    always = [annotator_column, *(["type"] if "type" in table else [])]
    settings = Settings(
        tuple(name for name in metrics if name in table),
        (*always, *(groups for groups in dict.fromkeys(asked) if groups not in always)),
        asked[0] if asked else always[-1],
        annotator_column,
        weights,
        higher_is_better or {},
        min_group_size,
        level,
        seed,
        n_resamples,
    )
    grouped = [name for groups in settings.groups for name in _names(groups)]
    check_columns(table, grouped)
    table = as_categories(table, ["model", *grouped])
    if not settings.metrics:
        raise ValueError(
            f"the table has none of the metrics {', '.join(metrics)}; it has {', '.join(map(str, table))}."
        )
    sections = _sections(table, _names(baseline), _names(reference), settings, main)
    settings = replace(settings, opens_with=_leading(sections, asked) or settings.opens_with)
    data = {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "palign_version": _version(),
        "date": date.today().isoformat(),
        "settings": _settings_record(settings, _names(baseline), _names(reference))
        | {"judgements": judgements, "remarks": list(remarks)},
        "sections": sections,
        "notes": list(notes),
        "extra": dict(extra or {}),
        "figures": _figures_record(figures or FigureData(), table, settings),
    }
    data["conclusion"] = conclusion(data)
    data["headline"] = headline_sentences(data)
    return _written(_strict(data), Path(output_dir))


def _leading(sections: list[dict[str, Any]], asked: Sequence[Groups]) -> Groups | None:
    """Of several groupings that were asked for, the one whose gap chance explains least; None where none is above it.

    By the lower end of the gap's interval, for the main model of the first section.
    """
    section = sections[0]
    model = next(model for model in section["models"] if model["model"] == section["main"])
    metric = main_metric(section["name"], model["metrics"])
    least = {groups: frame_of(model, list(_names(groups)))["metrics"][metric]["gap"]["low"] for groups in asked}
    above = {groups: low for groups, low in least.items() if low is not None and low > 0}  # NaN is not above
    return max(above, key=above.__getitem__) if above and len(asked) > 1 else None


def _written(data: dict[str, Any], output_dir: Path) -> Report:
    json_path = _write(output_dir / "report.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
    markdown_path = _write(output_dir / "report.md", render_report(data))
    html_path = _write(output_dir / "report.html", render_page(data))
    return Report(json_path, markdown_path, html_path, data["headline"], data)


def _figures_record(figures: FigureData, table: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    """Where single people stand is shown where single people may be shown."""
    columns = [groups for groups in settings.groups[1:] if isinstance(groups, str)]
    most = ANNOTATORS_LISTED if settings.min_group_size <= 1 else 0
    return figures.record(table, settings.annotator_column, columns, most)


def _sections(
    table: pd.DataFrame, baseline: tuple[str, ...], reference: tuple[str, ...], settings: Settings, main: str | None
) -> list[dict[str, Any]]:
    """Of the reward models and of the policies, those that there are."""
    own = {name: _metrics_of(table[table["model"] == name], settings) for name in table["model"].unique()}
    judges = [name for name in own if "accuracy" in table and table["accuracy"][table["model"] == name].notna().any()]
    policies = [name for name in own if name not in judges]
    kinds = (("reward models", judges, baseline), ("policies", policies, reference))
    return [_section(kind, table, names, own, against, settings, main) for kind, names, against in kinds if names]


def _section(
    kind: str,
    table: pd.DataFrame,
    names: list[str],
    own: dict[str, list[str]],
    against: Sequence[str],
    settings: Settings,
    main: str | None,
) -> dict[str, Any]:
    """Everything about the reward models, or about the policies."""
    models = [_model_record(name, table[table["model"] == name], own[name], settings) for name in names]
    comparisons, notes = [], []
    baselines = [name for name in against if name in names]
    for first, second in _pairs(names, baselines):
        for groups in settings.groups[1:] or ((),):
            for metric in (metric for metric in own[second] if metric in own[first]):
                try:
                    comparisons.append(_comparison_record(table, metric, (first, second), groups, settings))
                except ValueError as error:  # rows that do not pair: each one's figures stand, the difference does not
                    notes.append(f"No paired difference of {metric} between {first} and {second}: {error}")
    return {
        "name": kind,
        "main": main if main in names else [*baselines, *(n for n in names if n not in baselines)][-1],
        "baselines": baselines,
        "models": models,
        "comparisons": comparisons,
        "notes": list(dict.fromkeys(notes)),
    }


def _pairs(names: list[str], baselines: list[str]) -> list[tuple[str, str]]:
    """Every model with every baseline, itself and, among baselines, the later ones left out."""
    return [
        (first, second)
        for second in names
        for place, first in enumerate(baselines)
        if second not in baselines[: place + 1]
    ]


def _model_record(name: str, rows: pd.DataFrame, metrics: list[str], settings: Settings) -> dict[str, Any]:
    frames = [(groups, settings.frame(rows, metrics, groups)) for groups in settings.groups]
    first = frames[0][1]
    return {
        "model": name,
        "n_judgements": first.n_judgements,
        "n_annotators": first.n_annotators,
        "metrics": metrics,
        "frames": [
            _frame_record(groups, frame, settings, rows if groups == settings.annotator_column else None)
            for groups, frame in frames
        ],
    }


def _frame_record(
    groups: Groups, frame: GroupFrame, settings: Settings, rows_of_people: pd.DataFrame | None
) -> dict[str, Any]:
    """A frame with every statistic and interval, as plain values; `rows_of_people` where its groups are people."""
    options = {"level": settings.level, "seed": settings.seed, "n_resamples": settings.n_resamples, "alpha": ALPHA}
    of_people = rows_of_people is not None
    statistics = ("overall", *SPREADS)
    ends = frame.intervals(statistics if of_people else (*statistics, "by_group"), **options)
    by_group = ends.pop("by_group", None)
    listed = not of_people or (settings.min_group_size <= 1 and len(frame.by_group) <= ANNOTATORS_LISTED)
    record: dict[str, Any] = {
        "groups": list(_names(groups)),
        "n_groups": len(frame.by_group),
        "notes": frame.notes,
        "metrics": {},
    }
    chance = {} if rows_of_people is None else _if_alike(rows_of_people, frame, settings)
    for metric in frame.metrics:
        found = {stat: _with_ends(frame.estimate(stat, alpha=ALPHA), ends[stat], metric, frame) for stat in ends}
        for stat, extreme in (("worst", frame.worst()), ("best", frame.best())):
            found.setdefault(stat, {"value": extreme.loc[metric, "value"]})
            found[stat]["group"] = _label(extreme.loc[metric, "group"]) if listed else None
            found[stat]["n_annotators"] = extreme.loc[metric, "n_annotators"]
        found["higher_is_better"] = frame.higher_is_better[metric]
        if of_people:
            for stat, value in chance[metric].items():
                found[stat]["if_alike"] = value
            shares = (0.1, 0.5, 0.9)
            found["quantiles"] = dict(
                zip(map(str, shares), frame.by_group[metric].quantile(list(shares)), strict=True)
            )
        found["by_group"] = _group_records(frame, metric, by_group) if listed else []
        record["metrics"][metric] = found
    return record


def _if_alike(rows: pd.DataFrame, frame: GroupFrame, settings: Settings) -> dict[str, dict[str, float]]:
    """`if_alike` of each metric, where people are shown at all."""
    if settings.min_group_size > 1:
        return {metric: dict.fromkeys(("cvar", "gini"), float("nan")) for metric in frame.metrics}
    people = people_numbers(rows[settings.annotator_column])
    return {
        metric: if_alike(rows[metric].to_numpy(dtype=float), people, ALPHA, higher_is_better=up, seed=settings.seed)
        for metric, up in frame.higher_is_better.items()
    }


def _with_ends(values: np.ndarray, ends: pd.DataFrame, metric: str, frame: GroupFrame) -> dict[str, float]:
    return {"value": values[frame.metrics.index(metric)], **ends.loc[metric].to_dict()}


def _group_records(frame: GroupFrame, metric: str, ends: pd.DataFrame | None) -> list[dict[str, Any]]:
    records = []
    lows, highs = (
        (
            ends.xs(metric, level="metric")[side].to_numpy()
            if ends is not None
            else np.full(len(frame.by_group), np.nan)
        )
        for side in ("low", "high")
    )
    columns = (frame.by_group[name].to_numpy() for name in ("n_annotators", "n_judgements", metric))
    for label, people, rows, value, low, high in zip(frame.by_group.index, *columns, lows, highs, strict=True):
        counts = {"n_annotators": people, "n_judgements": rows}
        records.append({"group": _label(label), **counts, "value": value, "low": low, "high": high})
    return records


def _comparison_record(
    table: pd.DataFrame, metric: str, models: tuple[str, str], groups: Groups, settings: Settings
) -> dict[str, Any]:
    found = compare_models(
        table,
        metric=metric,
        models=models,
        groups=_names(groups),
        keys=(settings.annotator_column, "row"),
        weights=settings.weights,
        higher_is_better=settings.higher_is_better,
        min_group_size=settings.min_group_size,
        level=settings.level,
        seed=settings.seed,
        n_resamples=settings.n_resamples,
    )
    columns = ["first", "second", "difference", "low", "high", "n_annotators", "n_judgements"]
    rows = [
        {"stat": stat, "group": group, **dict(zip(columns, values, strict=True))}
        for (stat, group), values in zip(found.index, found.to_numpy(), strict=True)
    ]
    described = {"first": models[0], "second": models[1], "metric": metric, "groups": list(_names(groups))}
    return {**described, "n_dropped": found.attrs["n_dropped"], "rows": rows}


def _joined(tables: pd.DataFrame | Sequence[pd.DataFrame], annotator_column: str) -> pd.DataFrame:
    parts = [tables] if isinstance(tables, pd.DataFrame) else list(tables)
    for part in parts:
        check_columns(part, ["model", annotator_column])
    if not parts:
        raise ValueError("no table was given; there is nothing to report.")
    table = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    return table.assign(model=table["model"].astype(str))


def _metrics_of(rows: pd.DataFrame, settings: Settings) -> list[str]:
    found = [name for name in settings.metrics if rows[name].notna().any()]
    if not found:
        raise ValueError(
            f"model {rows['model'].iloc[0]!r} has no number under any of {', '.join(settings.metrics)}; leave it out, "
            "or "
            "name its metrics."
        )
    return found


def _settings_record(settings: Settings, baseline: Sequence[str], reference: Sequence[str]) -> dict[str, Any]:
    plain = {name: getattr(settings, name) for name in ("weights", "min_group_size", "level", "seed", "n_resamples")}
    grouped = [list(_names(groups)) for groups in settings.groups]
    plain["opens_with"] = list(_names(settings.opens_with))
    named = {"metrics": settings.metrics, "groups": grouped, "baseline": baseline, "reference": reference}
    return {**plain, **named, "annotator_column": settings.annotator_column, "cvar_alpha": ALPHA}


def _names(groups: Groups) -> tuple[str, ...]:
    return (groups,) if isinstance(groups, str) else tuple(groups)


def _declared(name: str, table: pd.DataFrame) -> str:
    """A column of the user's whose name a score table takes for itself stands in it as `declared_<name>`."""
    return f"declared_{name}" if name in TAKEN and f"declared_{name}" in table else name


def _plain(groups: Groups | Sequence[str]) -> Groups:
    """A list of names as a tuple, and an intersection of one as that one."""
    names = _names(groups)
    return names[0] if len(names) == 1 else names


def _label(label: object) -> str | None:
    return None if label is None else " × ".join(map(str, label)) if isinstance(label, tuple) else str(label)


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
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="replace")
    return path
