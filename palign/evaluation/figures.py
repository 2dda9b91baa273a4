"""Pictures that a report points to; drawn where matplotlib is installed (`pip install palign[report]`)."""

from pathlib import Path

import pandas as pd

__all__ = ["draw_training"]

SMOOTHED_OVER = 5  # updates


def draw_training(history: pd.DataFrame, path: Path, *, title: str) -> bool:
    """The reward trained on beside an independent judge's utility: where they part, the reward is being hacked.

    Args:
        history: a row per update, with `step`, `objective/reward`, `objective/kl` and, if there is a judge,
            `objective/gold`.
        path: where the SVG goes.
        title: above the picture.

    Returns:
        Whether it was drawn; False without matplotlib, or with nothing to draw.
    """
    lines = {
        "objective/reward": ("PAL reward (trained on)", "-", "#0072b2"),
        "objective/gold": ("gold utility (judge)", "--", "#d55e00"),
    }
    lines = {name: style for name, style in lines.items() if name in history}
    if not lines or len(history) < 2:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for name, (label, style, color) in lines.items():
        smooth = history[name].rolling(SMOOTHED_OVER, min_periods=1).mean()
        top.plot(history["step"], history[name], color=color, alpha=0.2, linewidth=1)
        top.plot(history["step"], smooth, style, color=color, linewidth=2, label=label)
    top.axhline(0, color="#888888", linewidth=0.8)
    top.set_ylabel("per completion")
    top.set_title(title, loc="left")
    top.legend(frameon=False, loc="upper left")
    bottom.plot(history["step"], history["objective/kl"], color="#333333", linewidth=1.5)
    bottom.set_ylabel("KL (nats)")
    bottom.set_xlabel(f"update (thick lines: mean of {SMOOTHED_OVER})")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return True
