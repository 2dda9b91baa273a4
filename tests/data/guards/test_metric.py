"""The check that says which case a data set is in."""

import json
from pathlib import Path

import numpy as np
import pytest

from palign.data.guard import GuardOptions, guard, main
from palign.data.guards.metric import check_metric, count_metric_evidence
from palign.data.preferences import Preferences
from palign.data.synthetic_metric import make_metric_population


@pytest.mark.parametrize(
    ("n_rows", "options", "verdict", "message"),
    [
        (1, {}, "stop", "palign population"),
        (3, {}, "look", "no more answers than dimensions"),
        (8, {}, "ok", "a metric can be told"),
        (4, {"n_subspaces": 8}, "ok", "--estimator subspaces learns in each"),
        (4, {"n_subspaces": 2}, "look", "6 of the 10 numbers of a metric can be told"),
    ],
)
def test_every_case_has_its_sentence(n_rows: int, options: dict, verdict: str, message: str) -> None:
    people = make_metric_population(n_annotators=60, dim=4, n_items=80, seed=0, **options)
    found = check_metric(people.comparisons(n_rows, seed=1), people.items)
    assert found.verdict == verdict and message in found.message


def test_a_ranking_is_a_chain_of_pairs() -> None:
    """Two people, three items each in order: two pairs a person, of items on a line: one is left over each."""
    rows = Preferences.from_rows(
        [{"annotator_id": a, "completion_indices": [0, 1, 2]} for a in ("x", "y")], embeddings=3
    )
    found = count_metric_evidence(rows, np.array([[0.0], [1.0], [5.0]]))
    assert (found.dim, found.n_equations, found.median_answers) == (1, 2, 2)


def test_it_is_asked_for_and_not_run_by_itself(tmp_path: Path, capsys) -> None:
    people = make_metric_population(n_annotators=20, dim=4, n_items=40, seed=0)
    rows = people.comparisons(3, seed=1)
    names = [finding.name for finding in guard({"rows": rows}, embeddings=people.items)]
    assert "metric" not in names
    asked = guard({"rows": rows}, embeddings=people.items, options=GuardOptions(learns_metric=True))
    assert [finding.verdict for finding in asked if finding.name == "metric"] == ["look"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.to_rows()), encoding="utf-8")
    np.save(tmp_path / "v.npy", people.items)
    main([str(tmp_path / "rows.jsonl"), "--embeddings", str(tmp_path / "v.npy"), "--metric"])
    assert "look  metric" in capsys.readouterr().out
    assert main([str(tmp_path / "rows.jsonl"), "--metric"]) == 2
    assert "--metric asks about vectors" in capsys.readouterr().err
