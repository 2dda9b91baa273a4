"""Text in figures by hand: cut by width, kept from turning its neighbours; SVG that stands in a page with others."""

import re
from xml.etree import ElementTree

import pytest

from palign.evaluation.pages.svg import drawing, isolated, shorten, shorten_label, to_svg


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("日本語", 6, "日本語"),
        ("日本語学", 6, "日本…"),  # two columns each, and one for the mark
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),  # accents take no room
        ("a\x00b\u202ec\n", 9, "a b c"),
        ("", 3, ""),
        (3.5, 4, "3.5"),
        ("\ud800x", 4, "?x"),
    ],
)
def test_shortened_by_width(text: object, width: int, expected: str) -> None:
    assert shorten(text, width) == expected


def test_every_part_of_an_intersection_keeps_its_beginning() -> None:
    assert shorten_label("Netherlands × 18–29", 30) == "Netherlands × 18–29"
    # 24 columns less 3 for the cross are 10 for each of two; the short one lends its 7 to the long one
    assert shorten_label("United Kingdom of Great Britain × 50+", 24) == "United Kingdom o… × 50+"
    assert len(shorten_label("a" * 40 + " × " + "b" * 40, 25)) <= 25


def test_words_that_run_leftwards_stand_by_themselves() -> None:
    assert isolated("country مصر (13 people)") == "country \u2068مصر\u2069 (13 people)"
    assert isolated("المملكة العربية") == "\u2068المملكة العربية\u2069"
    assert isolated("plain × 50+") == "plain × 50+"


def test_two_figures_share_no_identifier_and_mathematics_is_text() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    found = []
    with drawing():
        for name in ("one", "two"):
            figure = Figure(figsize=(2, 2))
            axes = figure.subplots()
            axes.fill_between([0, 1], [0, 1], hatch="//")
            axes.text(0.5, 0.5, "$x_1$ & <b>")
            found.append(to_svg(figure, name, "A <title>", "words"))
    assert found[0].replace("one-", "two-") == found[1]  # the same bytes every time
    ids = [{e.attrib["id"] for e in ElementTree.fromstring(svg).iter() if "id" in e.attrib} for svg in found]
    assert ids[0] and not ids[0] & ids[1]
    assert "$x_1$ &amp; &lt;b&gt;" in found[0] and "A &lt;title&gt;" in found[0]
    for gone in ("<style", "<metadata", "Date", "matplotlib"):
        assert gone not in found[0]


def test_a_name_that_begins_with_an_underscore_is_in_the_legend() -> None:
    """matplotlib leaves such a label out, and a legend of nothing ended the report after the whole training."""
    from palign.evaluation.pages.figures import draw_people

    figure = draw_people({"_final": [0.1, 0.5, 0.9]}, metric="gold")
    assert [text.get_text().strip("\u2068\u2069") for text in figure.legends[0].get_texts()] == ["_final"]


def test_a_dark_page_changes_the_colours_that_it_must() -> None:
    """Ink and paper follow the page's variables and keep their own colour where no page sets them."""
    from palign.evaluation.pages.figures import draw_people

    with drawing():
        svg = to_svg(draw_people({"m": [0.1, 0.5, 0.9]}, metric="accuracy"), "one", "A", "B")
    assert "var(--ink,#1a1a1a)" in svg and "var(--first,#0b3c5d)" in svg and "var(--worst-wash,#fbe9e1)" in svg
    bare = re.sub(r"var\([^)]*\)", "", svg)
    assert "#1a1a1a" not in bare and "#ffffff" not in bare


def test_an_accuracy_is_drawn_beside_a_coin_and_with_its_unit() -> None:
    from palign.evaluation.pages.figures import draw_people

    axes = draw_people({"m": [0.6, 0.7, 0.9]}, metric="accuracy").axes[0]
    coins = [line for line in axes.lines if list(line.get_xdata()) == [0.5, 0.5]]
    assert len(coins) == 1 and axes.get_xlabel() == "a person's accuracy (share of pairs)"
    axes = draw_people({"m": [0.6, 0.7, 0.9]}, metric="log_likelihood").axes[0]
    assert not [line for line in axes.lines if list(line.get_xdata()) == [0.5, 0.5]]
    assert axes.get_xlabel() == "a person's log_likelihood (nats a judgement)"
