"""How many types: the rule worked by hand, planted numbers found, nobody invented."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from palign.functional.linear_mixture import fit_linear_mixture, linear_log_likelihoods
from palign.functional.type_count import _first_half, _judge, _one_standard_error, choose_n_types

PATH = Path(__file__).parents[1] / "scripts" / "measure_mixture.py"
SPEC = importlib.util.spec_from_file_location("measure_mixture", PATH)
worlds = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(worlds)


def double(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_rule_by_hand() -> None:
    # four people of one judged row each. K = 3 is best by .1 a row over K = 2, and people's gains over K = 2 are
    # −.1, .3, −.1, .3: mean .1, standard deviation .231, standard error .115 → K = 2; K = 1 is 1 nat away
    table = [{"n_types": k} for k in (1, 2, 3)]
    best = double([-1.0, -1.0, -1.0, -1.0])
    second = best - double([-0.1, 0.3, -0.1, 0.3])
    choice = _one_standard_error(table, [best - 1, second, best], torch.ones(4, dtype=torch.float64))
    assert choice.n_types == 2
    assert [row["log_likelihood"] for row in choice.table] == pytest.approx([-2.0, -1.1, -1.0])
    assert [row["standard_error"] for row in choice.table] == pytest.approx([0.0, 0.4 / math.sqrt(12), 0.0])


def test_a_sure_gain_that_is_not_worth_a_type() -> None:
    table = [{"n_types": k} for k in (1, 2)]
    best = double([-1.0, -2.0, -3.0])
    assert _one_standard_error(table, [best - 0.001, best], torch.ones(3, dtype=torch.float64)).n_types == 1
    assert _one_standard_error(table, [best - 0.1, best], torch.ones(3, dtype=torch.float64)).n_types == 2


def test_halves_share_every_person_out() -> None:
    index = torch.tensor([0, 1, 0, 2, 0, 1, 3, 0, 0])
    half = _first_half(index, torch.Generator().manual_seed(0))
    assert [int(half[index == person].sum()) for person in range(4)] == [3, 1, 1, 1]


def test_people_are_judged_by_strangers_to_their_rows() -> None:
    rows = worlds.linear_world("best-of-3", worlds.directions(2, 3, 0), torch.arange(16) % 2, 6, 0)
    half = _first_half(rows[3], torch.Generator().manual_seed(0))
    is_out = torch.arange(16) < 4
    options = {"n_restarts": 1, "seed": 0, "ridge": 1.0, "temper_start": 0.2}
    filled, again = (torch.zeros(12, 16, dtype=torch.float64) for _ in range(2))
    _judge(filled, rows[0], rows[1:4], is_out, half, 2, options)
    assert (filled[:, 4:] == 0).all() and (filled[:, :4] < 0).all()
    # what person 1 says in the half they are judged by moves nobody's judgement but theirs: it reaches no head
    other = rows[1].clone()
    turned = (rows[3] == 1) & ~half
    other[turned] = other[turned].roll(1, 1)
    _judge(again, rows[0], (other, *rows[2:4]), is_out, half, 2, options)
    assert torch.equal(again[:, [0, 2, 3]], filled[:, [0, 2, 3]]) and not torch.equal(again[:, 1], filled[:, 1])


def test_two_types_and_one() -> None:
    for n_types in (1, 2):
        types = torch.arange(60) % n_types
        rows = worlds.linear_world("best-of-3", worlds.directions(n_types, 3, 1, orthogonal=True), types, 8, 1)
        choice = choose_n_types(*rows, max_types=2, n_restarts=1, n_folds=2)
        assert choice.n_types == n_types
        assert min(choice.table, key=lambda row: row["bic"])["n_types"] == n_types
        assert [row["n_types"] for row in choice.table] == [1, 2]


def test_of_very_many_people_some_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    types = torch.arange(120) % 2
    rows = worlds.linear_world("best-of-3", worlds.directions(2, 3, 1, orthogonal=True), types, 8, 1)
    monkeypatch.setattr("palign.functional.type_count.N_DRAWN", 40)
    asked: list[int] = []

    def fit(*args: object, **options: object) -> object:
        asked.append(args[4])
        return fit_linear_mixture(*args, **options)

    monkeypatch.setattr("palign.functional.type_count.fit_linear_mixture", fit)
    choice = choose_n_types(*rows, max_types=2, n_restarts=1, n_folds=2)
    assert choice.n_types == 2 and set(asked) == {40}


def test_bic_by_definition() -> None:
    rows = worlds.linear_world("rank-3", worlds.directions(1, 3, 0), torch.zeros(10, dtype=torch.int64), 4, 0)
    (row,) = choose_n_types(*rows, candidates=[1], n_folds=2).table
    # one type: at the pooled optimum, found here by Newton's method on the likelihood itself
    theta = torch.zeros(3, dtype=torch.float64)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return -(linear_log_likelihoods(weights[None], *rows).sum()) + 0.005 * weights.square().sum()

    best = min(float(loss(theta_hat)) for theta_hat in _descend(loss, theta))
    assert row["bic"] == pytest.approx(2 * best + 3 * math.log(10), abs=0.2)


def _descend(loss, theta: torch.Tensor) -> list[torch.Tensor]:
    """Coordinate search: slow, and knows nothing of the code under test."""
    step, path = 0.5, [theta]
    while step > 1e-3:
        around = [path[-1] + sign * step * axis for axis in torch.eye(len(theta)).double() for sign in (1, -1)]
        best = min(around, key=lambda point: float(loss(point)))
        if float(loss(best)) < float(loss(path[-1])):
            path.append(best)
        else:
            step /= 2
    return path


def test_too_few_people_are_refused() -> None:
    rows = worlds.linear_world("binary", worlds.directions(1, 2, 0), torch.zeros(9, dtype=torch.int64), 1, 0)
    with pytest.raises(ValueError, match="only 0 annotators have two rows or more"):
        choose_n_types(*rows)


def test_more_types_than_people_to_fit_on_are_refused() -> None:
    # nine people in two folds: five are held out, four are left
    rows = worlds.linear_world("binary", worlds.directions(1, 2, 0), torch.zeros(9, dtype=torch.int64), 2, 0)
    with pytest.raises(ValueError, match=r"none of the numbers of types \[5\] lies in 1…4"):
        choose_n_types(*rows, candidates=[5], n_folds=2)


@pytest.mark.parametrize("n_drawn", [60, 4000])
def test_people_of_one_row_are_fitted_on_at_any_size(monkeypatch: pytest.MonkeyPatch, n_drawn: int) -> None:
    """80 people, of whom 20 have a second row: all 20 are judged, and others are among those fitted on."""
    features, items, ranks, _, _ = worlds.linear_world(
        "rank-3", worlds.directions(1, 2, 0), torch.zeros(100, dtype=torch.int64), 1, 0
    )
    owner = torch.cat([torch.arange(80), torch.arange(20)])
    monkeypatch.setattr("palign.functional.type_count.N_DRAWN", n_drawn)
    fitted: list[int] = []

    def fit(*args: Any, **options: Any) -> object:
        fitted.append(int((torch.bincount(args[3]) == 1).sum()))
        return fit_linear_mixture(*args, **options)

    monkeypatch.setattr("palign.functional.type_count.fit_linear_mixture", fit)
    choose_n_types(features, items, ranks, owner, 80, candidates=[1], n_folds=2)
    assert fitted == [min(n_drawn, 80) - 20] * 3


@pytest.mark.slow
@pytest.mark.parametrize("n_annotators", [300, 150])
@pytest.mark.parametrize("n_types", [1, 3])
def test_the_true_number_in_five_of_six_seeds(n_types: int, n_annotators: int) -> None:
    chosen = [worlds.count_types(n_types, n_annotators, seed) for seed in range(6)]
    assert sum(k == n_types for k in chosen) >= (6 if n_types == 1 else 5), chosen
