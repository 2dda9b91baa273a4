"""People among prototypes in a notebook: where they stand, that names are text, what cannot be drawn."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from palign.models.notebook.people_picture import draw_people

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize("n_types", [2, 3, 4, 7])
def test_everybody_has_a_mark_and_every_prototype_a_corner(n_types: int) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(n_types), 20)
    ids, names = [EVIL, *(f"w{i}" for i in range(1, 20))], [EVIL, *(f"p{k}" for k in range(1, n_types))]
    picture = draw_people(weights, ids, names)
    root = ElementTree.fromstring(picture.svg)
    assert len(root.findall(f"{SVG}circle")) == 20 and len(root.findall(f"{SVG}path")) == n_types
    assert "<script" not in picture.svg and root.find(f"{SVG}circle/{SVG}title").text.startswith(f"{EVIL}: ")
    width, height = map(float, root.get("viewBox").split()[2:])
    for mark in root.findall(f"{SVG}circle"):
        assert 0 < float(mark.get("cx")) < width and 0 < float(mark.get("cy")) < height
    assert picture._repr_html_().count("<svg") == 1 and "20 people among" in repr(picture)


def test_a_pure_person_stands_at_the_corner() -> None:
    picture = draw_people(np.array([[0.0, 1.0, 0.0]] * 3), ["a", "b", "c"], ["x", "y", "z"])
    root = ElementTree.fromstring(picture.svg)
    corners = {text.text: float(text.get("x")) for text in root.findall(f"{SVG}text")[:3]}
    for mark in root.findall(f"{SVG}circle"):
        assert float(mark.get("cx")) == pytest.approx(corners["y"], abs=16)  # four standard deviations of the shift


def test_of_very_many_people_some_are_drawn_and_it_says_so() -> None:
    picture = draw_people(np.full((6_000, 2), 0.5), [f"w{i}" for i in range(6_000)], ["x", "y"])
    assert picture.svg.count("<circle") == 5_000 and "5,000 of 6,000 people, drawn at random" in picture.title


def test_what_cannot_be_drawn_and_where_it_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 people and 1 prototypes"):
        draw_people(np.ones((3, 1)), ["a", "b", "c"], ["x"])
    picture = draw_people(np.eye(2), ["a", "b"], ["x", "y"])
    with pytest.raises(ValueError, match=r"does not end in \.svg"):
        picture.save(tmp_path / "p.png")
    assert picture.save(tmp_path / "p.svg").read_text(encoding="utf-8") == picture.svg
