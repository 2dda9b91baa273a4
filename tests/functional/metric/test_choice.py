"""Strengths by held-out pairs: parts are dealt evenly, and the climb ends where it should."""

import pytest
import torch

from palign.data.synthetic_metric import make_metric_population
from palign.functional.metric.choice import best_temperature, choose_strengths, deal_rows
from palign.functional.metric.comparisons import Comparisons, Loss, Parameters
from palign.functional.metric.fit import MetricFit, fit_metric
from tests.worlds.metric import pairs_of, tiny_pairs


def test_everybodys_rows_are_dealt_evenly_and_stay_whole() -> None:
    row = torch.arange(60).repeat_interleave(2)  # two pairs a row
    person = (torch.arange(60) // 6).repeat_interleave(2)
    part = deal_rows(person, row, 3, seed=0)
    assert (part.view(60, 2)[:, 0] == part.view(60, 2)[:, 1]).all()
    for one in range(10):
        assert torch.bincount(part.view(60, 2)[:, 0][one * 6 : one * 6 + 6], minlength=3).tolist() == [2, 2, 2]
    assert not torch.equal(part, deal_rows(person, row, 3, seed=1))


def test_of_single_answers_a_third_is_held_out_each_time() -> None:
    part = deal_rows(torch.arange(300), torch.arange(300), 3, seed=0)
    assert all(70 < int((part == k).sum()) < 130 for k in range(3))


def test_the_climb_finds_the_top_of_a_hill() -> None:
    """A fitter whose held-out margins are best at strengths (1, 1/64)."""
    pairs = tiny_pairs(30)

    def fitter(part: Comparisons, strengths: tuple[float, ...], _: Parameters | None) -> MetricFit:
        off = sum(abs(torch.tensor(s / w).log2()) for s, w in zip(strengths, (1.0, 1 / 64), strict=True))
        liked = torch.full((part.n_people, part.dim), float(off))
        # the larger `off`, the worse every pair is foretold: people who like the losers
        direction = -part.differences.mean(0) / part.differences.mean(0).norm() * liked
        return MetricFit(Parameters(part.zeros().metric, part.zeros().shared, direction), 0.0, 0.0, 0)

    choice = choose_strengths(pairs, torch.arange(30), fitter=fitter, start=(4.0, 1.0))
    assert choice.strengths == (1.0, 1 / 64)
    assert choice.log_likelihood == max(nats for _, nats in choice.table)


def test_strengths_whose_fit_does_not_end_are_not_chosen() -> None:
    pairs = tiny_pairs(30)

    def fitter(part: Comparisons, strengths: tuple[float, ...], start: Parameters | None) -> MetricFit:
        if strengths[0] < 1:
            raise RuntimeError("not at its optimum")
        return fit_metric(part, strengths=strengths, start=start, tolerance=1e-3)

    choice = choose_strengths(pairs, torch.arange(30), fitter=fitter)
    assert choice.strengths[0] >= 1 and any(nats == -float("inf") for _, nats in choice.table)

    def never(part: Comparisons, strengths: tuple[float, ...], start: Parameters | None) -> MetricFit:
        raise RuntimeError("not at its optimum")

    with pytest.raises(RuntimeError, match="None of .* strengths gives a fit that ends"):
        choose_strengths(pairs, torch.arange(30), fitter=never)


def test_a_chosen_strength_is_better_on_new_rows_than_a_wild_one() -> None:
    people = make_metric_population(n_annotators=30, dim=4, n_items=60, seed=2)
    pairs, new = (pairs_of(people, people.comparisons(12, seed=seed)) for seed in (3, 4))
    choice = choose_strengths(pairs, torch.arange(len(pairs)))
    chosen = new.loss(fit_metric(pairs, strengths=choice.strengths).parameters, Loss.LOGISTIC)
    wild = [new.loss(fit_metric(pairs, strengths=s).parameters, Loss.LOGISTIC) for s in ((1e-3, 1e-3), (300.0, 300.0))]
    assert chosen < min(wild)


def test_margins_of_a_hinge_get_a_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4000, generator=generator, dtype=torch.float64)
    wins = torch.rand(4000, generator=generator, dtype=torch.float64) < torch.sigmoid(logits)
    margins = torch.where(wins, logits, -logits) / 4  # a quarter of a logit
    assert 3 < best_temperature(margins, torch.ones(4000, dtype=torch.float64)) < 5.7
