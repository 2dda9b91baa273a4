"""recipes/evaluate_fairness.py: the smoke default, models of one's own side by side, bad input."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from palign.pipelines.arguments.evaluation import EvaluationArguments, sources_of
from tests.worlds.judged_models import make_model, rows_of_colours, write_rows
from tests.worlds.recipes import RECIPES, load_recipe

QUIET = ["--use_cpu", "true", "--n_resamples", "60"]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("evaluate_fairness")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("pal", "reward", "mixture"):
        make_model(kind, folder)
    return folder


def flags_of(models: Path, rows: str, output: Path) -> list[str]:
    flags = ["--model_path", str(models / "pal"), str(models / "mixture"), "--baseline_path", str(models / "reward")]
    flags += ["--group_columns", "country", "country*age", "type", "annotator_id"]
    return [*flags, "--dataset_name", rows, "--output_dir", str(output), *QUIET]


def test_the_pooled_reward_beside_a_model_is_its_baseline(models: Path, tmp_path: Path, capsys) -> None:
    for folder in (tmp_path / "out", tmp_path / "out" / "pooled"):
        shutil.copytree(models / "pal", folder)
    judged, baselines, _ = sources_of(EvaluationArguments(model_path=[str(tmp_path / "out")]))
    assert [source.name for source in judged] == ["out"] and [source.name for source in baselines] == ["pooled"]
    assert "one reward for everybody" in capsys.readouterr().out
    named = EvaluationArguments(model_path=[str(tmp_path / "out")], baseline_path=[str(models / "reward")])
    assert [source.name for source in sources_of(named)[1]] == ["reward"]
    assert sources_of(EvaluationArguments(model_path=[str(models / "pal")]))[1] == []


@pytest.mark.slow
def test_the_smoke_config_goes_from_nothing_to_a_report(recipe: ModuleType, tmp_path: Path) -> None:
    config = str(RECIPES / "configs" / "evaluate_fairness" / "smoke.yaml")
    summary = recipe.main(["--config", config, "--output_dir", str(tmp_path)])
    assert summary == json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert {"pal/accuracy", "pooled/accuracy", "pal/worst_type_accuracy"} <= set(summary)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no group by type is ranked" in page and "Annotators among the types" in page


def test_models_of_three_kinds_side_by_side(recipe: ModuleType, models: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", rows_of_colours(48))
    summary = recipe.main(flags_of(models, rows, tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(table["model"]) == {"pal", "mixture", "reward"} and len(table) == 3 * 48
    for name, part in table.groupby("model"):
        assert summary[f"{name}/accuracy"] == pytest.approx(part["accuracy"].mean())
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    section = data["sections"][0]
    assert (section["main"], section["baselines"]) == ("pal", ["reward"])
    assert data["settings"]["groups"] == [["annotator_id"], ["type"], ["country"], ["country", "age"]]
    assert {(c["first"], c["second"]) for c in section["comparisons"]} == {("reward", "pal"), ("reward", "mixture")}
    cells = {row["group"] for row in section["models"][0]["frames"][3]["metrics"]["accuracy"]["by_group"]}
    assert cells == {"NL × 30", "NL × 60", "PL × 30", "PL × 60"}
    assert data["settings"]["opens_with"] == ["country"] and "by country" in data["headline"][0].lower()
    assert data["facts"]["models"].startswith("pal (PAL reward model)") and data["facts"]["backbone"]
    assert data["settings"]["min_ranked_size"] == 5
    kinds = [one["type"] for one in data["figures"]["likes"]]
    assert kinds == data["figures"]["type_space"]["names"] and all(one["most"] for one in data["figures"]["likes"])
    assert any("reward is a reward model" in note for note in data["notes"])


def test_small_groups_are_hidden_where_asked(recipe: ModuleType, models: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", rows_of_colours())
    flags = ["--model_path", str(models / "reward"), "--dataset_name", rows, "--output_dir", str(tmp_path / "out")]
    recipe.main([*flags, "--group_columns", "country", "age", "--min_group_size", "3", *QUIET])
    data = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    frame = data["sections"][0]["models"][0]["frames"][2]["metrics"]["accuracy"]["by_group"]
    assert [(row["group"], row["n_annotators"], row["value"] is None) for row in frame] == [
        ("30", 2, True), ("60", 4, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--group_columns", "contry"], ["contry", "country"]),
        (["--group_columns", "country*agee"], ["agee", "age"]),
        (["--group_columns", "country*"], ["country*age"]),
        (["--model_path", "/no/such/place"], ["/no/such/place", "no such folder"]),
        (["--baseline_path", "MODEL"], ["more than once"]),
        (["--types_path", "MODEL"], ["knows no types"]),
        (["--weights", "people"], ["'people'", "annotators"]),
        (["--level", "90"], ["90", "between 0 and 1"]),
        (["--metrics", "accuracy", "acuracy"], ["'acuracy'", "log_likelihood"]),
        (["--min_group_size", "0"], ["min_group_size"]),
        (["--min_ranked_size", "0"], ["min_ranked_size", "at least 1"]),
    ],
)
def test_bad_input_is_named_before_a_model_loads(
    recipe: ModuleType, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str],
    words: list[str],
) -> None:  # fmt: skip
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded before its paths and rows were checked")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", never)
    rows, model = write_rows(tmp_path / "rows.jsonl", rows_of_colours()), str(models / "reward")
    flags = [model if flag == "MODEL" else flag for flag in flags]
    with pytest.raises(ValueError) as caught:
        recipe.main(["--model_path", model, "--dataset_name", rows, "--output_dir", str(tmp_path), *QUIET, *flags])
    assert all(word in str(caught.value) for word in words), caught.value


def test_models_without_rows_and_rows_without_models(recipe: ModuleType, models: Path) -> None:
    with pytest.raises(ValueError, match="give --dataset_name"):
        recipe.main(["--model_path", str(models / "reward")])
    with pytest.raises(ValueError, match="No model to judge"):
        recipe.main(["--dataset_name", "rows.jsonl"])
    with pytest.raises(SystemExit):
        recipe.main(["--model_pth", "x"])


def test_a_model_that_holds_nan_is_named_with_its_tensor(recipe: ModuleType, tmp_path: Path) -> None:
    place = make_model("reward", tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(place)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(place)
    rows = write_rows(tmp_path / "rows.jsonl", rows_of_colours())
    with pytest.raises(ValueError, match=r"reward: the tensor 'score.weight' holds nan"):
        recipe.main(["--model_path", str(place), "--dataset_name", rows, "--output_dir", str(tmp_path / "o"), *QUIET])
    assert not (tmp_path / "o").exists()


def test_one_annotator_one_group_and_ids_that_are_markup(recipe: ModuleType, models: Path, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    rows = [{**row, "annotator_id": evil, "country": evil, "age": None} for row in rows_of_colours()]
    flags = ["--model_path", str(models / "reward"), "--dataset_name", write_rows(tmp_path / "r.jsonl", rows)]
    recipe.main([*flags, "--group_columns", "country", "--output_dir", str(tmp_path / "out"), *QUIET])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "no group by country is ranked" in page and "<script" not in page
