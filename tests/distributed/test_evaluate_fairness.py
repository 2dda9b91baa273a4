"""Two real gloo processes score a share of the rows each, and write the report that one process writes, once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.worlds.judged_models import make_model, rows_of_colours, write_rows
from tests.worlds.recipes import RECIPES, load_recipe


@pytest.mark.slow
def test_two_processes_write_the_report_of_one(tmp_path: Path) -> None:
    for kind in ("pal", "reward", "mixture"):
        make_model(kind, tmp_path)
    rows = write_rows(tmp_path / "rows.jsonl", rows_of_colours(31))
    flags = ["--model_path", str(tmp_path / "pal"), str(tmp_path / "mixture"), "--use_cpu", "true"]
    flags += ["--baseline_path", str(tmp_path / "reward"), "--group_columns", "country", "--n_resamples", "60"]
    # six people are three of a country: fewer than are ranked by default, and there would be no gap between countries
    flags += ["--min_ranked_size", "2", "--dataset_name", rows, "--output_dir"]
    load_recipe("evaluate_fairness").main([*flags, str(tmp_path / "one")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPES.parent)}
    done = subprocess.run(
        [*command, str(RECIPES / "evaluate_fairness.py"), *flags, str(tmp_path / "two")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("report: ") == 1  # the main process alone writes
    first, second = (pd.read_csv(tmp_path / name / "scores.csv") for name in ("one", "two"))
    assert second["row"].tolist() == list(range(31)) * 3
    pd.testing.assert_frame_equal(first, second, atol=1e-5)
    ones, twos = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert [len(part["headline"]) for part in (ones, twos)] == [len(ones["headline"])] * 2
    models = [part["sections"][0]["models"] for part in (ones, twos)]
    gaps = [
        {(number, *frame["groups"]): frame["metrics"]["accuracy"]["gap"]["value"]
         for number, model in enumerate(part) for frame in model["frames"]}
        for part in models
    ]  # fmt: skip
    assert all(gaps[0][number, "country"] is not None for number in range(3))
    assert gaps[1] == pytest.approx(gaps[0], abs=1e-6)
