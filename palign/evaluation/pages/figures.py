"""Pictures of who is served how well; each is a matplotlib Figure made of plain records, narrow enough for a phone.

Names stand above their rows, so that long ones need no margin. What differs in colour differs in shape as well. The
colours are Okabe and Ito's, which people who confuse red and green tell apart, in an order that darkens in grey.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pandas as pd

from palign.evaluation.pages.report_keys import Estimate, GroupRecord
from palign.evaluation.pages.svg import GREY, INK, drawing, has_matplotlib, isolated, shorten, shorten_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["axis_label", "draw_groups", "draw_history", "draw_models", "draw_people", "draw_training"]

WIDTH = 4.1  # inches
WORST, WASH = "#c1440e", "#fbe9e1"
LOOKS = (("o", "#0b3c5d"), ("s", "#56a0d3"), ("^", "#7a7a7a"), ("v", "#009e73"))  # marker and colour of each model
DASHES = ("-", "--", ":", "-.")
SMOOTHED_OVER = 5  # updates
COIN = 0.5  # accuracy of a pair by chance
UNITS = {
    "accuracy": "share of pairs", "log_likelihood": "nats a judgement", "reward": "units of the reward model",
    "gold": "the judge's utility", "kl": "nats",
}  # fmt: skip


class DrawnModel(TypedDict):
    """One model as `draw_models` draws it."""

    model: str
    overall: Estimate
    worst: Estimate
    group: str  # who is worst served


def axis_label(metric: str) -> str:
    """A metric and its unit, where it is one of ours."""
    return f"{metric} ({UNITS[metric]})" if metric in UNITS else metric


def _coin_line(axes: "Axes", metric: str) -> list[Any]:
    """A line at what a coin would reach, where the metric is an accuracy; what a legend says of it."""
    if metric != "accuracy":
        return []
    return [axes.axvline(COIN, color=GREY, linewidth=1.2, linestyle=":", zorder=1, label="a coin: 0.5")]


def new_figure(height: float, **options: Any) -> "Figure":
    """A figure of the common width; options as matplotlib's Figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), **({"layout": "constrained"} | options))


def draw_groups(
    groups: Sequence[str],
    models: Mapping[str, Mapping[str, GroupRecord]],
    *,
    metric: str,
    overall: float | None,
    worst: str,
    unranked: Collection[str] = (),
) -> "Figure":
    """A metric by group with intervals, a band of rows for each group, in the order given.

    Args:
        groups: names, the worst-served first.
        models: name → group → its record of report.json; the first is the one that the page is about.
        metric: what the axis says.
        overall: of the first model, a dashed line.
        worst: the group to point at; empty for none.
        unranked: groups that are listed and not ranked.
    """
    from matplotlib.lines import Line2D

    band = 0.62 + 0.34 * len(models)
    figure = new_figure(0.85 + 0.15 * len(models) + 0.34 * band * len(groups))
    axes = figure.subplots()
    for number, group in enumerate(groups):
        top = number * band
        known = next((m[group] for m in models.values() if group in m), {})
        count = known.get("n_annotators")
        right = f"n = {count:,}{', not ranked' if group in unranked else ''}" if count is not None else ""
        _row_label(axes, top + 0.24, group, right, is_worst=group == worst)
        if group == worst:
            axes.axhspan(top - 0.06, top + band - 0.1, facecolor=WASH, edgecolor=WORST, linewidth=0.8, zorder=0)
        for place, records in enumerate(models.values()):
            look = LOOKS[place % len(LOOKS)]
            if place == 0 and group == worst:
                look = ("D", WORST)
            _interval(axes, records.get(group), top + 0.62 + 0.34 * place, *look, is_main=place == 0)
    lines = [
        Line2D(
            [],
            [],
            marker=LOOKS[i % 4][0],
            color=LOOKS[i % 4][1],
            mfc=LOOKS[i % 4][1] if i == 0 else "white",
            label=isolated(shorten(name, 38)),
        )
        for i, name in enumerate(models)
    ]
    if overall is not None:
        axes.axvline(overall, color=INK, linewidth=1, dashes=(4, 3), zorder=1)
        lines.append(Line2D([], [], color=INK, linewidth=1, dashes=(4, 3), label=f"everybody: {overall:.3f}"))
    lines += _coin_line(axes, metric)
    _finish(axes, len(groups) * band, metric)
    _legend(figure, lines)
    return figure


def draw_models(rows: Sequence[DrawnModel], *, metric: str) -> "Figure":
    """Everybody's mean beside that of the worst-served group, a band for each model."""
    from matplotlib.lines import Line2D

    band = 1.2
    figure = new_figure(1.15 + 0.34 * band * len(rows))
    axes = figure.subplots()
    for number, row in enumerate(rows):
        top = number * band
        _row_label(axes, top + 0.24, row["model"], shorten_label(row["group"], 20), is_worst=False)
        ends = [row[key]["value"] for key in ("worst", "overall")]
        if None not in ends:
            axes.plot(ends, [top + 0.86, top + 0.58], color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        _interval(axes, row["overall"], top + 0.58, "o", LOOKS[0][1], is_main=False)
        _interval(axes, row["worst"], top + 0.86, "D", WORST, is_main=True)
    lines = [
        Line2D([], [], marker="o", color=LOOKS[0][1], mfc="white", label="everybody"),
        Line2D([], [], marker="D", color=WORST, label="the worst-served (named at the right)"),
    ]
    lines += _coin_line(axes, metric)
    _finish(axes, len(rows) * band, metric)
    _legend(figure, lines)
    return figure


def draw_people(models: Mapping[str, Sequence[float]], *, metric: str, higher_is_better: bool = True) -> "Figure":
    """How many people are served how well: the share of people with less than each value, a line for each model.

    Args:
        models: name → (n_annotators,) one value for each person.
    """
    figure = new_figure(3.2 + 0.16 * len(models))
    axes = figure.subplots()
    for place, (name, values) in enumerate(models.items()):
        ordered = np.sort(np.asarray(values, dtype=float))
        if len(ordered) > 400:  # the shape needs no more points
            ordered = np.quantile(ordered, np.linspace(0, 1, 401))
        share = np.linspace(0, 1, len(ordered) + 1)
        color = (LOOKS[0][1], WORST, "#6b6b6b", "#009e73")[place % 4]
        axes.step(
            [ordered[0], *ordered],
            share,
            DASHES[place % 4],
            where="post",
            color=color,
            linewidth=2.2 if place == 0 else 1.6,
            label=isolated(shorten(name, 38)),
        )
    tail = (0.0, 0.1) if higher_is_better else (0.9, 1.0)
    axes.axhspan(*tail, facecolor=WASH, edgecolor=WORST, hatch="////", linewidth=0, zorder=0)
    axes.text(
        0.99,
        sum(tail) / 2,
        "worst-served tenth of people",
        transform=axes.get_yaxis_transform(),
        ha="right",
        va="center",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.1, 0.5, 1.0] if higher_is_better else [0, 0.5, 0.9, 1.0])
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_ylabel("people with less than this")
    _coin_line(axes, metric)
    axes.set_xlabel(shorten(f"a person's {axis_label(metric)}", 46))
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    _legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def draw_history(steps: Sequence[float], lines: Mapping[str, Sequence[float]], kl: Sequence[float] | None) -> "Figure":
    """Reward trained on beside an independent judge's utility, and below them the KL, by update.

    Args:
        steps: (n_updates,).
        lines: `reward` and, if there is a judge, `gold`: (n_updates,) each.
        kl: (n_updates,) nats; None where the trainer measured none.
    """
    from matplotlib.ticker import MaxNLocator

    styles = {"reward": ("reward (trained on)", "-", LOOKS[0][1]), "gold": ("gold utility (judge)", "--", WORST)}
    is_long = len(steps) > SMOOTHED_OVER
    figure = new_figure(2.8 if kl is None else 3.6)
    ratios = [1] if kl is None else [3, 1]
    top, *rest = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    for name, values in lines.items():
        label, dash, color = styles[name]
        smooth = pd.Series(values, dtype=float)
        if is_long:
            top.plot(steps, values, color=color, alpha=0.25, linewidth=1)
            smooth = smooth.rolling(SMOOTHED_OVER, min_periods=1).mean()
        top.plot(steps, smooth, dash, color=color, linewidth=2, label=label)
    top.axhline(0, color=GREY, linewidth=0.8)
    top.set_ylabel("mean of a completion")
    for bottom in rest:
        bottom.plot(steps, kl, color=INK, linewidth=1.5)
        bottom.set_ylabel("KL (nats)")
    lowest = [top, *rest][-1]
    lowest.set_xlabel("update" + (f" (thick lines: mean of {SMOOTHED_OVER})" if is_long else ""))
    lowest.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.align_ylabels()
    _legend(figure, top.get_legend_handles_labels()[0])
    return figure


def draw_training(history: pd.DataFrame, path: Path, *, title: str) -> bool:
    """The reward trained on beside an independent judge's utility: where they part, the reward is being hacked.

    Args:
        history: a row per update, with `step`, `objective/reward` and, where they were measured, `objective/kl` and
            `objective/gold` (a judge's).
        path: where the SVG goes.
        title: above the picture.

    Returns:
        Whether it was drawn; False without matplotlib, or with nothing to draw.
    """
    lines = {name: history[f"objective/{name}"] for name in ("reward", "gold") if f"objective/{name}" in history}
    if not lines or len(history) < 2 or not has_matplotlib():
        return False
    with drawing():
        figure = draw_history(history["step"], lines, history.get("objective/kl"))
        figure.legends[0].set_title(shorten(title, 48), prop={"size": 9.5})  # the one place that neither covers
        figure.legends[0].set_alignment("left")
        figure.savefig(path, metadata={"Date": None})
    return True


def _interval(axes: "Axes", record: Estimate | None, y: float, marker: str, color: str, *, is_main: bool) -> None:
    """A point with its interval, a point alone where there is none; a note where the number is hidden."""
    if record is None or record["value"] is None:
        if record is not None:
            axes.text(
                0,
                y,
                "hidden: too few people",
                transform=axes.get_yaxis_transform(),
                va="center",
                fontsize=8.5,
                style="italic",
                color=GREY,
            )
        return
    if record["low"] is not None and record["high"] is not None:
        axes.plot(
            [record["low"], record["high"]],
            [y, y],
            color=color,
            linewidth=2.6 if is_main else 1.6,
            solid_capstyle="butt",
            zorder=2,
        )
    size = {"D": 8, "o": 7.5}.get(marker, 7) if is_main else 6.5
    axes.plot(
        [record["value"]],
        [y],
        marker=marker,
        markersize=size,
        color=color,
        markerfacecolor=color if is_main else "white",
        markeredgewidth=1.4,
        zorder=3,
    )


def _row_label(axes: "Axes", y: float, name: str, right: str, *, is_worst: bool) -> None:
    """A name above its row at the left, a count at the right; the worst-served is marked as such."""
    where = {"transform": axes.get_yaxis_transform(), "va": "center", "in_layout": False, "zorder": 4}
    where["bbox"] = {"facecolor": WASH if is_worst else "white", "edgecolor": "none", "pad": 0.6}
    room = 30 if is_worst else 40 - len(right)
    axes.text(
        0, y, isolated(shorten_label(name, room)), fontsize=10, fontweight="bold" if is_worst else "normal", **where
    )
    tag = f"worst served · {right}" if is_worst and right else right
    axes.text(
        1,
        y,
        isolated(tag),
        ha="right",
        fontsize=9,
        color=WORST if is_worst else GREY,
        fontweight="bold" if is_worst else "normal",
        **where,
    )


def _finish(axes: "Axes", height: float, metric: str) -> None:
    axes.set_ylim(height, -0.1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(shorten(axis_label(metric), 46))


def _legend(figure: "Figure", handles: Sequence[Any]) -> None:
    longest = max(len(handle.get_label()) for handle in handles)
    figure.legend(handles=list(handles), loc="outside upper left", ncols=2 if longest <= 22 else 1)
