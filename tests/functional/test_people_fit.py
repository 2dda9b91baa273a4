"""Where people stand on the simplex, against Bayes by hand, scipy's optimisers and known truths."""

import math
import time

import numpy as np
import pytest
import scipy.optimize
import torch

from palign.functional import people_fit as simplex_fit
from palign.functional import people_stages as stages
from palign.functional.people_fit import map_weights, official_weights, pair_log_likelihoods, posterior_weights

PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def dirichlet(shape: tuple[int, ...], k: int, seed: int, alpha: float = 1.0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).dirichlet(np.full(k, alpha), shape))


def mixed_rows(n_rows: int, n_annotators: int, seed: int, scale: float = 1.5):
    """Pairs, best-of-three, full and tied rankings, with NaN where nothing is: scores, ranks, annotator_index."""
    rng = np.random.default_rng(seed)
    kinds = np.array([[0, 1, -1, -1], [0, 1, 1, -1], [0, 1, 2, 3], [0, 0, 1, 2], [-1, 1, -1, 0], [0, 1, 2, 2]])
    ranks = kinds[rng.integers(len(kinds), size=n_rows)]
    scores = scale * rng.normal(size=(n_rows, 4, 3))
    scores[ranks < 0] = np.nan
    return torch.tensor(scores), torch.tensor(ranks), torch.tensor(rng.integers(n_annotators, size=n_rows))


def objective_in_numpy(weights, scores, ranks, barrier) -> float:
    """−log posterior of one person, from the definition."""
    total = -float(np.sum(barrier * np.log(weights)))
    for row_scores, row_ranks in zip(scores, ranks, strict=True):
        held = np.flatnonzero(row_ranks >= 0)
        utility = {i: float(row_scores[i] @ weights) for i in held}
        for i in held:
            beaten = [j for j in held if row_ranks[j] > row_ranks[i]]
            if beaten:
                total += math.log(sum(math.exp(utility[j] - utility[i]) for j in [i, *beaten]))
    return total


def pairs_of(weights: torch.Tensor, n_rows: int, seed: int, scale: float = 4.0):
    """Answers of people with known weights: margins (rows, k) of chosen over rejected, annotator_index."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(len(weights)).repeat_interleave(n_rows)
    margins = scale * torch.randn(len(index), weights.shape[1], generator=generator)
    agrees = torch.rand(len(index), generator=generator) < torch.sigmoid((margins * weights[index].float()).sum(1))
    return torch.where(agrees[:, None], margins, -margins), index


def as_pairs(margins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([margins, torch.zeros_like(margins)], 1), torch.tensor([0, 1]).expand(len(margins), 2)


def test_posterior_by_hand() -> None:
    # prior 1/2, 1/2; answers of likelihood 3/4 · 1/3 and 1/4 · 1: posterior 1/2, 1/2; evidence 1/4
    likelihood = torch.tensor([[3 / 4, 1 / 4], [1 / 3, 1.0], [3 / 4, 1 / 4]], dtype=torch.float64)
    support = torch.eye(2, dtype=torch.float64)
    fit = posterior_weights(
        likelihood.log(), torch.tensor([0, 0, 1]), support, torch.zeros(2).double(), n_annotators=3
    )
    expected = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(fit.weights, expected, atol=1e-12, rtol=0)
    # of a corner: the standard deviation of a coin
    spread = torch.tensor([0.5, math.sqrt(3) / 4, 0.5], dtype=torch.float64)[:, None].expand(3, 2)
    torch.testing.assert_close(fit.spread, spread, atol=1e-12, rtol=0)
    assert fit.objective.tolist() == pytest.approx([math.log(4), math.log(2), 0.0], abs=1e-12)


def test_posterior_is_bayes_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    support, log_prior = rng.dirichlet(np.ones(4), size=11), rng.normal(size=11)
    table, index = -rng.exponential(size=(60, 11)), rng.integers(6, size=60)
    fit = posterior_weights(
        torch.tensor(table), torch.tensor(index), torch.tensor(support), torch.tensor(log_prior), n_annotators=7
    )
    prior = np.exp(log_prior) / np.exp(log_prior).sum()
    for person in range(7):
        joint = prior * np.prod(np.exp(table[index == person]), axis=0)
        posterior = joint / joint.sum()
        mean = sum(p * w for p, w in zip(posterior, support, strict=True))
        variance = sum(p * (w - mean) ** 2 for p, w in zip(posterior, support, strict=True))
        np.testing.assert_allclose(fit.weights[person], mean, atol=1e-12)
        np.testing.assert_allclose(fit.spread[person], np.sqrt(variance), atol=1e-10)
        assert fit.objective[person].item() == pytest.approx(-math.log(joint.sum()), abs=1e-11)
    np.testing.assert_allclose(fit.weights[6], prior @ support, atol=1e-12)  # nobody's index: no rows


def test_posterior_minimises_the_variational_objective() -> None:
    """min over π of E_π[−log p] + KL(π ‖ prior): no random π lies below, and the posterior's value is the evidence."""
    rng = np.random.default_rng(1)
    support, prior, cost = np.eye(9), rng.dirichlet(np.ones(9)), rng.exponential(2.0, size=9)

    def value(pi: np.ndarray) -> float:
        inside = pi > 0
        return float(pi @ cost + np.sum(pi[inside] * np.log(pi[inside] / prior[inside])))

    fit = posterior_weights(
        -torch.tensor(cost)[None], torch.tensor([0]), torch.tensor(support), torch.tensor(prior).log(), n_annotators=1
    )
    posterior = fit.weights[0].numpy()  # the support being the corners, the mean is the posterior itself
    assert value(posterior) == pytest.approx(fit.objective.item(), abs=1e-12)
    others = [
        *rng.dirichlet(np.ones(9), size=2000),
        *(0.999 * posterior + 0.001 * rng.dirichlet(np.ones(9), size=500)),
    ]
    assert min(map(value, others)) > value(posterior)


def test_the_prior_need_not_be_normalised_and_far_likelihoods_stay_finite() -> None:
    support, index = dirichlet((5,), 3, seed=0), torch.zeros(4, dtype=torch.int64)
    table = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1e4
    log_prior = torch.arange(5).double()
    there = posterior_weights(table, index, support, log_prior, n_annotators=1)
    shifted = posterior_weights(table, index, support, log_prior + 3, n_annotators=1)
    torch.testing.assert_close(there.weights, shifted.weights, atol=1e-12, rtol=0)
    assert torch.isfinite(there.weights).all() and there.weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("n_rows", [0, 1, 511, 512, 1300])
def test_pair_log_likelihoods_are_the_log_of_the_sigmoid(n_rows: int) -> None:
    margins = 3 * torch.randn(n_rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    support = dirichlet((7,), 3, seed=0)
    expected = np.log(1 / (1 + np.exp(-margins.numpy() @ support.numpy().T)))
    np.testing.assert_allclose(pair_log_likelihoods(margins, support), expected, atol=1e-12)
    assert pair_log_likelihoods(margins.float(), support).dtype == torch.float32


@pytest.mark.slow
def test_twenty_thousand_people_in_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    margins, index = torch.randn(400_000, 8, generator=generator), torch.arange(20_000).repeat_interleave(20)
    support = dirichlet((256,), 8, seed=0).float()
    start = time.process_time()
    posterior_weights(pair_log_likelihoods(margins, support), index, support, torch.zeros(256), n_annotators=20_000)
    assert time.process_time() - start < 8  # about 1 on an idle core
    start = time.process_time()
    map_weights(*as_pairs(margins), index, n_annotators=20_000, prior_mean=torch.full((8,), 1 / 8))
    assert time.process_time() - start < 12  # about 1.3 on an idle core


@pytest.mark.parametrize("concentration", [0.5, 1.0, 8.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_map_is_what_scipy_finds(seed: int, concentration: float) -> None:
    scores, ranks, index = mixed_rows(60, 4, seed)
    fit = map_weights(scores, ranks, index, n_annotators=5, prior_mean=PRIOR, concentration=concentration)
    barrier = concentration * PRIOR.numpy()
    for person in range(5):
        own = (scores[index == person].numpy(), ranks[index == person].numpy(), barrier)
        found = scipy.optimize.minimize(
            objective_in_numpy, PRIOR.numpy(), own, method="SLSQP", bounds=[(1e-9, 1)] * 3,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-13, "maxiter": 500},
        )  # fmt: skip
        assert found.success
        np.testing.assert_allclose(fit.weights[person], found.x, atol=1e-4)
        assert fit.objective[person].item() == pytest.approx(found.fun, abs=1e-5)
        assert objective_in_numpy(fit.weights[person].double().numpy(), *own) <= found.fun + 1e-6
    torch.testing.assert_close(fit.weights[4].double(), PRIOR, atol=1e-6, rtol=0)  # without rows: the prior's mean


def test_map_of_pairs_is_what_scipy_finds() -> None:
    margins, index = pairs_of(dirichlet((3,), 3, seed=0), 15, seed=0)
    fit = map_weights(*as_pairs(margins), index, n_annotators=3, prior_mean=PRIOR, concentration=2.0)
    for person in range(3):
        own = margins[index == person].double().numpy()
        found = scipy.optimize.minimize(
            lambda w, own=own: np.logaddexp(0, -own @ w).sum() - 2 * PRIOR.numpy() @ np.log(w), PRIOR.numpy(),
            method="SLSQP", bounds=[(1e-9, 1)] * 3, constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-13},
        )  # fmt: skip
        np.testing.assert_allclose(fit.weights[person], found.x, atol=1e-4)
        assert fit.objective[person].item() == pytest.approx(found.fun, abs=1e-5)


def test_map_by_hand() -> None:
    """Two prototypes, one pair, margin m for the first: with w = (u, 1 − u) the slope is zero at the optimum."""
    fit = map_weights(
        torch.tensor([[[3.0, 0.0], [0.0, 0.0]]]), torch.tensor([[0, 1]]), torch.tensor([0]), n_annotators=1,
        prior_mean=torch.tensor([0.4, 0.6]), concentration=2.0, tolerance=1e-14,
    )  # fmt: skip
    u = fit.weights[0, 0].item()
    assert -3 / (1 + math.exp(3 * u)) - 0.8 / u + 1.2 / (1 - u) == pytest.approx(0, abs=1e-4)
    # curvature in u: 9 σ σ' + 0.8 / u² + 1.2 / (1 − u)², and both weights move alike
    sigma = 1 / (1 + math.exp(-3 * u))
    spread = (9 * sigma * (1 - sigma) + 0.8 / u**2 + 1.2 / (1 - u) ** 2) ** -0.5
    assert fit.spread[0].tolist() == pytest.approx([spread, spread], rel=1e-5)


@pytest.mark.parametrize("concentration", [0.1, 1.0, 30.0])
def test_map_does_not_depend_on_the_start(concentration: float) -> None:
    scores, ranks, index = mixed_rows(80, 6, seed=2, scale=4.0)
    arguments = {"n_annotators": 6, "prior_mean": PRIOR, "concentration": concentration}
    fit = map_weights(scores, ranks, index, **arguments)
    for seed in range(5):
        other = map_weights(scores, ranks, index, start=dirichlet((6,), 3, seed, alpha=0.3) + 1e-9, **arguments)
        torch.testing.assert_close(other.objective, fit.objective, atol=1e-4, rtol=0)
        torch.testing.assert_close(other.weights, fit.weights, atol=1e-3, rtol=0)


def test_map_is_the_same_in_any_company_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, ranks, index = mixed_rows(90, 8, seed=3)
    index[:40] = 7  # one of them answered far more than the others
    fit = map_weights(scores, ranks, index, n_annotators=9, prior_mean=PRIOR)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    shuffled = map_weights(scores[order], ranks[order], index[order], n_annotators=9, prior_mean=PRIOR)
    own = index == 7
    alone = map_weights(scores[own], ranks[own], index[own] - 7, n_annotators=1, prior_mean=PRIOR)
    monkeypatch.setattr(stages, "CHUNK_PEOPLE", 2)
    in_blocks = map_weights(scores, ranks, index, n_annotators=9, prior_mean=PRIOR)
    for other in (shuffled, in_blocks):
        torch.testing.assert_close(other.weights, fit.weights, atol=1e-5, rtol=0)
        torch.testing.assert_close(other.spread, fit.spread, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.weights[0], fit.weights[7], atol=1e-5, rtol=0)


def test_a_constant_of_the_row_changes_nothing() -> None:
    scores, ranks, index = mixed_rows(50, 3, seed=4)
    fit = map_weights(scores, ranks, index, n_annotators=3, prior_mean=PRIOR)
    shift = torch.randn(50, 1, 3, generator=torch.Generator().manual_seed(0))
    shifted = map_weights(scores + shift, ranks, index, n_annotators=3, prior_mean=PRIOR)
    torch.testing.assert_close(shifted.weights, fit.weights, atol=1e-5, rtol=0)


def test_one_person_with_ten_thousand_rows_pads_nobody() -> None:
    index = torch.cat([torch.arange(3000).repeat_interleave(2), torch.full((10_000,), 3000)])
    scores = torch.randn(len(index), 2, 3, generator=torch.Generator().manual_seed(0))
    ranks = torch.tensor([0, 1]).expand(len(index), 2)
    blocks = list(stages.stage_blocks(scores, ranks, index, 3001))
    assert sum(block.gaps.shape[0] * block.gaps.shape[1] for block in blocks) == len(index)
    assert sorted(torch.cat([block.people for block in blocks]).tolist()) == list(range(3001))


def test_blocks_hold_the_loss_and_its_derivatives() -> None:
    scores, ranks, index = mixed_rows(40, 4, seed=5)
    weights, zero = dirichlet((4,), 3, seed=5), np.zeros(3)
    for block in stages.stage_blocks(scores, ranks, index, 4):
        own = weights[block.people].requires_grad_()
        losses = block.loss(block.logits(own))
        gradient, hessian = block.derivatives(block.logits(own.detach()))
        for row, person in enumerate(block.people.tolist()):
            mine = (index == person).numpy()
            direct = objective_in_numpy(weights[person].numpy(), scores.numpy()[mine], ranks.numpy()[mine], zero)
            assert losses[row].item() == pytest.approx(direct, abs=1e-10)
        torch.testing.assert_close(gradient, torch.autograd.grad(losses.sum(), own)[0], atol=1e-10, rtol=0)
        for entry in range(3):
            step = torch.zeros(3, dtype=torch.float64)
            step[entry] = 1e-5
            up, down = (block.derivatives(block.logits(own.detach() + sign * step))[0] for sign in (1, -1))
            torch.testing.assert_close(hessian[:, entry], (up - down) / 2e-5, atol=1e-6, rtol=0)


def test_nobody_and_nothing() -> None:
    nothing = torch.zeros(0, 2, 3), torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    assert map_weights(*nothing, n_annotators=0, prior_mean=PRIOR).weights.shape == (0, 3)
    torch.testing.assert_close(map_weights(*nothing, n_annotators=2, prior_mean=PRIOR).weights[1].double(), PRIOR)
    ties = torch.randn(2, 2, 3), torch.zeros(2, 2, dtype=torch.int64), torch.tensor([0, 1])
    torch.testing.assert_close(map_weights(*ties, n_annotators=2, prior_mean=PRIOR).weights[1].double(), PRIOR)


def test_more_answers_mean_less_spread_and_less_error() -> None:
    truth = dirichlet((200,), 3, seed=6)
    spreads, errors = [], []
    for n_rows in (4, 16, 64):
        margins, index = pairs_of(truth, n_rows, seed=6)
        arguments = {"n_annotators": 200, "prior_mean": torch.full((3,), 1 / 3), "concentration": 3.0}
        fits = [
            map_weights(*as_pairs(margins), index, **arguments),
            posterior_weights(
                pair_log_likelihoods(margins, dirichlet((500,), 3, seed=7)), index,
                dirichlet((500,), 3, seed=7).float(), torch.zeros(500), n_annotators=200,
            ),
        ]  # fmt: skip
        spreads.append([fit.spread.mean().item() for fit in fits])
        errors.append([(fit.weights - truth).abs().mean().item() for fit in fits])
        inside = ((fits[1].weights - truth).abs() < 2 * fits[1].spread).double().mean()
        assert 0.9 < inside < 0.99
    for i in (0, 1):
        assert spreads[0][i] > 1.2 * spreads[1][i] > 1.44 * spreads[2][i]
        assert errors[0][i] > 1.2 * errors[1][i] > 1.44 * errors[2][i]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"concentration": 0.0}, "concentration is 0.0; it counts answers"),
        ({"concentration": math.nan}, "concentration is nan"),
        (
            {"prior_mean": torch.tensor([0.5, 0.5, 0.0])},
            r"3 positive numbers that sum to one .* \[0.5, 0.5, 0.0\]",
        ),
        ({"prior_mean": torch.tensor([0.5, 0.5])}, r"prior_mean must be 3 .* of shape \(2,\)"),
        ({"prior_mean": torch.tensor([0.5, 0.5, 0.5])}, "sum to one"),
        ({"start": torch.eye(3)}, "start must be inside the simplex.*least entry 0"),
        ({"start": torch.full((2, 3), 1 / 3)}, r"start must be inside the simplex.*shape \(2, 3\)"),
    ],
)
def test_arguments_that_are_none(change: dict, words: str) -> None:
    scores, ranks, index = mixed_rows(10, 3, seed=0)
    with pytest.raises(ValueError, match=words):
        map_weights(scores, ranks, index, **{"n_annotators": 3, "prior_mean": PRIOR, **change})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_named(value: float) -> None:
    margins, index = pairs_of(dirichlet((4,), 3, seed=0), 5, seed=0)
    scores, ranks = as_pairs(margins)
    scores[7, 1, 2] = value
    with pytest.raises(ValueError, match=rf"row 7, item 1 .*\[0.0, 0.0, {value}\] is not finite"):
        map_weights(scores, ranks, index, n_annotators=4, prior_mean=PRIOR)


def test_who_is_not_at_the_optimum_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    margins, index = pairs_of(dirichlet((4,), 3, seed=0), 5, seed=0)
    monkeypatch.setattr(simplex_fit, "MAX_STEPS", 1)
    words = rf"4 of 5 people are not at their optimum after 1 .*Scores that reach {margins.abs().max():.3g} may"
    with pytest.raises(RuntimeError, match=words):  # the fifth said nothing, and is there from the start
        map_weights(*as_pairs(margins), index, n_annotators=5, prior_mean=PRIOR)


def test_scores_out_of_scale_are_fitted_all_the_same() -> None:
    margins, index = pairs_of(dirichlet((20,), 3, seed=0), 30, seed=0)
    fit = map_weights(*as_pairs(1000 * margins), index, n_annotators=20, prior_mean=PRIOR, concentration=0.1)
    torch.testing.assert_close(fit.weights.sum(1), torch.ones(20), atol=1e-5, rtol=0)
    assert (fit.weights > 0).all()


def official(margins: torch.Tensor, index: torch.Tensor, n_annotators: int, seed: int, **arguments):
    generator = torch.Generator().manual_seed(seed)
    return official_weights(margins, index, n_annotators=n_annotators, generator=generator, **arguments)


def test_official_schedule_is_drawn_from_the_generator() -> None:
    margins, index = pairs_of(dirichlet((5,), 3, seed=0), 7, seed=0)
    first, again, other = (official(margins, index, 5, seed).weights for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)


def test_official_schedule_moves_toward_the_truth() -> None:
    truth = torch.eye(3).repeat(30, 1)
    margins, index = pairs_of(truth, 40, seed=0)
    start, after, long = (official(margins, index, 90, 0, n_epochs=n).weights for n in (0, 20, 60))
    errors = [(weights - truth).abs().mean().item() for weights in (start, after, long)]
    assert errors[0] > 1.3 * errors[1] > 1.3 * errors[2]
    torch.testing.assert_close(after.sum(1), torch.ones(90))


def test_official_schedule_of_ragged_counts() -> None:
    """A person without answers keeps the drawn start; the loss of the others is that of their own answers."""
    margins, _ = pairs_of(dirichlet((1,), 3, seed=0), 11, seed=0)
    index = torch.tensor([2, 0, 2, 0, 2, 0, 2, 3, 2, 2, 2])
    fit = official(margins, index, 4, 0)
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    torch.testing.assert_close(fit.weights[1], start[1])
    assert fit.objective[1] == 0 and fit.spread.isnan().all()
    for person in (0, 2, 3):
        own = margins[index == person].numpy() @ fit.weights[person].numpy()
        assert fit.objective[person].item() == pytest.approx(np.logaddexp(0, -own).sum(), rel=1e-5)
        assert not torch.allclose(fit.weights[person], start[person], atol=1e-4)


@pytest.mark.parametrize("n_answers", [50_000, 300_000])
def test_a_person_of_many_answers_stays_on_the_simplex(n_answers: int) -> None:
    """In float32 the sum of so many answers has no place for what distinguishes two types: weights summed to 4."""
    support = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    # each answer says 1e-4 nats more for the first corner than for the second, and nothing for the middle
    each = torch.tensor([[-0.6931, -0.6932, -0.6932]]).expand(n_answers, 3)
    index = torch.zeros(n_answers, dtype=torch.int64)
    fit = posterior_weights(each, index, support, torch.zeros(3), n_annotators=1)
    assert fit.weights.dtype == torch.float32 and abs(float(fit.weights.double().sum()) - 1) < 1e-6
    gap = n_answers * (float(each[0, 0].double()) - float(each[0, 1].double()))
    first = 1 / (1 + 2 * math.exp(-gap))
    np.testing.assert_allclose(fit.weights[0, 0], first + (1 - first) / 4, atol=1e-6)
