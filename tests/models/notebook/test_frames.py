"""Data frames in and out of a reward model, each text once, and what a notebook shows of it."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from palign.data.loading import load_preferences
from palign.data.preferences import Preferences
from palign.models.pal import PALRewardModel
from palign.rewards import PersonalizedReward
from tests.worlds.reward_models import text_model, text_rows, vector_model, vectors

ROWS = {"prompt": ["rain", "cat", "rain", "rain"], "completion": ["no", "yes", "no", "tea"],
        "annotator_id": ["p0", "p1", "p2", "p0"]}  # fmt: skip


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many texts each pass of a backbone read."""
    from palign.models.backbones import Backbone

    read, collate = [], Backbone.collate

    def counting(self: Backbone, texts: list, *args: object, **options: object) -> object:
        read.append(len(texts))
        return collate(self, texts, *args, **options)

    monkeypatch.setattr(Backbone, "collate", counting)
    yield read


def test_each_different_text_is_read_once(counted: list[int]) -> None:
    model = text_model()
    scores = model.score(*ROWS.values())
    assert sum(counted) == 3
    alone = torch.cat([model.score([p], [c], [w]) for p, c, w in zip(*ROWS.values(), strict=True)])
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=1e-5)
    messages = [[{"role": "user", "content": text}] for text in ("rain", "rain", "cat")]
    counted.clear()
    texts = [[{"role": "assistant", "content": "no"}]] * 3
    with_template = text_model()
    with_template.backbone.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    with_template.score(messages, texts, "p0")
    assert sum(counted) == 2


def test_a_frame_comes_back_with_the_rewards() -> None:
    model, frame = text_model(), pd.DataFrame(ROWS, index=[7, 3, 5, 1])
    scored = model.score_frame(frame)
    assert scored.index.tolist() == [7, 3, 5, 1] and "reward" not in frame
    torch.testing.assert_close(torch.tensor(scored["reward"].to_numpy()), model.score(*ROWS.values()))
    by_columns = model.score(frame["prompt"], frame["completion"], frame["annotator_id"])
    torch.testing.assert_close(by_columns, model.score(*ROWS.values()))
    renamed = model.score_frame(frame.rename(columns={"prompt": "question"}), prompt_column="question")
    assert renamed["reward"].equals(scored["reward"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="prompt"), "no column 'prompt'; it has completion, annotator_id. Name yours"),
        (lambda f: f.assign(completion=["a", None, "b", "c"]), r"'completion' is empty in row 1 \(counting from 0\)"),
    ],
)
def test_a_frame_that_cannot_be_scored(change: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_model().score_frame(change(pd.DataFrame(ROWS)))
    with pytest.raises(TypeError, match="a dict was given; give a pandas DataFrame"):
        text_model().score_frame(ROWS)


def test_frames_of_judgements_go_in_and_come_out() -> None:
    frame = pd.DataFrame(text_rows(6))
    rows = load_preferences(frame)
    again = rows.to_pandas()
    assert isinstance(again, pd.DataFrame) and len(again) == 6
    assert load_preferences(again).to_rows() == rows.to_rows() == Preferences.from_rows(frame).to_rows()
    fit = text_model().fit_annotators(frame)
    assert set(fit.ids) == set(frame["annotator_id"])
    twice = pd.concat([frame, frame[["prompt"]]], axis=1)
    with pytest.raises(ValueError, match="the column 'prompt' twice"):
        Preferences.from_rows(twice)


def test_a_model_says_what_it_is_and_shows_its_people(tmp_path: Path) -> None:
    model = vector_model()
    assert "prototypes: 3" in repr(model) and "people: 5" in repr(model) and "\n" not in repr(model)
    assert "<th" in model._repr_html_() and ">5</td>" in model._repr_html_()
    picture = model.plot_people(["a", "b", "<c>"])
    assert picture.svg.count("<circle") == 5 and "&lt;c&gt;" in picture.svg
    with pytest.raises(ValueError, match="2 names were given for 3 prototypes"):
        model.plot_people(["a", "b"])
    model.save_pretrained(tmp_path / "model")
    read = PALRewardModel.from_pretrained(tmp_path / "model", device="cpu")
    torch.testing.assert_close(read.score(None, vectors(3), "p1"), model.score(None, vectors(3), "p1"))
    assert str(PALRewardModel.from_pretrained(tmp_path / "model", device="meta").device) == "meta"
    reward = PersonalizedReward(model)
    assert "reward of: the person of each row" in repr(reward) and "prototypes: 3" in reward._repr_html_()
