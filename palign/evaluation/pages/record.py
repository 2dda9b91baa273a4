"""Tidy tables → the content of ``report.json``: of every model every number, with counts and intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from palign.evaluation.comparison import compare_models
from palign.evaluation.group_frame import GroupFrame
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.report_keys import (
    ComparisonRecord,
    Estimate,
    FiguresRecord,
    FrameRecord,
    GroupRecord,
    ModelRecord,
    SectionRecord,
    SettingsRecord,
)
from palign.evaluation.statistics.inequality import if_alike
from palign.evaluation.statistics.tables import label_text, people_numbers

__all__ = ["Groups", "Settings", "figures_record", "names_of", "report_sections", "settings_record"]

ALPHA = 0.1
SPREADS = ("worst", "gap", "ratio", "gini", "cvar")
ANNOTATORS_LISTED = 10_000  # above that report.json sums people up and does not list them
Groups = str | tuple[str, ...]


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
    min_ranked_size: int
    level: float
    seed: int
    n_resamples: int

    def frame(self, rows: pd.DataFrame, metrics: Sequence[str], groups: Groups) -> GroupFrame:
        """One model's frame over one grouping."""
        return GroupFrame(
            rows,
            metrics=metrics,
            groups=names_of(groups),
            annotator_column=self.annotator_column,
            weights=self.weights,
            higher_is_better=self.higher_is_better,
            min_group_size=self.min_group_size,
            min_ranked_size=1 if groups == self.annotator_column else self.min_ranked_size,
        )


def figures_record(figures: FigureData, table: pd.DataFrame, settings: Settings) -> FiguresRecord:
    """The part that figures are drawn from; single people are in it only where they may be shown."""
    columns = [groups for groups in settings.groups[1:] if isinstance(groups, str)]
    most = ANNOTATORS_LISTED if settings.min_group_size <= 1 else 0
    return figures.record(table, settings.annotator_column, columns, most)


def report_sections(
    table: pd.DataFrame, baseline: tuple[str, ...], reference: tuple[str, ...], settings: Settings, main: str | None
) -> list[SectionRecord]:
    """A section for the reward models and one for the policies, where there are any."""
    model_metrics = {name: metrics_of(table[table["model"] == name], settings) for name in table["model"].unique()}
    judges = [
        name
        for name in model_metrics
        if "accuracy" in table and table["accuracy"][table["model"] == name].notna().any()
    ]
    policies = [name for name in model_metrics if name not in judges]
    kinds = (("reward models", judges, baseline), ("policies", policies, reference))
    return [
        _section(kind, table, names, model_metrics, against, settings, main) for kind, names, against in kinds if names
    ]


def _section(
    kind: str,
    table: pd.DataFrame,
    names: list[str],
    model_metrics: dict[str, list[str]],
    against: Sequence[str],
    settings: Settings,
    main: str | None,
) -> SectionRecord:
    """Everything about the reward models, or about the policies."""
    models = [_model_record(name, table[table["model"] == name], model_metrics[name], settings) for name in names]
    comparisons, notes = [], []
    baselines = [name for name in against if name in names]
    for first, second in _pairs(names, baselines):
        for groups in settings.groups[1:] or ((),):
            for metric in (metric for metric in model_metrics[second] if metric in model_metrics[first]):
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
    """Every model with every baseline but itself; of two baselines only the earlier with the later."""
    return [
        (first, second)
        for second in names
        for place, first in enumerate(baselines)
        if second not in baselines[: place + 1]
    ]


def _model_record(name: str, rows: pd.DataFrame, metrics: list[str], settings: Settings) -> ModelRecord:
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
) -> FrameRecord:
    """A frame with every statistic and interval, as plain values; `rows_of_people` where its groups are people."""
    options = {"level": settings.level, "seed": settings.seed, "n_resamples": settings.n_resamples, "alpha": ALPHA}
    of_people = rows_of_people is not None
    statistics = ("overall", *SPREADS)
    ends = frame.intervals(statistics if of_people else (*statistics, "by_group"), **options)
    by_group = ends.pop("by_group", None)
    listed = not of_people or (settings.min_group_size <= 1 and len(frame.by_group) <= ANNOTATORS_LISTED)
    record: FrameRecord = {
        "groups": list(names_of(groups)),
        "n_groups": len(frame.by_group),
        "notes": frame.notes,
        "metrics": {},
    }
    chance = {} if rows_of_people is None else _if_alike(rows_of_people, frame, settings)
    for metric in frame.metrics:
        metric_record = {
            stat: _with_ends(frame.estimate(stat, alpha=ALPHA), ends[stat], metric, frame) for stat in ends
        }
        for stat, extreme in (("worst", frame.worst()), ("best", frame.best())):
            metric_record.setdefault(stat, {"value": extreme.loc[metric, "value"]})
            metric_record[stat]["group"] = label_of(extreme.loc[metric, "group"]) if listed else None
            metric_record[stat]["n_annotators"] = extreme.loc[metric, "n_annotators"]
        metric_record["higher_is_better"] = frame.higher_is_better[metric]
        if of_people:
            for stat, value in chance[metric].items():
                metric_record[stat]["if_alike"] = value
            shares = (0.1, 0.5, 0.9)
            metric_record["quantiles"] = dict(
                zip(map(str, shares), frame.by_group[metric].quantile(list(shares)), strict=True)
            )
        metric_record["by_group"] = _group_records(frame, metric, by_group) if listed else []
        record["metrics"][metric] = metric_record
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


def _with_ends(values: np.ndarray, ends: pd.DataFrame, metric: str, frame: GroupFrame) -> Estimate:
    return {"value": values[frame.metrics.index(metric)], **ends.loc[metric].to_dict()}


def _group_records(frame: GroupFrame, metric: str, ends: pd.DataFrame | None) -> list[GroupRecord]:
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
    columns = (*columns, frame.is_ranked, lows, highs)
    for label, people, rows, value, is_ranked, low, high in zip(frame.by_group.index, *columns, strict=True):
        counts = {"n_annotators": people, "n_judgements": rows, "is_ranked": is_ranked}
        records.append({"group": label_of(label), **counts, "value": value, "low": low, "high": high})
    return records


def _comparison_record(
    table: pd.DataFrame, metric: str, models: tuple[str, str], groups: Groups, settings: Settings
) -> ComparisonRecord:
    differences = compare_models(
        table,
        metric=metric,
        models=models,
        groups=names_of(groups),
        keys=(settings.annotator_column, "row"),
        weights=settings.weights,
        higher_is_better=settings.higher_is_better,
        min_group_size=settings.min_group_size,
        min_ranked_size=settings.min_ranked_size,
        level=settings.level,
        seed=settings.seed,
        n_resamples=settings.n_resamples,
    )
    columns = ["first", "second", "difference", "low", "high", "n_annotators", "n_judgements"]
    rows = [
        {"stat": stat, "group": group, **dict(zip(columns, values, strict=True))}
        for (stat, group), *values in differences.itertuples(name=None)  # counts stay whole numbers
    ]
    described = {"first": models[0], "second": models[1], "metric": metric, "groups": list(names_of(groups))}
    return {**described, "n_dropped": differences.attrs["n_dropped"], "rows": rows}


def metrics_of(rows: pd.DataFrame, settings: Settings) -> list[str]:
    """Of the report's metrics those that one model's rows have any number of.

    Raises:
        ValueError: none.
    """
    metrics = [name for name in settings.metrics if rows[name].notna().any()]
    if not metrics:
        raise ValueError(
            f"model {rows['model'].iloc[0]!r} has no number under any of {', '.join(settings.metrics)}; leave it out, "
            "or name its metrics."
        )
    return metrics


def settings_record(
    settings: Settings, baseline: Sequence[str], reference: Sequence[str], judgements: str, remarks: Sequence[str]
) -> SettingsRecord:
    """How the numbers were computed, and what the rows are called; arguments as `write_report` takes them."""
    names = ("weights", "min_group_size", "min_ranked_size", "level", "seed", "n_resamples")
    plain = {name: getattr(settings, name) for name in names}
    grouped = [list(names_of(groups)) for groups in settings.groups]
    plain["opens_with"] = list(names_of(settings.opens_with))
    named = {"metrics": settings.metrics, "groups": grouped, "baseline": baseline, "reference": reference}
    spoken = {"judgements": judgements, "remarks": list(remarks)}
    return {**plain, **named, "annotator_column": settings.annotator_column, "cvar_alpha": ALPHA, **spoken}


def names_of(groups: Groups) -> tuple[str, ...]:
    """Columns of a grouping; several for an intersection."""
    return (groups,) if isinstance(groups, str) else tuple(groups)


def label_of(label: object) -> str | None:
    """A group as text: "DE × 18-25" of an intersection; None where there is no group."""
    return None if label is None else label_text(label)
