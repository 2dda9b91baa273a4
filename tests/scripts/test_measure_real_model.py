"""Rows about twelve questions: no statement in both files, everybody's type said, choices that follow it."""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.worlds.scripts import ROOT, load_script


def test_rows_that_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = load_script("measure_real_model")
    statements = pd.DataFrame(
        [
            {"persona": persona, "statement": f"{persona} {n} {agree}", "agree": agree, "conf": 1.0}
            for persona in script.QUESTIONS
            for n in range(10)
            for agree in (0, 1)
        ]
    )
    options = argparse.Namespace(people=4, pairs=20, statements=60, types=2, seeds=[0], write=tmp_path / "rows")
    script.write(statements, options)
    parts = {}
    for name in ("train", "test"):
        text = (tmp_path / "rows" / f"{name}.jsonl").read_text(encoding="utf-8")
        parts[name] = [json.loads(line) for line in text.splitlines()]
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 80, "test": 48}
    said = {
        name: {row[s][0]["content"] for row in rows for s in ("chosen", "rejected")} for name, rows in parts.items()
    }
    assert not said["train"] & said["test"]
    assert {row["annotator_id"]: row["type"] for row in parts["train"]} == {"p0": "A", "p1": "B", "p2": "A", "p3": "B"}
    guns = [row for row in parts["train"] if "guns" in row["prompt"][1]["content"]]
    for kind, agrees in (("A", "0"), ("B", "1")):  # A is against guns, B for them
        chosen = [row["chosen"][0]["content"][-1] for row in guns if row["type"] == kind]
        assert np.mean([mark == agrees for mark in chosen]) > 0.8
