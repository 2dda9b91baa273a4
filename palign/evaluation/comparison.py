"""Two models on the same judgements: paired differences, with the same resampled people on both sides."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from palign.evaluation.group_frame import GroupFrame, direction_of
from palign.evaluation.statistics.intervals import bounds, range_of
from palign.evaluation.statistics.tables import check_columns

__all__ = ["compare_models"]

COMPARED = ("overall", "worst", "gap")


def compare_models(
    table: pd.DataFrame,
    *,
    metric: str,
    models: tuple[str, str],
    groups: str | Sequence[str] | None = None,
    keys: Sequence[str] = ("annotator_id", "row"),
    weights: str = "judgements",
    higher_is_better: Mapping[str, bool] | None = None,
    min_group_size: int = 1,
    min_ranked_size: int = 1,
    level: float = 0.9,
    seed: int = 0,
    n_resamples: int = 1000,
) -> pd.DataFrame:
    """Second model minus first, overall, by group, of the worst group and of the gap.

    Only judgements that both models have count; they are matched by ``keys``, which must name a row once per model.

    Returns:
        Indexed by (``stat``, ``group``) with stats overall, by_group, worst, gap; columns the two models' names,
        ``difference``, ``low``, ``high``, ``n_annotators``, ``n_judgements``. The group of an intersection is written
        "a × b". ``attrs["n_dropped"]`` counts rows of either model without a partner.

    Raises:
        ValueError: an unknown model or column, a judgement twice, or none in common.
    """
    group_columns = [groups] if isinstance(groups, str) else list(groups or [])
    check_columns(table, ["model", metric, *keys, *group_columns])
    wide, n_dropped = _side_by_side(*(_rows_of(table, model) for model in models), models, metric, keys, group_columns)
    if not len(wide):
        raise ValueError(
            f"models {models[0]!r} and {models[1]!r} have no judgement in common by {', '.join(keys)}; score both on "
            "the same rows."
        )
    upwards = (higher_is_better or {}).get(metric, direction_of(metric))
    frame = GroupFrame(
        wide,
        metrics=["first model", "second model"],
        groups=group_columns,
        annotator_column=keys[0],
        weights=weights,
        higher_is_better={"first model": upwards, "second model": upwards},
        min_group_size=min_group_size,
        min_ranked_size=min_ranked_size,
    )
    wanted = [(stat, True) for stat in ("by_group", *COMPARED)] + [("worst", False), ("gap", False)]
    replicates = dict(zip(wanted, frame.several_replicates(wanted, seed=seed, n_resamples=n_resamples), strict=True))
    differences = pd.concat([_differences(frame, stat, models, level, replicates) for stat in ("by_group", *COMPARED)])
    least, most = range_of(metric, table[metric][table["model"].isin(models)].to_numpy())
    differences[["low", "high"]] = differences[["low", "high"]].clip(least - most, most - least)
    differences.attrs["n_dropped"] = n_dropped
    return differences


def _rows_of(table: pd.DataFrame, model: str) -> pd.DataFrame:
    rows = table[table["model"] == model]
    if not len(rows):
        known = ", ".join(map(repr, table["model"].unique()))
        raise ValueError(f"the table has no model {model!r}; it has {known}.")
    return rows


def _side_by_side(
    first: pd.DataFrame,
    second: pd.DataFrame,
    models: tuple[str, str],
    metric: str,
    keys: Sequence[str],
    group_columns: Sequence[str],
) -> tuple[pd.DataFrame, int]:
    """Judgements that both have, the metric as `first model` and `second model`; and how many rows have no partner."""
    names = list(dict.fromkeys([*keys, *group_columns]))
    is_one_order = len(first) == len(second) and all((first[key].array == second[key].array).all() for key in keys)
    _refuse_twice(first, models[0], keys)
    if is_one_order:  # the usual case, and no need to look for partners
        columns = {"first model": first[metric].to_numpy(), "second model": second[metric].to_numpy()}
        return first[names].reset_index(drop=True).assign(**columns), 0
    _refuse_twice(second, models[1], keys)
    wide = first[names]
    for side, name in ((first, "first model"), (second, "second model")):
        wide = wide.merge(side[[*keys, metric]].rename(columns={metric: name}), on=list(keys))
    return wide, len(first) + len(second) - 2 * len(wide)


def _refuse_twice(rows: pd.DataFrame, model: str, keys: Sequence[str]) -> None:
    twice = rows.duplicated(list(keys))
    if twice.any():
        example = rows.loc[twice, list(keys)].iloc[0].to_dict()
        raise ValueError(
            f"model {model!r} has the judgement {example} more than once; {' and '.join(keys)} must name a row once "
            "per model, or there is no telling which belong together."
        )


def _differences(
    frame: GroupFrame,
    stat: str,
    models: tuple[str, str],
    level: float,
    replicates: Mapping[tuple[str, bool], np.ndarray],
) -> pd.DataFrame:
    """`replicates` are by (statistic, with extremes held)."""
    values = np.atleast_2d(frame.estimate(stat))
    draws, free = replicates[stat, True], replicates.get((stat, False))
    degrees = np.min(np.atleast_2d(frame.degrees_of_freedom(stat)), axis=-1)
    difference = np.squeeze(values[:, 1] - values[:, 0]) if stat != "by_group" else values[:, 1] - values[:, 0]
    change, free = (None if part is None else part[..., 1] - part[..., 0] for part in (draws, free))
    low, high = bounds(difference, change, level, np.squeeze(degrees), free=free)
    if stat == "by_group":
        names = [" × ".join(label) if isinstance(label, tuple) else label for label in frame.labels]
        people, rows = frame.by_group["n_annotators"].to_numpy(), frame.by_group["n_judgements"].to_numpy()
    else:
        names, people, rows = [""], [frame.n_annotators], [frame.n_judgements]
    columns = {models[0]: values[:, 0], models[1]: values[:, 1], "difference": difference, "low": low, "high": high}
    counts = {"n_annotators": people, "n_judgements": rows}
    index = pd.MultiIndex.from_product([[stat], names], names=["stat", "group"])
    return pd.DataFrame({name: np.atleast_1d(column) for name, column in {**columns, **counts}.items()}, index=index)
