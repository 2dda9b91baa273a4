"""Outcomes of a row by hand, and the tidy table."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from palign.data.preferences import Preferences
from palign.evaluation.scoring import pair_outcomes, score_preferences, score_table, scores_csv
from palign.functional.losses import plackett_luce


def test_a_pair_is_bradley_terry() -> None:
    outcomes = pair_outcomes(np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]]), np.array([[0, 1]] * 3))
    assert outcomes["accuracy"].tolist() == [1.0, 0.0, 0.5]
    expected = [-math.log(1 + math.exp(-1)), -math.log(1 + math.exp(1)), -math.log(2)]
    np.testing.assert_allclose(outcomes["log_likelihood"], expected)
    assert outcomes["reward"].tolist() == [2.0, 1.0, 1.0]
    assert outcomes["n_pairs"].tolist() == [1, 1, 1]


def test_rankings_by_stages_by_hand() -> None:
    scores = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 2.0, 1.0], [3.0, 2.0, 99.0]])
    ranks = np.array([[0, 1, 2], [0, 1, 1], [0, 0, 1], [0, 1, -1]])
    e = math.exp
    first = math.log(e(3) / (e(3) + e(1) + e(2)))
    expected = [
        first + math.log(e(1) / (e(1) + e(2))),  # a full ranking: two stages
        first,  # best of three: the first stage only
        math.log(e(3) / (e(3) + e(1))) + math.log(e(2) / (e(2) + e(1))),  # two tie above one: each against that one
        math.log(e(3) / (e(3) + e(2))),
    ]  # padding has no part
    outcomes = pair_outcomes(scores, ranks)
    np.testing.assert_allclose(outcomes["log_likelihood"], expected)
    np.testing.assert_allclose(outcomes["accuracy"], [2 / 3, 1, 1, 1])
    np.testing.assert_allclose(outcomes["reward"], [3, 3, 2.5, 3])
    assert outcomes["n_pairs"].tolist() == [3, 2, 2, 1]


def test_orders_of_three_sum_to_one_and_shifts_do_nothing() -> None:
    scores = np.array([[0.3, -1.2, 2.0]] * 6)
    ranks = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    logs = pair_outcomes(scores, ranks)["log_likelihood"]
    assert np.exp(logs).sum() == pytest.approx(1)
    np.testing.assert_allclose(pair_outcomes(scores + 700, ranks)["log_likelihood"], logs)


def test_likelihood_is_the_training_loss_of_the_same_rows() -> None:
    """Two codes for one formula: numpy here, torch in palign.functional."""
    rng = np.random.default_rng(0)
    scores, ranks = rng.normal(size=(100, 5)), np.full((100, 5), -1)
    for row in range(100):
        n_items = rng.integers(2, 6)
        drawn = np.sort(rng.integers(0, 4, n_items))
        drawn[-1] += 1  # at least one item stands below another
        ranks[row, :n_items] = np.unique(drawn, return_inverse=True)[1]
    loss = plackett_luce(torch.tensor(scores), torch.tensor(ranks))
    np.testing.assert_allclose(pair_outcomes(scores, ranks)["log_likelihood"], -loss.numpy(), atol=1e-12)


def test_outcomes_refuse_bad_scores() -> None:
    with pytest.raises(ValueError, match="item 1 in row 1 is nan"):
        pair_outcomes(np.array([[1.0, 0.0], [1.0, np.nan]]), np.array([[0, 1], [0, 1]]))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        pair_outcomes(np.array([1.0, 2.0]), np.array([[0, 1]]))
    with pytest.raises(ValueError, match="row 0 ranks no item above another"):
        pair_outcomes(np.array([[1.0, 2.0]]), np.array([[0, 0]]))
    assert len(pair_outcomes(np.empty((0, 2)), np.empty((0, 2), dtype=int))["accuracy"]) == 0


def make_preferences() -> Preferences:
    rows = [
        {"annotator_id": "x", "prompt": "p", "chosen": "aa", "rejected": "b", "country": "NL", "type": "own"},
        {"annotator_id": "y", "prompt": "p", "completions": ["b", "aa", "cccc"], "country": "PL", "type": "own"},
    ]
    return Preferences.from_rows(rows)


def test_table_of_a_model_that_likes_length_for_x_only() -> None:
    prefs, seen = make_preferences(), []

    def score(prompts: list[str], completions: list[str], ids: list[str]) -> torch.Tensor:
        seen.append(len(ids))
        signs = torch.tensor([1.0 if name == "x" else -1.0 for name in ids], requires_grad=True)
        return signs * torch.tensor([float(len(text)) for text in completions])

    scores = score_preferences(score, prefs, batch_size=2)
    np.testing.assert_array_equal(scores, [[2, 1, 0], [-1, -2, -4]])
    assert seen == [2, 2, 1]
    table = score_table(scores, prefs, model="length", types={"x": 0}, gold=np.array([1.0, 2.0]))
    assert table["accuracy"].tolist() == [1.0, 1.0] and table["reward"].tolist() == [2.0, -1.0]
    assert table["country"].tolist() == ["NL", "PL"] and table["declared_type"].tolist() == ["own", "own"]
    assert table["type"].isna().tolist() == [False, True]
    assert table["row"].tolist() == [0, 1] and set(table["model"]) == {"length"}


def test_vector_rows() -> None:
    prefs = Preferences.from_arrays(["x", "y"], np.array([0, 1]), np.array([2, 0]), np.array([1, 2]))
    vectors = np.array([[1.0, 0.0], [0.0, 5.0], [0.0, 1.0]])
    scores = score_preferences(lambda prompts, items, ids: (prompts * items).sum(1), prefs, vectors=vectors)
    np.testing.assert_array_equal(scores, [[0, 5], [5, 0]])
    scores = score_preferences(lambda prompts, items: items[:, 0], prefs, vectors=vectors, by_person=False)
    np.testing.assert_array_equal(scores, [[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="name rows of an embedding file"):
        score_preferences(lambda *_: 0, prefs)


def test_cells_that_a_spreadsheet_would_compute(capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"annotator_id": ["=1+1", "@x", "b"], "accuracy": [1.0, -0.5, 0.0], "model": "pal"})
    assert scores_csv(table).splitlines()[1:] == ["=1+1,1.0,pal", "@x,-0.5,pal", "b,0.0,pal"]
    assert "a spreadsheet would compute (annotator_id '=1+1'); --safe_csv" in capsys.readouterr().out
    assert scores_csv(table, safe=True).splitlines()[1:] == ["'=1+1,1.0,pal", "'@x,-0.5,pal", "b,0.0,pal"]
    assert scores_csv(table[2:]) == "annotator_id,accuracy,model\nb,0.0,pal\n" and capsys.readouterr().out == ""


def test_negative_numbers_in_a_column_of_objects_are_no_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"margin": np.array([-0.5, 0.25], dtype=object), "model": "pal"})
    assert scores_csv(table, safe=True) == "margin,model\n-0.5,pal\n0.25,pal\n" == scores_csv(table)
    assert capsys.readouterr().out == ""
