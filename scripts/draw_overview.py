"""The picture of README and of the site's first page: `docs/overview[-narrow]-{light,dark}.svg`.

python scripts/draw_overview.py

From judgements with names, to tastes that are found in them, to what palign makes of them. Each picture comes wide and
narrow (for a phone), light and dark; a page chooses by `<picture>`. The files hold no script, no font and no address.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
DESCRIPTION = (
    "Five people judged two answers each and disagree. palign places people among tastes that it finds, here three. "
    "From that come a reward for each person, a policy for each taste, one policy that no taste loses much by, and a "
    "report of whom each of them serves worst."
)
JUDGEMENTS = (("ann", "A", 0), ("bea", "B", 1), ("cai", "A", 0), ("dan", "B", 2), ("eve", "A", 1))
PLACES = ((0.9, 0.06), (0.82, 0.12), (0.78, 0.05), (0.7, 0.2), (0.08, 0.86), (0.05, 0.78), (0.16, 0.76), (0.22, 0.66),
          (0.06, 0.1), (0.12, 0.05), (0.1, 0.18), (0.44, 0.46), (0.4, 0.2), (0.2, 0.32))  # fmt: skip
OUTCOMES = ("a reward for each person", "a policy for each taste", "one policy no taste loses much by")
SERVED = (0.92, 0.86, 0.55)  # how well the report's three bars are


@dataclass(frozen=True)
class Palette:
    """Colours of one scheme; the three tastes keep theirs in both, and differ in shape as well."""

    ink: str
    soft: str
    line: str
    wash: str
    worst: str
    tastes: tuple[str, str, str]


PALETTES = {
    "light": Palette("#1f2328", "#57606a", "#c4ccd4", "#f6f8fa", "#b3400b", ("#0b5394", "#d07a00", "#0a7d5a")),
    "dark": Palette("#e6edf3", "#9aa7b4", "#3d4650", "#161b22", "#ff8a4c", ("#6cb6ff", "#f0b04f", "#4cc9a0")),
}


def text(
    x: float, y: float, words: str, colour: str, *, size: float = 15, anchor: str = "start", weight: int = 400
) -> str:
    """One line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size:g}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def mark(x: float, y: float, taste: int, palette: Palette) -> str:
    """A person of one taste: circle, square or triangle."""
    colour = palette.tastes[taste]
    if taste == 0:
        return f'<circle cx="{x:g}" cy="{y:g}" r="6.5" fill="{colour}"/>'
    if taste == 1:
        return f'<rect x="{x - 5.8:g}" y="{y - 5.8:g}" width="11.6" height="11.6" fill="{colour}"/>'
    return f'<path d="M{x:g} {y - 7.5:g} l7 12.6 h-14 z" fill="{colour}"/>'


def judgements(x: float, y: float, palette: Palette) -> list[str]:
    """Who prefers what, 190 wide and 205 high."""
    parts = [text(x, y + 16, "Who judged what", palette.ink, size=16, weight=600)]
    for number, (name, answer, _) in enumerate(JUDGEMENTS):
        top = y + 32 + 34 * number
        parts += [
            f'<rect x="{x:g}" y="{top:g}" width="190" height="28" rx="5" fill="{palette.wash}" '
            f'stroke="{palette.line}"/>',
            text(x + 12, top + 19, name, palette.ink, weight=600),
            text(x + 58, top + 19, f"prefers answer {answer}", palette.soft),
        ]
    return parts


def tastes(x: float, y: float, palette: Palette) -> list[str]:
    """People between three tastes, 220 wide and 205 high."""
    left, right, top = (x + 18, y + 176), (x + 202, y + 176), (x + 110, y + 46)
    corners = (left, right, top)
    parts = [
        text(x + 110, y + 16, "Tastes found among them", palette.ink, size=16, weight=600, anchor="middle"),
        f'<path d="M{left[0]:g} {left[1]:g} L{right[0]:g} {right[1]:g} L{top[0]:g} {top[1]:g} z" fill="none" '
        f'stroke="{palette.line}" stroke-width="1.5"/>',
    ]
    for a, b in PLACES:
        weights = (a, b, 1 - a - b)
        place = [sum(w * corner[i] for w, corner in zip(weights, corners, strict=True)) for i in (0, 1)]
        parts.append(mark(*place, weights.index(max(weights)), palette))
    return [*parts, text(x + 110, y + 203, "a mark is a person", palette.soft, size=14, anchor="middle")]


def outcomes(x: float, y: float, palette: Palette) -> list[str]:
    """What comes of it, 270 wide and 205 high."""
    parts = [text(x, y + 16, "What you get", palette.ink, size=16, weight=600)]
    for number, words in enumerate(OUTCOMES):
        top = y + 32 + 34 * number
        parts += [
            f'<rect x="{x:g}" y="{top:g}" width="285" height="28" rx="5" fill="{palette.wash}" '
            f'stroke="{palette.line}"/>',
            text(x + 10, top + 19, words, palette.ink, size=14.5),
        ]
    parts.append(text(x, y + 152, "and a report: who is served worst?", palette.ink, size=14))
    for number, share in enumerate(SERVED):
        top, is_worst = y + 162 + 15 * number, share == min(SERVED)
        colour = palette.worst if is_worst else palette.soft
        parts += [
            mark(x + 7, top + 6, number, palette),
            f'<rect x="{x + 24:g}" y="{top + 1:g}" width="{170 * share:g}" height="10" fill="{colour}"/>',
        ]
        if is_worst:
            parts.append(text(x + 32 + 170 * share, top + 11, "worst served", colour, size=14, weight=600))
    return parts


def arrow(x: float, y: float, palette: Palette, *, down: bool) -> str:
    """An arrow of 28 units that begins at (x, y)."""
    turn = 90 if down else 0
    return (
        f'<path transform="translate({x:g} {y:g}) rotate({turn})" d="M0 0 H25 M17 -7 L26 0 L17 7" fill="none" '
        f'stroke="{palette.soft}" stroke-width="2"/>'
    )


def picture(palette: Palette, *, narrow: bool) -> str:
    """The whole SVG, its parts beside one another or one below another."""
    if narrow:
        size = (340, 742)
        places = ((75, 8), (60, 262), (20, 522))
        arrows = ((170, 216), (170, 480))
    else:
        size = (850, 222)
        places = ((4, 6), (254, 6), (556, 6))
        arrows = ((213, 116), (497, 116))
    parts = [f"<title>From judgements with names to models for everybody</title><desc>{DESCRIPTION}</desc>"]
    for draw, place in zip((judgements, tastes, outcomes), places, strict=True):
        parts += draw(*place, palette)
    parts += [arrow(*place, palette, down=narrow) for place in arrows]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" '
        f'height="{size[1]}" role="img" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', Arial, sans-serif\">"
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def pictures() -> dict[str, str]:
    """Every file of the picture, name → SVG."""
    return {
        f"overview{'-narrow' if narrow else ''}-{scheme}.svg": picture(palette, narrow=narrow)
        for scheme, palette in PALETTES.items()
        for narrow in (False, True)
    }


def main() -> None:
    """Write them."""
    for name, svg in pictures().items():
        (DOCS / name).write_text(svg, encoding="utf-8")
        print(DOCS / name)


if __name__ == "__main__":
    main()
