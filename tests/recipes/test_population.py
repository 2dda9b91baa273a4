"""recipes/population.py end to end: the embedded default, places as vectors and as columns, the plane, and bad
input."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from tests.worlds.judged_models import write_rows
from tests.worlds.recipes import load_recipe

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "recipes" / "configs" / "population" / "smoke.yaml")


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("population")


def line_rows(n: int = 400, seed: int = 0) -> tuple[list[dict], np.ndarray]:
    """A quarter of the people at −1, the rest at 1; items at −2, 0 and 2, so thresholds −1 (not met), 0 and 1."""
    rng, items, rows = np.random.default_rng(seed), np.array([[-3.0], [0.0], [3.0]], dtype=np.float32), []
    for person in range(n):
        point = -2.0 if rng.random() < 0.25 else 2.0
        first, second = rng.choice(3, 2, replace=False)
        if abs(point - items[second, 0]) < abs(point - items[first, 0]):
            first, second = second, first
        rows.append({"annotator_id": f"p{person}", "chosen_index": int(first), "rejected_index": int(second)})
    return rows, items


def test_the_smoke_config_goes_from_nothing_to_a_page(recipe: ModuleType, tmp_path: Path) -> None:
    summary = recipe.main(["--config", SMOKE, "--output_dir", str(tmp_path)])
    assert summary == json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    table = pd.read_csv(tmp_path / "masses.csv")
    assert len(table) <= 5 and table["mass"].sum() == pytest.approx(1) and (table["low"] <= table["high"]).all()
    assert (tmp_path / "masses.svg").read_text(encoding="utf-8").startswith("<svg ")
    assert "| from | to | mass |" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_planted_masses_come_out_of_vectors_and_of_columns_alike(recipe: ModuleType, tmp_path: Path) -> None:
    """Thresholds −1.5, 0 and 1.5: a quarter below all, three quarters above all."""
    rows, items = line_rows()
    np.save(tmp_path / "places.npy", items)
    flags = ["--dataset_name", write_rows(tmp_path / "rows.jsonl", rows), "--output_dir", str(tmp_path / "out")]
    summary = recipe.main([*flags, "--embeddings", str(tmp_path / "places.npy")])
    masses = [summary[f"cell_{c}/mass"] for c in range(4)]
    np.testing.assert_allclose(masses, [0.25, 0, 0, 0.75], atol=0.06)
    assert summary["cell_3/low"] < 0.75 < summary["cell_3/high"]
    texts = [
        {"annotator_id": row["annotator_id"], "prompt": "Which tax?", "chosen": f"tax {row['chosen_index']}",
         "rejected": f"tax {row['rejected_index']}", "a": float(items[row["chosen_index"], 0]),
         "b": float(items[row["rejected_index"], 0])}
        for row in rows
    ]  # fmt: skip
    named = ["--chosen_position_column", "a", "--rejected_position_column", "b", "--guard", "off"]
    flags = ["--dataset_name", write_rows(tmp_path / "texts.jsonl", texts), "--output_dir", str(tmp_path / "out2")]
    again = recipe.main([*flags, *named])
    assert [again[f"cell_{c}/mass"] for c in range(4)] == pytest.approx(masses)


def test_in_the_plane_shares_and_bounds_are_what_is_known(recipe: ModuleType, tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    items = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float32)
    for person in range(600):
        point = rng.normal(size=2) + [1.5, 0]
        first, second = ((0, 1), (2, 3))[person % 2]
        if ((point - items[second]) ** 2).sum() < ((point - items[first]) ** 2).sum():
            first, second = second, first
        rows.append({"annotator_id": f"p{person}", "chosen_index": first, "rejected_index": second})
    np.save(tmp_path / "v.npy", items)
    flags = ["--dataset_name", write_rows(tmp_path / "rows.jsonl", rows), "--embeddings", str(tmp_path / "v.npy")]
    flags += ["--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="2 dimensions, and above one the masses of cells are not determined"):
        recipe.main(flags)
    summary = recipe.main([*flags, "--bounds", "true"])
    assert summary["n_cells"] == 4 and summary["pair_0/answers"] == 300
    table = pd.read_csv(tmp_path / "out" / "masses.csv")
    assert table["high"].max() < 0.6 and table["low"].min() == 0  # about a half in either quadrant in front


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ([{"annotator_id": "a", "prompt": "p", "chosen": "x", "rejected": "y"}], [], "the rows have no column "
         "'chosen_position'"),
        ([{"annotator_id": "a", "prompt": "p", "chosen": "x", "rejected": "y", "chosen_position": "left",
           "rejected_position": 1}], [], "column 'chosen_position': 'left' is no number"),
        ([{"annotator_id": "a", "prompt": "p", "chosen": "x", "rejected": "y", "chosen_position": 1,
           "rejected_position": 1}], [], "two different numbers"),
        ([{"annotator_id": "a", "prompt": "p", "completions": ["x", "y", "z"]}], [], "compares 3 items"),
        ([], ["--eval_dataset_name", "x"], "Rows to evaluate on are not read here"),
        ([], ["--level", "1"], "--level is 1.0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    recipe: ModuleType, rows: list[dict], flags: list[str], message: str, tmp_path: Path
) -> None:
    flags = [*flags, "--output_dir", str(tmp_path / "out"), "--guard", "off"]
    if rows:
        flags += ["--dataset_name", write_rows(tmp_path / "rows.jsonl", rows)]
    with pytest.raises(ValueError) as error:
        recipe.main(flags)
    assert message in str(error.value)


def test_contradictions_are_counted_and_left_out_of_intervals(recipe: ModuleType, tmp_path: Path, capsys) -> None:
    rows, items = line_rows(60)
    # ten people stand below −1.5 and above 1.5
    for person in range(10):
        rows += [{"annotator_id": f"x{person}", "chosen_index": 0, "rejected_index": 1},
                 {"annotator_id": f"x{person}", "chosen_index": 2, "rejected_index": 1}]  # fmt: skip
    np.save(tmp_path / "v.npy", items)
    flags = ["--dataset_name", write_rows(tmp_path / "rows.jsonl", rows), "--embeddings", str(tmp_path / "v.npy")]
    summary = recipe.main([*flags, "--output_dir", str(tmp_path / "out")])
    assert summary["contradictory_share"] == pytest.approx(10 / 70)
    assert "answers are noisy" in capsys.readouterr().out
