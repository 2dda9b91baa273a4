"""Pictures of types: where people stand among them, and what each loses under each policy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from palign.evaluation.pages.figures import WIDTH, WORST, new_figure
from palign.evaluation.pages.report_keys import RegretsRecord
from palign.evaluation.pages.svg import GREY, INK, isolated, shorten, shorten_label
from palign.models.files.card import decimals
from palign.models.notebook.places import place_people

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_regrets", "draw_type_space"]

MARKERS = "osD^vP*X"
COLORS = ("#0b3c5d", "#e69f00", "#c1440e", "#56b4e9", "#009e73", "#cc79a7", "#8c8c8c", "#f0e442")
JITTER = 0.02
LABELS = {2: (16, 18), 3: (16, 18)} | {n: (14, 18) for n in range(4, 9)} | {9: (9, 0)}  # characters, by types
BAND = 0.3  # people between two types stand at any height of it, so that each is seen


def draw_type_space(
    weights: Sequence[Sequence[float]],
    names: Sequence[str],
    groups: Sequence[str],
    *,
    likes: Sequence[str] = (),
    seed: int = 0,
) -> "Figure":
    """Everybody as a point between the pure types, in the shape and colour of their group.

    Args:
        weights: (n_annotators, n_types).
        names: of the types.
        groups: (n_annotators,) the group to mark each by; of more than eight the last share one look.
        likes: (n_types,) what each likes, in a few words; empty for none.
        seed: of the small shifts that keep equal people apart.
    """
    weights = np.asarray(weights, dtype=float)
    points, corners = place_people(weights)
    rng, is_line = np.random.default_rng(seed), weights.shape[1] == 2
    if is_line:
        points = points + np.c_[np.zeros(len(points)), rng.uniform(-BAND, BAND, len(points))]
    else:
        points = points + rng.normal(size=points.shape) * JITTER
    group_order = sorted(set(groups), key=lambda group: (-list(groups).count(group), group))
    figure = new_figure((2.4 if is_line else WIDTH) + 0.18 * min(len(group_order), 8))
    axes = figure.subplots()
    _frame(axes, corners, names, likes or [""] * len(names), is_line)
    alpha = float(np.clip(60 / max(len(points), 1) ** 0.5 / 8, 0.15, 0.75))
    codes = np.array([min(group_order.index(group), 7) for group in groups])
    for code in range(min(len(group_order), 8)):
        group_points = points[codes == code]
        label = group_order[code] if code < 7 or len(group_order) == 8 else f"{len(group_order) - 7} further groups"
        axes.plot(
            group_points[:, 0],
            group_points[:, 1],
            MARKERS[code],
            color=COLORS[code],
            markeredgecolor=INK,
            markeredgewidth=0.5,
            alpha=alpha,
            markersize=7 if MARKERS[code] == "*" else 5.5,
            label=f"{isolated(shorten_label(label, 30))} (n = {len(group_points):,})",
        )
    handles = axes.get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside upper left", ncols=1)
    for handle in figure.legends[0].legend_handles:
        handle.set_alpha(1)
    return figure


def _frame(axes: "Axes", corners: np.ndarray, names: Sequence[str], likes: Sequence[str], is_line: bool) -> None:
    """The pure types and the lines between them."""
    around = corners[np.argsort(np.arctan2(*(corners - corners.mean(axis=0)).T))]
    if len(around) > 2:
        axes.fill(around[:, 0], around[:, 1], facecolor="none", edgecolor=GREY, linewidth=1)
    if is_line:
        axes.plot(corners[:, 0], corners[:, 1], color=GREY, linewidth=1, zorder=0)
    size, is_round = np.ptp(corners, axis=0).max() or 1.0, len(names) > 3
    for corner, name, liked in zip(corners, names, likes, strict=True):
        axes.plot(*corner, "+", color=INK, markersize=10, markeredgewidth=1.4)
        _corner_label(axes, corner - corners.mean(axis=0), corner, (name, liked), size, len(names))
    margin = size * np.array([0.36, 0.22] if is_round else [0.16, 0.16])
    low, high = corners.min(axis=0) - margin, corners.max(axis=0) + margin
    axes.set_xlim(low[0], high[0])
    axes.set_ylim((-BAND - 0.22, BAND + 0.05) if is_line else (low[1], high[1]))
    if not is_line:
        axes.set_aspect("equal")
    axes.axis("off")


def _corner_label(
    axes: "Axes", away: np.ndarray, corner: np.ndarray, texts: tuple[str, str], size: float, n_types: int
) -> None:
    """The name of a type and, below it, what it likes; outside of the corners, below the lower ones."""
    name, liked = (shorten(text, width) for text, width in zip(texts, LABELS[min(n_types, 9)], strict=True))
    away = away / (np.linalg.norm(away) or 1.0)
    below = n_types == 2 or away[1] < -0.05
    away_by = BAND + 0.12 if n_types == 2 else 0.05
    place = corner + size * np.array([0.0, -away_by if below else away_by])
    side = "center" if n_types > 3 or abs(away[0]) <= 0.3 else "left" if away[0] < 0 else "right"
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
    common = {"ha": side, "va": "top" if below else "bottom", "bbox": paper, "textcoords": "offset points"}
    first, second = (0, -14) if below else (13 if liked else 0, 0)
    common |= {"annotation_clip": False}
    axes.annotate(isolated(name), place, xytext=(0, first), fontsize=9.5, fontweight="bold", **common)
    if liked:
        axes.annotate(isolated(liked), place, xytext=(0, second), fontsize=8.5, color=GREY, **common)


def draw_regrets(record: RegretsRecord) -> "Figure":
    """Regret of every type under every policy as a heat map, with the game's weights at its sides.

    Args:
        record: only what every report on regrets has is drawn.
    """
    from matplotlib.colors import LinearSegmentedColormap

    values = np.asarray(record["values"], dtype=float).T
    order = np.argsort(values.max(axis=1), kind="stable")
    values, names = values[order], [record["policies"][i] for i in order]
    shares = [(record.get("policy_weights") or [None] * len(names))[i] for i in order]
    n_rows, n_types = values.shape
    figure = new_figure(1.35 + 0.52 * n_rows)
    axes = figure.subplots()
    paper = LinearSegmentedColormap.from_list("regret", ["#fefefe", "#f7c9a9", WORST, "#5c1f05"])
    low, high = min(0.0, float(values.min())), max(float(values.max()), 1e-12)
    places = decimals(high, 2)
    for row in range(n_rows):
        is_chosen = names[row] == record.get("chosen")
        label = isolated(shorten(names[row], 30)) + (" (chosen)" if is_chosen else "")
        axes.text(-0.5, row - 0.34, label, fontsize=9.5, va="center", fontweight="bold" if is_chosen else "normal")
        worst = int(values[row].argmax())
        for column in range(n_types):
            share = (values[row, column] - low) / (high - low)
            axes.fill_between(
                [column - 0.48, column + 0.48],
                row - 0.16,
                row + 0.36,
                facecolor=paper(share),
                edgecolor=INK if column == worst else "#bbbbbb",
                linewidth=1.6 if column == worst else 0.5,
            )
            axes.text(
                column,
                row + 0.1,
                f"{values[row, column]:z.{places}f}",
                ha="center",
                va="center",
                fontsize=9,
                color="#fefefe" if share > 0.55 else "#1b1b1b",  # not of the page's own: cells keep theirs, too
                fontweight="bold" if column == worst else "normal",
            )
        if shares[row] is not None:
            axes.text(n_types - 0.4, row + 0.1, f"{100 * shares[row]:.0f} %", va="center", fontsize=9)
    if any(share is not None for share in shares):
        axes.text(n_types - 0.4, -0.9, "weight", va="center", fontsize=8.5, color=GREY)
    duals = record.get("type_weights")
    for column, name in enumerate(record["types"]):
        head = isolated(shorten(name, max(6, 34 // n_types))) + (f"\n{100 * duals[column]:.0f} %" if duals else "")
        axes.text(column, -0.9, head, ha="center", va="center", fontsize=9)
    axes.set_xlim(-0.55, n_types + (0.25 if any(s is not None for s in shares) else -0.4))
    axes.set_ylim(n_rows - 0.5, -1.25)
    axes.axis("off")
    return figure
