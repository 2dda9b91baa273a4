"""A GroupFrame in a notebook: its table, its picture, and names that are text."""

import pandas as pd
import pytest

from palign.evaluation.group_frame import GroupFrame
from palign.evaluation.pages import frame_picture

EVIL = "<script>alert(1)</script>"


def frame(**options: object) -> GroupFrame:
    """Twelve people of three groups, right in .25, .5 and .75 of four rows."""
    people = [f"p{i}" for i in range(12) for _ in range(4)]
    right = [float(row < 1 + i % 3) for i in range(12) for row in range(4)]
    groups = [(EVIL, "north", "south")[i % 3] for i in range(12) for _ in range(4)]
    table = pd.DataFrame({"annotator_id": people, "accuracy": right, "region": groups})
    return GroupFrame(table, metrics="accuracy", groups="region", **options)


def test_it_says_what_it_holds() -> None:
    shown = repr(frame())
    assert "GroupFrame by region: 48 judgements of 12 annotators" in shown and "overall: accuracy 0.500" in shown
    assert "0.250" in shown or "0.25" in shown
    page = frame()._repr_html_()
    assert "<script" not in page and page.count("<table") == 2 and "lowest accuracy" in page


def test_its_picture_has_every_group_and_points_at_the_lowest() -> None:
    pytest.importorskip("matplotlib")
    picture = frame().plot()
    assert picture.title == "accuracy by region" and "<script" not in picture.svg
    assert all(name in picture.svg for name in (EVIL.replace("<", "&lt;").replace(">", "&gt;"), "north", "south"))
    assert "worst served · n = 4" in picture.svg and "n = 4, not ranked" in frame(min_ranked_size=5).plot().svg


def test_what_it_cannot_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no metric 'gold'; it has accuracy"):
        frame().plot("gold")
    monkeypatch.setattr(frame_picture, "has_matplotlib", lambda: False)
    with pytest.raises(RuntimeError, match=r"pip install 'palign\[report\]'"):
        frame().plot()
