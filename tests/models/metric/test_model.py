"""A metric model: rewards by hand, saved and read back, newcomers, and folders that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from palign.contents import write_contents
from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.files.hub import _kind, files_of_model, ids_held
from palign.models.metric.config import MetricConfig
from palign.models.metric.model import MetricModel, comparisons_of

DOUBLE = torch.float64


def tiny(*, personal_squares: bool = False) -> MetricModel:
    """Three numbers an item, two coordinates: centre (1, 0, 0), M = diag(1, 4); ada's point (1, 0), bo's (0, 0)."""
    tensors = {
        "center": torch.tensor([1.0, 0, 0], dtype=DOUBLE),
        "basis": torch.eye(3, 2, dtype=DOUBLE),
        "metric": torch.diag(torch.tensor([1.0, 4.0], dtype=DOUBLE)),
        "shared": torch.tensor([-1.0, 0.0], dtype=DOUBLE),
        "people": torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=DOUBLE),
        "precision": torch.eye(2, dtype=DOUBLE),
    }
    if personal_squares:
        tensors["squares"] = torch.stack([torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])]).double()
    config = MetricConfig(3, 2, strengths=[1.0, 1.0], temperature=2.0, personal_squares=personal_squares)
    return MetricModel(config, AnnotatorIndex(["ada", "bo"]), tensors)


ITEMS = np.array([[2.0, 0, 9], [1.0, 1, 9]])  # coordinates (1, 0) and (0, 1)


def test_rewards_by_hand() -> None:
    """ada: −(1 − 2) = 1 and −4, twice that; bo: −1 and −4; a stranger has v = (−1, 0): 0 and −4."""
    model = tiny()
    assert model.score(None, ITEMS, "ada").tolist() == [2, -8]
    assert model.score(None, ITEMS, ["bo", "bo"]).tolist() == [-2, -8]
    assert model.score(None, ITEMS, "eve").tolist() == [0, -8]
    torch.testing.assert_close(model.ideal_points(["ada"], softening=1e-6), torch.tensor([[1.0, 0.0]]).double())
    with pytest.raises(ValueError, match="'eve' not among the 2"):
        model.vectors_for(["eve"], unknown="error")


def test_personal_squares_stand_beside_the_metric() -> None:
    """bo's term is 2 x y: of the item at (1, 1) another 2 is taken, twice."""
    item = np.array([[2.0, 1, 0]])
    assert float(tiny(personal_squares=True).score(None, item, "bo")) == float(tiny().score(None, item, "bo")) - 4
    assert float(tiny(personal_squares=True).score(None, item, "ada")) == float(tiny().score(None, item, "ada"))


@pytest.mark.parametrize("personal_squares", [False, True])
def test_it_is_read_back_as_it_was_saved(personal_squares: bool, tmp_path: Path) -> None:
    model = tiny(personal_squares=personal_squares)
    model.save_pretrained(tmp_path / "m")
    again = MetricModel.from_pretrained(tmp_path / "m")
    assert torch.equal(again.score(None, ITEMS, ["bo", "eve"]), model.score(None, ITEMS, ["bo", "eve"]))
    assert vars(again.config) == vars(model.config) and again.annotators == model.annotators
    assert "One metric for all" in (tmp_path / "m" / "README.md").read_text(encoding="utf-8")


def damaged(folder: Path, what: str) -> None:
    path = folder / "config.json"
    record, tensors = json.loads(path.read_text()), load_file(folder / "model.safetensors")
    if what == "kind":
        record["model_type"] = "palign_pal_reward"
    elif what == "penalty":
        record["penalty"] = "lasso"
    elif what == "strengths":
        record["strengths"] = [1.0, -1.0]
    elif what == "metric":
        tensors["metric"] = -tensors["metric"]
    elif what == "shape":
        tensors["people"] = tensors["people"][:1].contiguous()
    elif what == "nan":
        tensors["shared"][0] = float("nan")
    path.write_text(json.dumps(record))
    save_file(tensors, folder / "model.safetensors")
    if what == "lacks":
        (folder / "annotators.json").unlink()
    write_contents(folder)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("kind", "'palign_pal_reward', not of a metric"),
        ("penalty", "penalty is 'lasso', which it cannot be"),
        ("strengths", "strengths is"),
        ("metric", "metric is not symmetric with eigenvalues of 0 and more"),
        ("shape", "first 'people'"),
        ("nan", "the tensor 'shared' holds nan"),
        ("lacks", "is no metric: it lacks annotators.json"),
    ],
)
def test_a_folder_that_is_none_is_refused_in_a_sentence(what: str, message: str, tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "m")
    damaged(tmp_path / "m", what)
    with pytest.raises(ValueError) as error:
        MetricModel.from_pretrained(tmp_path / "m")
    assert message in str(error.value)


def test_newcomers_are_placed_and_nobody_elses_score_moves() -> None:
    model = tiny()
    before = model.score(None, ITEMS, ["ada", "bo"])
    # "new" always prefers the item farther along the first coordinate: her point lies there
    rows = Preferences.from_arrays(["new"] * 8, np.zeros(8, dtype=int), np.ones(8, dtype=int))
    vectors = np.array([[1.5, 0, 0], [0.5, 0, 0]])
    ids, people = model.fit_annotators(rows, embeddings=vectors)
    model.add_annotators(ids, people)
    assert ids == ["new"] and float(people[0, 0]) < -0.1 and abs(float(people[0, 1])) < 1e-6
    assert float(model.score(None, vectors[:1], "new")) > float(model.score(None, vectors[:1], "eve"))
    assert torch.equal(model.score(None, ITEMS, ["ada", "bo"]), before)
    with pytest.raises(ValueError, match="need \\(1, 2\\) numbers"):
        model.add_annotators(["x"], torch.zeros(1, 3))


def test_pairs_of_a_ranking_count_together_as_one_row() -> None:
    rows = Preferences.from_rows(
        [{"annotator_id": "ada", "completion_indices": [0, 1, 2]}, {"annotator_id": "bo", "chosen_index": 1,
          "rejected_index": 2}], embeddings=3,
    )  # fmt: skip
    model = tiny()
    data = model.row_tensors(rows, np.eye(3, dtype=np.float32))
    pairs, row = comparisons_of(data, torch.eye(3), 2)
    assert list(zip(pairs.winner.tolist(), pairs.loser.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (1, 2)]
    assert row.tolist() == [0, 0, 0, 1] and pairs.person.tolist() == [0, 0, 0, 1]
    assert float(pairs.weight[:3].sum()) == pytest.approx(1) and float(pairs.weight[3]) == 1


def test_rows_and_model_must_be_of_one_kind() -> None:
    text = Preferences.from_rows([{"annotator_id": "a", "prompt": "p", "chosen": "b", "rejected": "c"}])
    with pytest.raises(ValueError, match="it has no backbone"):
        tiny().row_tensors(text)


def test_a_push_takes_the_models_files_and_calls_it_a_metric(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "scores.csv").write_text("x")
    assert files_of_model(tmp_path / "m") == ["README.md", "annotators.json", "config.json", "model.safetensors"]
    assert _kind(tmp_path / "m") == "metric of all" and list(ids_held(tmp_path / "m")) == ["ada", "bo"]
