"""Pictures are drawn from what was logged, and left out where there is nothing to draw."""

from pathlib import Path

import pandas as pd
import pytest

from palign.evaluation.figures import draw_training


def test_reward_and_gold_stand_in_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = pd.DataFrame({"step": range(8), "objective/reward": range(8), "objective/gold": [0.0] * 8,
                            "objective/kl": [0.1] * 8})  # fmt: skip
    assert draw_training(history, tmp_path / "h.svg", title="PPO: prompt")
    picture = (tmp_path / "h.svg").read_text(encoding="utf-8")
    assert picture.lstrip().startswith("<?xml") and "</svg>" in picture and "<script" not in picture


def test_without_a_kl_the_rewards_alone_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = pd.DataFrame({"step": range(3), "objective/reward": range(3)})
    assert draw_training(history, tmp_path / "h.svg", title="GRPO: prompt")
    assert "nats" not in (tmp_path / "h.svg").read_text(encoding="utf-8")


def test_nothing_logged_draws_nothing(tmp_path: Path) -> None:
    assert not draw_training(pd.DataFrame({"step": [1, 2]}), tmp_path / "h.svg", title="x")
    assert not list(tmp_path.iterdir())
