"""Matplotlib figures as SVG that can stand inside a page: the same bytes every time, and names are text.

Text stays text (``svg.fonttype`` none), so that a browser draws scripts for which matplotlib has no font, and a reader
can search it; mathematics in ``$…$`` is off. Identifiers are dropped or made unique to the figure, since several stand
in one page.
"""

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawing", "has_matplotlib", "isolated", "shorten", "shorten_label", "to_svg"]

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]+")
LEFTWARDS = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"  # Hebrew, Arabic and their kin
LEFTWARD_RUN = re.compile(f"[{LEFTWARDS}](?:[{LEFTWARDS}\\s'’.·-]*[{LEFTWARDS}])?")
INK, GREY = "#1a1a1a", "#595959"
VARIABLES = {
    INK: "--ink", GREY: "--soft", "#dddddd": "--line", "#ffffff": "--paper", "#c1440e": "--worst",
    "#fbe9e1": "--worst-wash", "#0b3c5d": "--first", "#6b6b6b": "--mid", "#7a7a7a": "--mid", "#000000": "--ink",
}  # fmt: skip
VARIABLE = re.compile("|".join(VARIABLES), re.I)
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "palign",
    "text.parse_math": False,
    "text.usetex": False,
    "axes.unicode_minus": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Noto Sans", "Arial"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def has_matplotlib() -> bool:
    """Whether the optional extra `report` is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def drawing() -> Iterator[None]:
    """Our style and nothing of the user's; a glyph that matplotlib lacks is left to the browser."""
    import matplotlib
    import matplotlib.style

    with warnings.catch_warnings(), matplotlib.rc_context(), matplotlib.style.context(["default", STYLE]):
        warnings.filterwarnings("ignore", message=".*(Glyph|glyph|font family|Font family).*")
        yield


def isolated(text: str) -> str:
    """Text written right to left, between marks that keep it from turning the numbers and brackets about it.

    So is one that begins with _, which matplotlib would leave out of a legend.
    """
    if text.startswith("_"):
        return f"\u2068{text}\u2069"
    return LEFTWARD_RUN.sub("\u2068\\g<0>\u2069", text)


def shorten_label(text: object, width: int) -> str:
    """`shorten` for a group; of an intersection "a × b" every part keeps its beginning."""
    parts = str(text).split(" × ")
    whole = " × ".join(shorten(part, width) for part in parts)
    if len(parts) == 1 or sum(map(_columns, whole)) <= width:
        return shorten(whole, width)
    room = width - 3 * (len(parts) - 1)
    lengths = [sum(map(_columns, part)) for part in parts]
    share = max(4, room // len(parts))
    spare = sum(max(0, share - length) for length in lengths)
    n_long = sum(length > share for length in lengths)
    return " × ".join(shorten(part, share + (spare // n_long if n_long else 0)) for part in parts)


def shorten(text: object, width: int) -> str:
    """One line of at most ``width`` columns, cut with an ellipsis; wide characters count twice, marks not at all.

    Control characters and those that turn the direction of what follows become spaces.
    """
    plain = UNPRINTABLE.sub(" ", str(text).encode("utf-8", "replace").decode()).strip()
    used, kept = 0, []
    for character in plain:
        used += _columns(character)
        if used > width:
            used -= _columns(character)
            while kept and used > width - 1:
                used -= _columns(kept.pop())
            return "".join(kept).rstrip() + "…"
        kept.append(character)
    return plain


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def to_svg(figure: "Figure", name: str, title: str, description: str) -> str:
    """The figure as one ``<svg>`` element.

    Args:
        name: letters and digits, unique in the page; begins every identifier in it.
        title, description: what a screen reader says.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):  # a style in it would be one of the whole page
        for child in [c for c in parent if c.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style")]:
            parent.remove(child)
    _rename(root, name)
    _follow_the_page(root)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc", "class": "figure"}
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = UNPRINTABLE.sub(" ", text)
        root.insert(place, element)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _follow_the_page(root: ElementTree.Element) -> None:
    """Colours that a dark page must change become the page's variables; by themselves they stay as they are."""
    for element in root.iter():
        for name in ("fill", "stroke"):  # of a hatch; a variable is understood in a style alone
            if element.attrib.get(name, "").lower() in VARIABLES:
                element.attrib["style"] = f"{name}: {element.attrib.pop(name)}; {element.attrib.get('style', '')}"
        style = element.attrib.get("style", "")
        if "#" in style:
            element.attrib["style"] = VARIABLE.sub(lambda m: f"var({VARIABLES[m[0].lower()]},{m[0]})", style)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Identifiers that are pointed at get the figure's name in front, all others go."""
    href = f"{{{XLINK}}}href"
    pointed = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            pointed |= set(re.findall(r"url\(#([^)]+)\)", value))
            if key == href and value.startswith("#"):
                pointed.add(value[1:])
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                if value in pointed:
                    element.attrib["id"] = f"{name}-{value}"
                else:
                    del element.attrib["id"]
            elif key == href and value.startswith("#"):
                element.attrib[key] = f"#{name}-{value[1:]}"
            elif "url(#" in value:
                element.attrib[key] = value.replace("url(#", f"url(#{name}-")
