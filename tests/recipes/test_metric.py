"""recipes/metric.py end to end: the embedded default, own vectors, texts, few answers, and bad input."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from palign.data.preferences import Preferences
from palign.data.synthetic_metric import MetricPopulation, make_metric_population
from palign.models.metric.model import MetricModel
from tests.worlds.ppo_policy import tiny_policy
from tests.worlds.recipes import load_recipe

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "recipes" / "configs" / "metric" / "smoke.yaml")


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("metric")


def write(folder: Path, people: MetricPopulation, rows: Preferences, name: str = "rows") -> list[str]:
    """Flags that name rows and vectors."""
    lines = "".join(json.dumps(row) + "\n" for row in rows.to_rows())
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    np.save(folder / "vectors.npy", people.items)
    return ["--dataset_name", str(folder / f"{name}.jsonl"), "--embeddings", str(folder / "vectors.npy")]


def test_the_smoke_config_goes_from_nothing_to_a_report(recipe: ModuleType, tmp_path: Path, capsys) -> None:
    summary = recipe.main(["--config", SMOKE, "--output_dir", str(tmp_path)])
    assert summary == json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert all(isinstance(value, float) and np.isfinite(value) for value in summary.values())
    assert {"metric/accuracy", "pooled/accuracy", "person/accuracy", "person_quadratic/accuracy"} <= set(summary)
    assert "no more answers than dimensions" in capsys.readouterr().out
    assert len(MetricModel.from_pretrained(tmp_path).annotators) == 10
    assert (tmp_path / "report.html").is_file() and (tmp_path / "scores.csv").is_file()


def test_few_answers_of_many_people_beat_a_regression_of_each(recipe: ModuleType, tmp_path: Path) -> None:
    people = make_metric_population(n_annotators=30, dim=4, rank=2, n_items=60, seed=1)
    flags = write(tmp_path, people, people.comparisons(12, seed=2))
    out = tmp_path / "out"
    summary = recipe.main([*flags, "--output_dir", str(out), "--penalty", "joint_nuclear", "--strengths", "1"])
    for name in ("pooled", "person", "person_quadratic"):
        assert summary["metric/accuracy"] > summary[f"{name}/accuracy"] + 0.03, name
    assert (out / "held_out.jsonl").is_file()
    model = MetricModel.from_pretrained(out)
    with (out / "held_out.jsonl").open(encoding="utf-8") as file:
        held = [json.loads(line) for line in file]
    ids = [row["annotator_id"] for row in held]
    better, worse = (
        model.score(None, people.items[[row[k] for row in held]], ids) for k in ("chosen_index", "rejected_index")
    )
    assert float((better > worse).double().mean()) == pytest.approx(summary["metric/accuracy"], abs=0.01)


def test_palign_evaluate_reads_a_metric_and_leaves_its_training_rows_out(recipe: ModuleType, tmp_path: Path) -> None:
    people = make_metric_population(n_annotators=12, dim=3, n_items=40, seed=1)
    flags = write(tmp_path, people, people.comparisons(15, seed=2))
    out = tmp_path / "out"
    common = ["--penalty", "ridge", "--strengths", "1", "1", "--baselines", "false", "--personal", "none"]
    summary = recipe.main([*flags, "--output_dir", str(out), *common])
    held = ["--dataset_name", flags[1], "--embeddings", flags[3], "--use_cpu", "true"]
    judged = load_recipe("evaluate_fairness").main(
        ["--model_path", str(out), *held, "--output_dir", str(tmp_path / "fairness")]
    )
    assert judged["out/accuracy"] == pytest.approx(summary["metric/accuracy"])


def test_items_in_planes_are_learned_in_each_and_stitched(recipe: ModuleType, tmp_path: Path, capsys) -> None:
    people = make_metric_population(n_annotators=80, dim=3, n_subspaces=4, n_items=60, sharpness=4.0, seed=0)
    flags = write(tmp_path, people, people.comparisons(6, seed=1))
    np.save(tmp_path / "subspaces.npy", people.subspaces)
    common = ["--output_dir", str(tmp_path / "out"), "--estimator", "subspaces", "--baselines", "false"]
    common += ["--penalty", "ridge", "--strengths", "0.2", "0.2"]
    found = recipe.main([*flags, *common])
    assert "lie in 4 subspaces, which determine 6 of the 6 numbers" in capsys.readouterr().out
    named = recipe.main([*flags, *common, "--subspaces_path", str(tmp_path / "subspaces.npy")])
    assert named["metric/accuracy"] == pytest.approx(found["metric/accuracy"], abs=0.02)
    general = make_metric_population(n_annotators=20, dim=3, n_items=60, seed=0)
    flags = write(tmp_path, general, general.comparisons(6, seed=1))
    with pytest.raises(ValueError, match="lie in no few subspaces"):
        recipe.main([*flags, *common])


def test_texts_are_read_by_a_backbone_and_taken_to_principal_directions(
    recipe: ModuleType, tmp_path: Path, capsys
) -> None:
    for part in tiny_policy():
        part.save_pretrained(tmp_path / "lm")
    words = "the park is old new near full small large green".split()
    rng, rows = np.random.default_rng(0), []
    for person in range(6):
        for number in range(12):
            pair = [" ".join(rng.choice(words, 4)) + "." for _ in range(2)]
            pair.sort(key=len, reverse=bool(person % 2))
            if len(pair[0]) == len(pair[1]):
                continue
            rows.append({"annotator_id": f"p{person}", "prompt": f"Say {number}.", "chosen": pair[0],
                         "rejected": pair[1]})  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = tmp_path / "out"
    flags = ["--dataset_name", str(tmp_path / "rows.jsonl"), "--model_name_or_path", str(tmp_path / "lm")]
    flags += ["--output_dir", str(out), "--max_dim", "4", "--guard", "warn", "--baselines", "false"]
    recipe.main([*flags, "--penalty", "ridge"])
    assert "of 4 principal directions of the" in capsys.readouterr().out
    model = MetricModel.from_pretrained(out)
    scores = model.score(["Say 0.", "Say 1."], ["the park.", "the old park."], ["p0", "stranger"])
    assert scores.shape == (2,) and bool(scores.isfinite().all())


def test_single_answers_are_sent_to_populations(recipe: ModuleType, tmp_path: Path) -> None:
    people = make_metric_population(n_annotators=30, dim=2, n_items=20, seed=0)
    flags = write(tmp_path, people, people.comparisons(1, seed=1))
    with pytest.raises(ValueError, match="answered once: .* palign population"):
        recipe.main([*flags, "--output_dir", str(tmp_path / "out")])
    test = write(tmp_path, people, people.comparisons(2, seed=5), "test")[1]
    with pytest.raises(ValueError, match="palign population"):
        recipe.main([*flags, "--eval_dataset_name", test, "--output_dir", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset_name", "rows.jsonl"], "these rows have none: give --embeddings"),
        (["--embeddings", "v.npy"], "No rows are named"),
        (["--dataset_name", "r", "--embeddings", "v.npy", "--model_name_or_path", "m"], "Both --embeddings and"),
        (["--penalty", "lasso"], "--penalty is 'lasso'; it must be one of auto, ridge, balls"),
        (["--strengths", "1", "2"], "--strengths are of one penalty"),
        (["--penalty", "ridge", "--strengths", "1"], "takes 2 positive numbers"),
        (["--estimator", "subspaces", "--penalty", "balls"], "--estimator subspaces is fitted with --penalty ridge"),
        (["--subspaces_path", "s.npy"], "give --estimator subspaces as well"),
        (["--eval_fraction", "1"], "--eval_fraction is 1.0"),
        (["--max_dim", "0"], "--max_dim is 0"),
    ],
)
def test_what_cannot_work_is_said(recipe: ModuleType, flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        recipe.main([*flags, "--output_dir", str(tmp_path / "out")])
    assert message in str(error.value)


def test_a_penalty_that_was_not_tried_is_named(
    recipe: ModuleType, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palign.pipelines.metric.MOST_JOINT", 10)
    flags = ["--n_annotators", "8", "--n_answers", "4", "--baselines", "false", "--personal", "none"]
    recipe.main([*flags, "--output_dir", str(tmp_path)])
    assert "joint_nuclear was not tried" in capsys.readouterr().out
