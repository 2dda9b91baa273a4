"""People among prototypes as SVG, for a notebook: a mark for each person, a corner for each prototype."""

from collections.abc import Sequence
from html import escape

import numpy as np

from palign.models.notebook.drawing import Drawing
from palign.models.notebook.places import place_people

__all__ = ["draw_people"]

COLORS = ("#0b3c5d", "#e69f00", "#c1440e", "#56b4e9", "#009e73", "#cc79a7", "#8c8c8c", "#b8a800")
SIDE, MARGIN, BAND = 300, 70, 60  # pixels; people between two types stand at any height of the band
JITTER = 4  # pixels, which keep equal people apart
MOST_DRAWN = 5_000


def draw_people(weights: np.ndarray, ids: Sequence[str], names: Sequence[str], *, seed: int = 0) -> Drawing:
    """Everybody between the corners, in the colour of their largest weight; a pointer on a mark shows id and weights.

    Args:
        weights: (n_people, n_types), rows sum to 1; of more than 5,000 people as many are drawn at random.
        ids: (n_people,).
        names: (n_types,) at the corners.
        seed: of the draw and of the small shifts.

    Raises:
        ValueError: nobody, or one type alone, between which and nothing nobody can stand.
    """
    if len(ids) == 0 or weights.shape[1] < 2:
        raise ValueError(
            f"{len(ids):,} people and {weights.shape[1]} prototypes: a picture of people among prototypes needs "
            "somebody, and two prototypes or more."
        )
    rng, n_all = np.random.default_rng(seed), len(ids)
    drawn = np.sort(rng.choice(n_all, MOST_DRAWN, replace=False)) if n_all > MOST_DRAWN else np.arange(n_all)
    weights = np.asarray(weights, dtype=float)[drawn]
    points, corners = place_people(weights)
    low, size = corners.min(axis=0), np.ptp(corners, axis=0)
    high = BAND if weights.shape[1] == 2 else SIDE * size[1] / size[0]

    def pixels(places: np.ndarray) -> np.ndarray:
        x = MARGIN + (places[:, 0] - low[0]) / size[0] * SIDE
        share = (places[:, 1] - low[1]) / size[1] if size[1] else np.full(len(places), 0.5)
        return np.c_[x, MARGIN + high * (1 - share)]

    shift = rng.normal(size=points.shape) * JITTER
    if weights.shape[1] == 2:
        shift = np.c_[np.zeros(len(points)), rng.uniform(-BAND / 2, BAND / 2, len(points))]
    marks = pixels(points) + shift
    parts = [_corner(*place, name, below=place[1] > MARGIN + high / 2 - 1)
             for place, name in zip(pixels(corners), names, strict=True)]  # fmt: skip
    for number, place, row in zip(drawn, marks, weights, strict=True):
        shares = ", ".join(f"{name} {share:.2f}" for name, share in zip(names, row, strict=True))
        parts.append(
            f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="4" fill="{COLORS[int(row.argmax()) % len(COLORS)]}" '
            f'fill-opacity=".75"><title>{escape(str(ids[number]))}: {escape(shares)}</title></circle>'
        )
    shown = f"{n_all:,} people" if len(drawn) == n_all else f"{len(drawn):,} of {n_all:,} people, drawn at random"
    title = f"{shown} among {len(names)} prototypes"
    width, height = SIDE + 2 * MARGIN, high + 2 * MARGIN
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'font-family="DejaVu Sans, Noto Sans, Arial, sans-serif" font-size="13"><title>{escape(title)}</title>'
        f'{"".join(parts)}<text x="{width / 2:.0f}" y="{height - 8:.0f}" text-anchor="middle" font-size="11" '
        f'fill="#595959">{escape(title)}; a corner (+) is somebody of one only</text></svg>'
    )
    return Drawing(svg, title)


def _corner(x: float, y: float, name: str, *, below: bool) -> str:
    """A cross and a name."""
    short = name if len(name) <= 18 else name[:17] + "…"
    return (
        f'<path d="M{x - 6:.1f} {y:.1f} h12 M{x:.1f} {y - 6:.1f} v12" stroke="#1a1a1a" stroke-width="1.5"/>'
        f'<text x="{x:.1f}" y="{y + (24 if below else -14):.1f}" text-anchor="middle" font-weight="600" '
        f'fill="#1a1a1a">{escape(short)}</text>'
    )
