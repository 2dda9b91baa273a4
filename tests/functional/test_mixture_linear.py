"""The linear head against autograd, plain sums and planted types; recovery at full size is slow."""

import itertools
from dataclasses import replace

import pytest
import torch

from palign.functional.evidence.votes import Votes
from palign.functional.losses import plackett_luce
from palign.functional.mixture_linear import (
    fit_linear_mixture,
    linear_log_likelihoods,
    place_newcomers,
)
from palign.functional.mixture_linear_columns import LinearRankings
from palign.functional.mixture_start import find_stages, random_start
from palign.functional.partitions import adjusted_rand_index, match_types
from tests.worlds.scripts import load_script

worlds = load_script("measure_mixture")


def mixed_rows(seed: int = 0) -> tuple[torch.Tensor, Votes]:
    """40 rows of up to four items with ties and padding, features shared between rows; person 4 of 5 has none."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(25, 3, generator=generator, dtype=torch.float64)
    items = torch.stack([torch.randperm(25, generator=generator)[:4] for _ in range(40)])
    patterns = torch.tensor([[0, 1, 2, 3], [0, 1, 1, -1], [0, 1, -1, -1], [0, 0, 1, 2], [1, 0, 0, 2]])
    return features, Votes(items, patterns[torch.arange(40) % 5], torch.arange(40) % 4, 5)


def by_definition(theta: torch.Tensor, rows: tuple[torch.Tensor, Votes]) -> torch.Tensor:
    """(n_annotators, n_types) sums of −plackett_luce, row after row."""
    features, votes = rows
    total = torch.zeros(votes.n_annotators, len(theta), dtype=torch.float64)
    for row, person in enumerate(votes.annotator_index.tolist()):
        for kind, weights in enumerate(theta):
            total[person, kind] = total[person, kind] - plackett_luce(
                features[votes.item_indices[row]] @ weights, votes.ranks[row]
            )
    return total


def test_likelihoods_are_sums_of_plackett_luce() -> None:
    theta = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = mixed_rows()
    found = linear_log_likelihoods(theta, *rows)
    torch.testing.assert_close(found, by_definition(theta, rows), atol=1e-12, rtol=0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    shuffled = rows[1].of_rows(order)
    torch.testing.assert_close(linear_log_likelihoods(theta, rows[0], shuffled), found, atol=1e-12, rtol=0)


def test_chunks_do_not_matter(monkeypatch) -> None:
    theta, weights = torch.randn(2, 3, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    problem = LinearRankings(mixed_rows()[0], find_stages(mixed_rows()[1]))
    whole = problem.evaluate(theta, weights)
    for size in (1, 7, 11):
        monkeypatch.setattr("palign.functional.mixture_linear_columns.CHUNK", size)
        for part, expected in zip(problem.evaluate(theta, weights), whole, strict=True):
            torch.testing.assert_close(part, expected, atol=1e-12, rtol=0)


def test_gradient_is_that_of_autograd_and_finite_differences() -> None:
    generator, rows = torch.Generator().manual_seed(3), mixed_rows()
    theta = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.rand(5, 2, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(-(weights * by_definition(theta, rows)).sum(), theta)
    _, gradient = LinearRankings(rows[0], find_stages(rows[1])).evaluate(theta.detach(), weights)
    torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=0)
    for kind, axis in itertools.product(range(2), range(3)):
        step = torch.zeros(2, 3, dtype=torch.float64)
        step[kind, axis] = 1e-5
        up, down = (-(weights * by_definition(theta.detach() + sign * step, rows)).sum() for sign in (1, -1))
        assert gradient[kind, axis].item() == pytest.approx((up - down).item() / 2e-5, abs=1e-6)


def test_scores_far_out_are_finite() -> None:
    rows = mixed_rows()
    likelihoods, gradient = LinearRankings(rows[0] * 1e4, find_stages(rows[1])).evaluate(
        torch.ones(1, 3, dtype=torch.float64), torch.ones(5, 1, dtype=torch.float64)
    )
    assert torch.isfinite(likelihoods).all() and torch.isfinite(gradient).all()


def test_objective_and_fixed_point_by_definition() -> None:
    rows = worlds.linear_world("rank-3", worlds.directions(2, 3, 0), torch.arange(20) % 2, 4, 0)
    fit = fit_linear_mixture(*rows, 2, ridge=0.5, tolerance=1e-12, max_steps=2000, n_restarts=1)
    theta = fit.theta.clone().requires_grad_()
    joint = fit.mixing_weights.log() + by_definition(theta, rows)
    objective = joint.logsumexp(1).sum() - 0.25 * (theta - fit.pooled_theta).square().sum()
    assert fit.objective == pytest.approx(objective.item(), abs=1e-8)
    (gradient,) = torch.autograd.grad(objective, theta)  # EM ends where the marginal likelihood is flat
    assert gradient.abs().max() < 1e-2
    torch.testing.assert_close(fit.responsibilities, joint.softmax(1).detach(), atol=1e-10, rtol=0)
    torch.testing.assert_close(fit.mixing_weights, fit.responsibilities.mean(0), atol=1e-4, rtol=0)
    pooled = fit.pooled_theta.clone().requires_grad_()
    loss = 0.005 * pooled.square().sum() - by_definition(pooled[None], rows).sum()
    assert torch.autograd.grad(loss, pooled)[0].abs().max() < 1e-3


def test_one_type_is_the_pooled_fit() -> None:
    fit = fit_linear_mixture(*mixed_rows(), 1)
    torch.testing.assert_close(fit.theta[0], fit.pooled_theta, atol=0.05, rtol=0.05)
    assert fit.mixing_weights.tolist() == [1.0] and fit.responsibilities.tolist() == [[1.0]] * 5


def test_a_pooled_fit_that_is_known_is_not_made_again() -> None:
    rows = mixed_rows()
    first = fit_linear_mixture(*rows, 2, n_restarts=1)
    again = fit_linear_mixture(*rows, 2, n_restarts=1, pooled_theta=first.pooled_theta)
    torch.testing.assert_close(again.theta, first.theta, atol=1e-6, rtol=1e-6)
    moved = fit_linear_mixture(*rows, 2, n_restarts=1, ridge=50.0, pooled_theta=first.pooled_theta + 1)
    assert not torch.allclose(moved.theta, first.theta, atol=0.1)  # types are shrunk to it


def rises(start: str, n_steps: int) -> None:
    rows = worlds.linear_world("best-of-3", worlds.directions(3, 6, 1), torch.arange(40) % 3, 3, 1)
    given = random_start(40, 3, seed=1) if start == "random" else None
    options = {"n_restarts": 1, "temper_start": 1.0, "tolerance": -1.0}
    fit = fit_linear_mixture(*rows, 3, start=given, max_steps=n_steps, **options)
    assert len(fit.trajectory) == n_steps and not fit.converged
    for before, after in itertools.pairwise(fit.trajectory):
        assert after >= before - 1e-8 * abs(before)


def test_penalised_likelihood_never_falls() -> None:
    rises("random", 100)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spectral", "random"])
def test_penalised_likelihood_never_falls_in_five_hundred_steps(start: str) -> None:
    rises(start, 500)


def test_two_types_are_recovered() -> None:
    theta, types = worlds.directions(2, 4, 0, orthogonal=True), worlds.draw_types(torch.tensor([0.7, 0.3]), 100, 0)
    rows = worlds.linear_world("best-of-3", theta, types, 8, 0)
    fit = fit_linear_mixture(*rows, 2, n_restarts=3)
    guess = fit.responsibilities.argmax(1)
    assert adjusted_rand_index(guess, types) > 0.85 and not fit.dead.any()
    names = match_types(guess, types)
    cosines = torch.nn.functional.cosine_similarity(fit.theta, theta[names])
    assert cosines.min() > 0.9
    assert fit.restart_types.shape == (3, 100)
    assert fit.restart_objectives.tolist() == sorted(fit.restart_objectives.tolist(), reverse=True)
    assert torch.equal(fit.restart_types[0], guess)
    again = fit_linear_mixture(*rows, 2, n_restarts=3)
    assert torch.equal(again.theta, fit.theta)


@pytest.mark.parametrize("options", [{}, {"tolerance": 1e-5, "max_steps": 60}])
def test_opposed_types_of_one_row_each_do_not_end_on_the_saddle(options: dict[str, float]) -> None:
    """θ and −θ of norm 1, a best-of-three choice each, also with the settings by which K is chosen."""
    theta = worlds.directions(1, 4, 0, norm=1.0)
    rows = worlds.linear_world("best-of-3", torch.cat([theta, -theta]), torch.arange(1000) % 2, 1, 0)
    one, two = (fit_linear_mixture(*rows, k, n_restarts=1, **options) for k in (1, 2))
    assert two.objective - one.objective > 0.01 * 1000  # nats
    assert torch.nn.functional.cosine_similarity(two.theta, theta).abs().min() > 0.9


def test_newcomers_are_placed() -> None:
    theta = worlds.directions(2, 4, 0, orthogonal=True)
    eta = torch.tensor([0.7, 0.3], dtype=torch.float64)
    rows = worlds.linear_world("rank-3", theta, torch.arange(50) % 2, 8, 5)
    votes = rows[1].said_by(rows[1].annotator_index, 51)
    gamma = place_newcomers(theta, eta, rows[0], votes)
    assert (gamma[:50].argmax(1) == torch.arange(50) % 2).double().mean() > 0.95
    assert gamma[50].tolist() == pytest.approx([0.7, 0.3])  # no votes: the mixing weights


def test_types_without_people_die_and_nothing_is_nan() -> None:
    rows = mixed_rows()
    start = torch.tensor([[1.0, 0.0, 0.0]] * 4 + [[0.0, 1.0, 0.0]], dtype=torch.float64)
    fit = fit_linear_mixture(*rows, 3, start=start, n_restarts=1, temper_start=1.0)
    assert fit.dead.tolist() == [False, True, True]
    for part in (fit.theta, fit.mixing_weights, fit.responsibilities):
        assert torch.isfinite(part).all()
    torch.testing.assert_close(fit.theta[1], fit.pooled_theta, atol=1e-9, rtol=0)


def test_what_is_wrong_is_named() -> None:
    features, votes = mixed_rows()
    with pytest.raises(ValueError, match="fixed point"):
        fit_linear_mixture(features, votes, 2, start=torch.full((5, 2), 0.5))
    with pytest.raises(ValueError, match=r"start has shape \(5, 3\)"):
        fit_linear_mixture(features, votes, 2, start=torch.rand(5, 3))
    with pytest.raises(ValueError, match="ridge is 0"):
        fit_linear_mixture(features, votes, 2, ridge=0)
    with pytest.raises(ValueError, match="all of them tie"):
        fit_linear_mixture(features, replace(votes, ranks=torch.zeros_like(votes.ranks)), 2)
    features[7, 1] = torch.nan
    with pytest.raises(ValueError, match="item vector 7"):
        fit_linear_mixture(features, votes, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n_rows", "asked"), [("binary", 10, 0.87), ("best-of-3", 8, 0.92), ("rank-3", 5, 0.90)]
)
def test_recovery_over_twenty_seeds(kind: str, n_rows: int, asked: float) -> None:
    found = worlds.two_types(kind, n_rows, range(20))
    assert found["ari"] >= asked
    assert found["accuracy"] >= found["ceiling"] - 0.03
    assert found["calibration"] <= 0.04
    # against the shares of types among the hundred people drawn: η itself is not in the data more precisely than that
    assert found["share_error"] <= 0.04


@pytest.mark.slow
@pytest.mark.parametrize(("n_rows", "asked"), [(5, (0.77, 0.86, 0.93)), (10, (0.91, 0.96, 0.985))])
def test_three_generic_types(n_rows: int, asked: tuple[float, ...]) -> None:
    for kind, least in zip(worlds.RANKS, asked, strict=True):
        assert worlds.three_types(kind, n_rows, range(20))["accuracy"] >= least


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least"), [("best-of-3", 0.05), ("rank-3", 0.2)])
def test_ternary_rows_tell_opposed_types_apart(kind: str, least: float) -> None:
    gain, cosine, _ = worlds.opposed_types(kind)
    assert gain > least and cosine > 0.98


@pytest.mark.slow
def test_one_binary_row_each_does_not() -> None:
    gain, _, _ = worlds.opposed_types("binary")
    assert gain < 2e-3


@pytest.mark.slow
def test_self_confirmation() -> None:
    found = [worlds.self_confirmation(seed) for seed in range(10)]
    assert sum(r["tempered"] for r in found) / 10 >= 0.93
    assert all(r["sees"] for r in found)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "asked"), [("binary", 0.92), ("best-of-3", 0.97), ("rank-3", 0.99)])
def test_newcomers_at_eight_votes(kind: str, asked: float) -> None:
    found = worlds.newcomers(kind, range(5))
    assert found["accuracy"] >= asked and found["calibration"] <= 0.03


def test_restarts_on_people_drawn_end_where_all_restarts_on_everybody_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 people, restarts on 100 of them: the optimum of the same function, from the same starts' best."""
    theta, types = worlds.directions(2, 4, 0, orthogonal=True), worlds.draw_types(torch.tensor([0.7, 0.3]), 300, 0)
    rows = worlds.linear_world("best-of-3", theta, types, 8, 0)
    options = {"n_restarts": 3, "tolerance": 1e-10}
    whole = fit_linear_mixture(*rows, 2, **options)
    monkeypatch.setattr("palign.functional.mixture_linear.N_DRAWN", 100)
    drawn = fit_linear_mixture(*rows, 2, **options)
    assert drawn.objective == pytest.approx(whole.objective, rel=1e-6)
    names = match_types(drawn.responsibilities.argmax(1), whole.responsibilities.argmax(1))
    assert adjusted_rand_index(drawn.responsibilities.argmax(1), whole.responsibilities.argmax(1)) > 0.99
    torch.testing.assert_close(drawn.theta, whole.theta[names], atol=5e-3, rtol=0)
    torch.testing.assert_close(drawn.pooled_theta, whole.pooled_theta)
    assert drawn.restart_types.shape == (3, 300) and drawn.start.shape == (300, 2)
    assert drawn.restart_objectives.tolist() == sorted(drawn.restart_objectives.tolist(), reverse=True)
    given = fit_linear_mixture(*rows, 2, start=random_start(300, 2, seed=4), **options)
    assert given.objective == pytest.approx(whole.objective, rel=1e-6)
    with pytest.raises(ValueError, match=r"start has shape \(100, 2\)"):
        fit_linear_mixture(*rows, 2, start=random_start(100, 2, seed=4))
