"""Pictures are drawn from what was logged, and left out where there is nothing to draw."""

import re
from pathlib import Path

import pandas as pd
import pytest

from palign.evaluation.pages.figures import draw_training


def test_reward_and_gold_stand_in_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = pd.DataFrame({"step": range(8), "objective/reward": range(8), "objective/gold": [0.0] * 8,
                            "objective/kl": [0.1] * 8})  # fmt: skip
    assert draw_training(history, tmp_path / "h.svg", title="PPO: prompt")
    picture = (tmp_path / "h.svg").read_text(encoding="utf-8")
    assert picture.lstrip().startswith("<?xml") and "</svg>" in picture and "<script" not in picture


def heights(picture: str) -> dict[str, float]:
    """How far down the page each text stands, in points."""
    return {words: float(y) for y, words in re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>([^<]*)', picture)}


@pytest.mark.parametrize("judged", [True, False])
def test_title_and_legend_stand_in_lines_of_their_own(tmp_path: Path, judged: bool) -> None:
    pytest.importorskip("matplotlib")
    history = pd.DataFrame({"step": range(3), "objective/reward": range(3)})
    history = history.assign(**{"objective/gold": 0.0}) if judged else history
    assert draw_training(history, tmp_path / "h.svg", title="PPO, prompt: as it was trained")
    found = heights((tmp_path / "h.svg").read_text(encoding="utf-8"))
    assert found["PPO, prompt: as it was trained"] + 10 < found["reward (trained on)"] < found["mean of a completion"]
    assert ("gold utility (judge)" in found) == judged
    assert "update" in found  # three points are not a mean of five


def test_without_a_kl_the_rewards_alone_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = pd.DataFrame({"step": range(3), "objective/reward": range(3)})
    assert draw_training(history, tmp_path / "h.svg", title="GRPO: prompt")
    assert "nats" not in (tmp_path / "h.svg").read_text(encoding="utf-8")


def test_nothing_logged_draws_nothing(tmp_path: Path) -> None:
    assert not draw_training(pd.DataFrame({"step": [1, 2]}), tmp_path / "h.svg", title="x")
    assert not list(tmp_path.iterdir())
