"""One GroupFrame as a picture, for a notebook: the report's own, of a single model."""

from typing import TYPE_CHECKING

import numpy as np

from palign.evaluation.pages.figures import draw_groups
from palign.evaluation.pages.report_keys import GroupRecord
from palign.evaluation.pages.svg import drawing, has_matplotlib, to_svg
from palign.evaluation.statistics.tables import label_text
from palign.models.notebook.drawing import Drawing

if TYPE_CHECKING:
    from palign.evaluation.group_frame import GroupFrame

__all__ = ["draw_frame"]

MOST_GROUPS = 40
N_RESAMPLES = 500


def draw_frame(frame: "GroupFrame", metric: str, *, level: float, seed: int) -> Drawing:
    """A metric by group with intervals, the worst-served first; see :meth:`GroupFrame.plot`."""
    if metric not in frame.metrics:
        raise ValueError(f"the frame has no metric {metric!r}; it has {', '.join(frame.metrics)}.")
    if not has_matplotlib():
        raise RuntimeError(
            "A picture of a frame needs matplotlib, which is not installed: pip install 'palign[report]'."
        )
    ends = frame.interval("by_group", level=level, seed=seed, n_resamples=N_RESAMPLES)
    ends = ends.xs(metric, level="metric")[["low", "high"]].to_numpy()
    sign = 1 if frame.higher_is_better[metric] else -1
    values = frame.by_group[metric].to_numpy(dtype=float)
    order = np.lexsort((sign * values, ~frame.is_ranked, np.isnan(values)))[:MOST_GROUPS]
    records = {label_text(frame.labels[i]): _record(frame, i, values[i], ends[i]) for i in order}
    worst = frame.worst().loc[metric, "group"]
    ranked = int(frame.is_ranked.sum())
    title = f"{metric} by {' × '.join(map(str, frame.group_columns)) or 'everybody'}"
    with drawing():
        figure = draw_groups(
            list(records), {"this frame": records}, metric=metric, overall=float(frame.overall[metric]),
            worst=label_text(worst) if worst is not None and ranked > 1 else "",
            unranked={name for name, record in records.items() if not record["is_ranked"]},
        )  # fmt: skip
        shown = "; ".join(f"{name} {record['value']:.3f}" for name, record in records.items() if record["value"])
        left_out = (
            f" {len(values) - len(order)} better-served groups are left out." if len(values) > len(order) else ""
        )
        svg = to_svg(figure, "frame", title, f"{shown}.{left_out}")
    return Drawing(svg, title)


def _record(frame: "GroupFrame", place: int, value: float, ends: np.ndarray) -> GroupRecord:
    low, high = (None if np.isnan(end) else float(end) for end in ends)
    counts = {name: int(frame.by_group[name].iloc[place]) for name in ("n_annotators", "n_judgements")}
    name, is_ranked = label_text(frame.labels[place]), bool(frame.is_ranked[place])
    known = None if np.isnan(value) else float(value)
    return {"group": name, **counts, "is_ranked": is_ranked, "value": known, "low": low, "high": high}
