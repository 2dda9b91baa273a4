"""report.html: text stays text, nothing is fetched or run, every figure is there and says in words what it shows."""

import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from palign.evaluation.pages import html_page as report_html
from palign.evaluation.pages import pictures as report_figures
from palign.evaluation.report import Report, write_report
from tests.worlds.browser import Page, find_chromium
from tests.worlds.reports import EVIL, figure_data, full_report, judgements, small_report

SVG = "{http://www.w3.org/2000/svg}"


class Reader(HTMLParser):
    """Every element with its attributes, and the text in it of those asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    pytest.importorskip("matplotlib")
    return full_report(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return report.html_path.read_text(encoding="utf-8")


def test_nothing_is_run_and_nothing_is_fetched(page: str) -> None:
    elements = read(page).elements
    assert not {tag for tag, _ in elements} & {"script", "iframe", "object", "embed", "img", "foreignobject", "a"}
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, name, value)
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    policy = next(a["content"] for tag, a in elements if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_names_are_text_everywhere(page: str) -> None:
    assert "<script" not in page.lower()
    reader = read(page)
    assert sum(EVIL in text for text in reader.texts) > 10  # as it stands, in title, tables, sentences and pictures
    in_pictures = [t.text for svg in pictures(page) for t in svg.iter(f"{SVG}text") if t.text]
    assert EVIL in in_pictures and "$x^2$ and $\\frac{1}{2}$" in in_pictures
    assert any(text.startswith("日本語") and text.endswith("…") for text in in_pictures)  # cut, by width
    assert any("\u2068المملكة العربية السعودية\u2069" in text for text in in_pictures)  # turns nothing about it


def pictures(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.S)]


def test_every_figure_is_there_and_says_what_it_shows(page: str) -> None:
    found = pictures(page)
    titles = [svg.find(f"{SVG}title").text for svg in found]
    expected = ["accuracy by type", "accuracy by country", "accuracy by country × age", "accuracy by age"]
    expected += ["Worst-served against everybody, by type", "How many people are served how well"]
    expected += [title.replace("accuracy", "gold") for title in expected]
    run = ["Annotators among the types", "Regret of every type under every policy"]
    assert titles == [*expected, *run, f"As prompt {EVIL} was trained"]
    for svg in found:
        assert svg.attrib["role"] == "img" and "viewBox" in svg.attrib and "width" not in svg.attrib
        ids = {element.attrib.get("id") for element in svg.iter()}
        assert set(svg.attrib["aria-labelledby"].split()) <= ids
        assert len(svg.find(f"{SVG}desc").text) > 40
    assert "thorough 0." in found[0].find(f"{SVG}desc").text


def test_the_page_is_made_to_be_read_by_all(page: str) -> None:
    elements = read(page).elements
    assert ("html", {"lang": "en"}) in elements
    assert any(tag == "meta" and a.get("name") == "viewport" for tag, a in elements)
    ids = Counter(a["id"] for _, a in elements if "id" in a)
    assert set(ids.values()) == {1}
    assert all("scope" in attributes for tag, attributes in elements if tag == "th")
    counts = Counter(tag for tag, _ in elements)
    assert counts["caption"] == counts["table"] > 10 and counts["h1"] == 1
    assert counts["figcaption"] == counts["figure"] == counts["svg"]


def test_it_concludes_and_then_says_who_is_worst_served(report: Report, page: str) -> None:
    conclusion, first = re.findall(r"<p[^>]*>(.*?)</p>", page)[:2]
    assert conclusion.startswith("Judged by 600 judgements of 60 annotators, pal &lt;script&gt;")
    assert "worst served is type thorough" in first and "90 % interval" in first and "gap 0." in first
    assert first.startswith("pal &lt;script&gt;")  # the model that is nobody's baseline
    assert report.data["sections"][0]["main"] == f"pal {EVIL}"
    assert page.index("▼ Worst served") < page.index("What they do not show") < page.index("<h2>Reward models")
    warning = re.search(r'<p class="warning"[^>]*>(.*?)</p>', page).group(1)
    assert "reward rose" in warning and "gold utility fell" in warning


def test_the_page_comes_out_of_the_json_and_the_same_every_time(tmp_path: Path) -> None:
    report = small_report(tmp_path)
    again = json.loads(report.json_path.read_text(encoding="utf-8"))
    assert report_html.render_page(again) == report.html_path.read_text(encoding="utf-8")


def test_without_matplotlib_the_page_has_tables_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (report_figures, report_html):
        monkeypatch.setattr(module, "has_matplotlib", lambda: False)
    page = small_report(tmp_path).html_path.read_text(encoding="utf-8")
    assert "matplotlib is not installed" in page and "<svg" not in page and page.count("<table") >= 3


def test_single_people_are_not_drawn_where_small_groups_are_hidden(tmp_path: Path) -> None:
    report = small_report(tmp_path, min_group_size=11)
    assert report.data["figures"]["type_space"] is None
    page = report.html_path.read_text(encoding="utf-8")
    assert "Annotators among the types" not in page and "How many people" not in page and "李小龍" not in page
    assert "no group by type has enough annotators to be shown" in page
    pytest.importorskip("matplotlib")
    assert "hidden: too few people" in page


def test_a_report_that_opens_with_single_people(tmp_path: Path) -> None:
    report = small_report(tmp_path, group_columns=["annotator_id"])
    assert "over the worst-served 10 % of 30 annotators" in report.headline[0]
    page = report.html_path.read_text(encoding="utf-8")
    assert "Worst-served 10 % of people" in page and "▼ Worst served" not in page


def test_the_main_model_is_named_and_models_beyond_three_are_in_the_tables(tmp_path: Path) -> None:
    tables = [judgements(f"m{number}", (0.5 + number / 20,) * 3, 15, 3) for number in range(5)]
    report = write_report(tables, output_dir=tmp_path, n_resamples=10, main="m2", baseline="m4", metrics=["accuracy"])
    page = report.html_path.read_text(encoding="utf-8")
    assert re.search(r"<p[^>]*>m2: ", page) and report.headline[0].startswith("m2: ")
    assert "2 further models are in the tables" in page or "<svg" not in page


def opened(report: Report, tmp_path: Path) -> Page:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no chromium on the path (Debian: apt-get install chromium); the page was not opened in a browser")
    return Page(chromium, tmp_path / "profile")


OVERLAPS = """
(() => {
  const found = [];
  document.querySelectorAll('svg.figure').forEach(svg => {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    boxes.forEach(([words, a], i) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
        found.push('outside: ' + words);
      boxes.slice(i + 1).forEach(([other, b]) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 0.35 * Math.min(a.height, b.height)) found.push(words + ' over ' + other);
      });
    });
  });
  return found;
})()
"""
VISIBLE = "[...document.querySelectorAll('svg.figure')].map(s => { const r = s.getBoundingClientRect(); return \
[r.width, r.height, getComputedStyle(s).visibility]; })"


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_every_figure_shows_and_nothing_leaves(report: Report, tmp_path: Path, width: int) -> None:
    with opened(report, tmp_path) as page:
        address = report.html_path.as_uri()
        page.open(address, width=width, height=900)
        shown = page.evaluate(VISIBLE)
        assert len(shown) == len(pictures(report.html_path.read_text(encoding="utf-8")))
        for wide, high, visibility in shown:
            assert wide > 300 and high > 100 and visibility == "visible"
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll in their own boxes
        assert page.evaluate(OVERLAPS) == []
        smallest = "Math.min(...[...document.querySelectorAll('svg.figure text')].map(t => \
t.getBoundingClientRect().height))"
        assert page.evaluate(smallest) >= 9.5  # CSS pixels, of a line of text
        assert page.evaluate("document.querySelector('.facts .worst .big').getBoundingClientRect().bottom") < 900
        assert page.evaluate("typeof alert.called") == "undefined"
        assert {found for found in page.requests if not found.startswith("data:")} <= {address}
        assert page.complaints == []


SEEN = "[...document.querySelectorAll('details')].map(d => d.lastElementChild.checkVisibility())"
GROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.mark.slow
def test_in_print_details_are_open_and_a_dark_screen_gets_a_dark_page(report: Report, tmp_path: Path) -> None:
    with opened(report, tmp_path) as page:
        page.open(report.html_path.as_uri(), width=900, height=900)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        assert not any(page.evaluate(SEEN)) and page.evaluate(GROUND) == "rgb(255, 255, 255)"
        page.call("Emulation.setEmulatedMedia", media="screen", features=dark)
        assert page.evaluate(GROUND) == "rgb(22, 24, 27)"
        ink = "getComputedStyle(document.querySelector('svg.figure text')).fill"
        assert page.evaluate(ink) == "rgb(236, 236, 236)"
        page.call("Emulation.setEmulatedMedia", media="print", features=dark)
        assert all(page.evaluate(SEEN)) and page.evaluate(GROUND) == "rgb(255, 255, 255)"


@pytest.mark.slow
@pytest.mark.parametrize("n_types", [2, 3, 4, 5, 8])
def test_names_and_texts_at_the_corners_do_not_lie_over_one_another(tmp_path: Path, n_types: int) -> None:
    figures = figure_data(n_types=n_types, n_people=30)
    likes = [{"type": name, "most": ["I hear you, that sounds hard"], "least": [], "words": [], "other_words": []}
             for name in figures.type_names]  # fmt: skip
    report = small_report(tmp_path, figures=replace(figures, likes=likes, regrets=None))
    with opened(report, tmp_path) as page:
        page.open(report.html_path.as_uri(), width=390, height=900)
        assert page.evaluate(OVERLAPS) == []


def test_no_back_quote_is_left_in_the_page(page: str) -> None:
    assert not [text for text in read(page).texts if "`" in text and "`PL`" not in text]
