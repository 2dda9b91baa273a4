"""How many types: the rule worked by hand, planted numbers found, nobody invented."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from palign.functional.evidence.votes import Votes
from palign.functional.mixture_linear import fit_linear_mixture, linear_log_likelihoods
from palign.functional.mixture_type_count import (
    _one_standard_error,
    _Trial,
    choose_n_types,
    held_out_log_likelihood,
)
from tests.worlds.scripts import load_script

worlds = load_script("measure_mixture")


def double(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_rule_by_hand() -> None:
    # four people of one judged row each. K = 3 is best by .1 a row over K = 2, and people's gains over K = 2 are
    # −.1, .3, −.1, .3: mean .1, standard deviation .231, standard error .115 → K = 2; K = 1 is 1 nat away
    table = [{"n_types": k} for k in (1, 2, 3)]
    best = double([-1.0, -1.0, -1.0, -1.0])
    second = best - double([-0.1, 0.3, -0.1, 0.3])
    ones = torch.ones(4, dtype=torch.float64)
    choice = _one_standard_error(table, [best - 1, second, best], [ones] * 3, ones)
    assert choice.n_types == 2
    assert [row["log_likelihood"] for row in choice.table] == pytest.approx([-2.0, -1.1, -1.0])
    assert [row["standard_error"] for row in choice.table] == pytest.approx([0.0, 0.4 / math.sqrt(12), 0.0])
    assert [row["gain"] for row in choice.table] == pytest.approx([0.0, 0.9, 1.0])


def test_one_type_stays_within_1_28_errors_and_others_within_one() -> None:
    # differences of alternating sign around a mean: the error of the mean of n is sd / sqrt(n − 1)
    n = 101
    spread = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).double()
    spread = spread - spread.mean()
    error = float((spread.square().sum() / (n - 1) / n).sqrt())
    ones = torch.ones(n, dtype=torch.float64)

    def chosen(errors: float, first: int) -> int:
        table = [{"n_types": first}, {"n_types": first + 1}]
        gain = spread + errors * error
        return _one_standard_error(table, [-ones, -ones + gain], [ones] * 2, ones).n_types

    assert chosen(1.2, 1) == 1 and chosen(1.4, 1) == 2
    assert chosen(1.2, 2) == 3 and chosen(0.9, 2) == 2


def test_a_sure_gain_that_is_not_worth_a_type() -> None:
    table, ones = [{"n_types": k} for k in (1, 2)], torch.ones(3, dtype=torch.float64)
    best = double([-1.0, -2.0, -3.0])
    assert _one_standard_error(table, [best - 0.001, best], [ones] * 2, ones).n_types == 1
    assert _one_standard_error(table, [best - 0.1, best], [ones] * 2, ones).n_types == 2


def test_types_that_are_less_accurate_give_way_to_one() -> None:
    table, ones = [{"n_types": k} for k in (1, 2)], torch.ones(4, dtype=torch.float64)
    judged = [double([-0.7] * 4), double([-0.5] * 4)]
    right = [double([1, 1, 1, 0]), double([1, 0, 0, 0])]  # two of four fewer, standard error √(1/12) = .29
    assert _one_standard_error(table, judged, right, ones).n_types == 1
    assert _one_standard_error(table, judged, right[::-1], ones).n_types == 2


def test_people_are_judged_by_strangers_to_their_rows() -> None:
    rows = worlds.linear_world("best-of-3", worlds.directions(2, 3, 0), torch.arange(16) % 2, 6, 0)
    options = {"n_restarts": 1, "temper_start": 0.2}
    features, votes = rows
    trial = _Trial(features, votes, 4, 0, **options)
    before = trial.judge(2)
    # whichever rows person 1 is judged by, their names reach no head that judges person 0 of the same fold
    fold = next(fold for fold in trial.folds if 1 in fold)
    turned, is_theirs = votes.item_indices.clone(), votes.annotator_index == 1
    turned[is_theirs] = turned[is_theirs].roll(1, 1)
    after = _Trial(features, replace(votes, item_indices=turned), 4, 0, **options).judge(2)
    others = torch.tensor([person for person in fold.tolist() if person != 1])
    if before.temperature == after.temperature:
        torch.testing.assert_close(after.log_likelihood[others], before.log_likelihood[others])
    assert not torch.allclose(after.log_likelihood[1], before.log_likelihood[1])


def test_what_features_are_compared_by_is_the_likelihood_in_the_table() -> None:
    features, votes = worlds.linear_world("best-of-3", worlds.directions(2, 3, 0), torch.arange(16) % 2, 6, 0)
    options = {"ridge": None, "pooled_ridge": None, "n_restarts": 2, "n_folds": 2}
    (row,) = choose_n_types(features, votes, candidates=[2], **options).table
    assert held_out_log_likelihood(features, votes, 2, **options) == pytest.approx(row["log_likelihood"], abs=1e-12)
    with pytest.raises(ValueError, match=r"types \[40\] lies in"):
        held_out_log_likelihood(features, votes, 40, **options)


def votes_world(
    n_camps: int, seed: int, n_people: int = 120, n_items: int = 60, n_votes: int = 16
) -> tuple[torch.Tensor, Votes]:
    """People who vote on items by the taste of their camp, as pairs of a yes over a no."""
    generator = torch.Generator().manual_seed(seed)
    taste = 1.5 * torch.randn(n_camps, n_items, generator=generator)
    items, people = [], []
    for person in range(n_people):
        seen = torch.randperm(n_items, generator=generator)[:n_votes]
        vote = torch.rand(n_votes, generator=generator) < taste[person % n_camps, seen].sigmoid()
        pairs = torch.cartesian_prod(seen[vote], seen[~vote])
        items.append(pairs[torch.randperm(len(pairs), generator=generator)[:30]])
        people.append(torch.full((len(items[-1]),), person))
    items, people = torch.cat(items), torch.cat(people)
    return 3 * torch.eye(n_items), Votes(items, torch.tensor([0, 1]).expand_as(items), people, n_people)


@pytest.mark.parametrize("n_camps", [1, 2])
def test_votes_as_pairs_are_no_more_than_votes(n_camps: int) -> None:
    """People who agree are one type however many pairs their votes make; two camps are two."""
    choice = choose_n_types(*votes_world(n_camps, 0), max_types=3, n_restarts=2, ridge=None, pooled_ridge=None)
    assert choice.n_types == n_camps
    assert choice.n_people_by_item > 100  # their items were dealt, not their rows


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
    monkeypatch.setattr("palign.functional.mixture_type_count.N_DRAWN", 40)
    asked: list[int] = []

    def fit(*args: Any, **options: Any) -> object:
        asked.append(args[1].n_annotators)
        return fit_linear_mixture(*args, **options)

    monkeypatch.setattr("palign.functional.mixture_type_count.fit_linear_mixture", fit)
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
    features, votes = worlds.linear_world(
        "rank-3", worlds.directions(1, 2, 0), torch.zeros(100, dtype=torch.int64), 1, 0
    )
    owner = torch.cat([torch.arange(80), torch.arange(20)])
    monkeypatch.setattr("palign.functional.mixture_type_count.N_DRAWN", n_drawn)
    fitted: list[int] = []

    def fit(*args: Any, **options: Any) -> object:
        fitted.append(int((torch.bincount(args[1].annotator_index) == 1).sum()))
        return fit_linear_mixture(*args, **options)

    monkeypatch.setattr("palign.functional.mixture_type_count.fit_linear_mixture", fit)
    choose_n_types(features, votes.said_by(owner, 80), candidates=[1], n_folds=2)
    assert fitted == [min(n_drawn, 80) - 20] * 3


@pytest.mark.slow
@pytest.mark.parametrize("n_annotators", [300, 150])
@pytest.mark.parametrize("n_types", [1, 3])
def test_the_true_number_in_five_of_six_seeds(n_types: int, n_annotators: int) -> None:
    chosen = [worlds.count_types(n_types, n_annotators, seed) for seed in range(6)]
    assert sum(k == n_types for k in chosen) >= (6 if n_types == 1 else 5), chosen
