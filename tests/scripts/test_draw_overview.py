"""The picture of README: the files are what the script draws, every name leads to one, nothing is fetched."""

import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from tests.worlds.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("draw_overview")


def test_the_files_are_those_of_the_script(script: ModuleType) -> None:
    drawn = script.pictures()
    assert len(drawn) == 4
    for name, svg in drawn.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == svg, f"run scripts/draw_overview.py: {name}"


def test_pages_name_pictures_that_are_there() -> None:
    for page in ("README.md", "docs/index.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = re.findall(r"(?:srcset|src)=\"([^\"#]+)", text)
        assert named, page
        assert [name for name in named if not (ROOT / page).parent.joinpath(name).is_file()] == [], page


def test_a_picture_fetches_nothing_and_says_what_it_shows(script: ModuleType) -> None:
    for svg in script.pictures().values():
        root = ElementTree.fromstring(svg)
        kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert kinds <= {"svg", "title", "desc", "text", "rect", "circle", "path"}
        assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
        assert len(root.find("{http://www.w3.org/2000/svg}desc").text) > 100


def test_texts_stay_within_the_narrow_picture(script: ModuleType) -> None:
    """At .62 em a character, which is wider than any font of the list; a text that is cut off was the old picture."""
    root = ElementTree.fromstring(script.picture(script.PALETTES["light"], narrow=True))
    width = float(root.get("width"))
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        length = 0.62 * float(text.get("font-size")) * len(text.text)
        left = float(text.get("x")) - (length / 2 if text.get("text-anchor") == "middle" else 0)
        assert left >= 0 and left + length <= width, text.text
