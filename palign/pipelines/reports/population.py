"""Masses as a page and as a picture."""

import html
from collections.abc import Sequence

import pandas as pd

__all__ = ["mass_page", "mass_picture"]

ROW, LEFT, WIDTH = 22, 170, 420
BAR, WHISKER = "#5b8db8", "#1a1a1a"


def mass_page(table: pd.DataFrame, notes: Sequence[str], title: str, level: float) -> str:
    """report.md: the sentences and the table."""
    names = [str(name) for name in table]
    lines = [f"# {title}", "", *(f"{html.escape(note, quote=False)}\n" for note in notes)]
    lines += [f"Intervals and bounds: {level:.0%}.", "", f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(_shown(value) for value in row)} |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def mass_picture(table: pd.DataFrame) -> str:
    """masses.svg: a bar and an interval for each cell, the line from top to bottom."""
    top = max(float(table["high"].max()), float(table.get("mass", table["high"]).max()), 1e-9)
    height = ROW * len(table) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 80} {height}" '
        'font-family="sans-serif" font-size="12">'
    ]
    for number, row in enumerate(table.to_dict("records")):
        y = 5 + ROW * number
        low, high = (LEFT + WIDTH * float(row[name]) / top for name in ("low", "high"))
        label = f"{_shown(row['from'])} to {_shown(row['to'])}" if "from" in row else str(row["sides"])
        parts.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{html.escape(label)}</text>')
        if "mass" in row:
            length = WIDTH * float(row["mass"]) / top
            parts.append(f'<rect x="{LEFT}" y="{y + 3}" width="{length:.1f}" height="14" fill="{BAR}"/>')
        parts.append(f'<path d="M{low:.1f} {y + 10}H{high:.1f}" stroke="{WHISKER}" stroke-width="2"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _shown(value: object) -> str:
    """A number in three digits, or a text as it is."""
    return f"{value:.3f}" if isinstance(value, float) and abs(value) < float("inf") else str(value)
