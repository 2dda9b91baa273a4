"""Routes to one policy on tables: identities, closed forms, finite differences, and the orderings of the reference."""

import math

import pytest
import torch

from palign.functional.regret import choose_within_budget, kl_regret_matrix, solve_minmax_regret
from palign.functional.regret_policies import (
    distill_log_linear,
    geometric_policy,
    kl_divergence,
    kl_minmax,
    kl_minmax_at_budget,
    log_linear_policy,
    mixture_policy,
    pooled_dpo_policy,
    regress_log_linear,
    tabular_regrets,
    tabular_values,
)
from tests.worlds.scripts import load_script


@pytest.fixture(scope="module")
def script():
    """`scripts/measure_regret.py`, where the populations are."""
    return load_script("measure_regret")


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_linear_types(seed: int, n_types: int = 3) -> tuple[torch.Tensor, ...]:
    """θ (n_types, 4), features (10, 6, 4), log policies (n_types, 10, 6), log reference (10, 6)."""
    features, thetas = normal(10, 6, 4, seed=seed), normal(n_types, 4, seed=seed + 50)
    reference = normal(10, 6, seed=seed + 90).log_softmax(-1)
    unnormalised = reference + torch.einsum("xyd,kd->kxy", features, thetas)
    return thetas, features, unnormalised - unnormalised.logsumexp(-1, keepdim=True), reference


def regret_by_hand(log_type: torch.Tensor, log_policy: torch.Tensor, log_reference: torch.Tensor) -> float:
    """The definition, response by response."""
    total = 0.0
    for x in range(len(log_reference)):
        for y in range(log_reference.shape[1]):
            h = (log_type - log_reference)[x, y].item()
            total += h * (math.exp(log_type[x, y].item()) - math.exp(log_policy[x, y].item()))
    return total / len(log_reference)


def test_regrets_of_a_mixture_are_those_of_the_game() -> None:
    _, _, types, reference = log_linear_types(0)
    regrets = tabular_regrets(types, types, reference, beta=0.7)
    for weights in ([0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.75, 0.25]):
        weights = torch.tensor(weights, dtype=torch.float64)
        mixture = mixture_policy(types, weights)
        assert mixture.exp().sum(-1).tolist() == pytest.approx([1.0] * 10, abs=1e-12)
        wanted = [0.7 * regret_by_hand(log_type, mixture, reference) for log_type in types]
        assert (regrets @ weights).tolist() == pytest.approx(wanted, abs=1e-12)


def test_regret_is_a_sum_of_divergences() -> None:
    # R_ij = β [KL(i ‖ ref) + KL(j ‖ i) − KL(j ‖ ref)]
    _, _, types, reference = log_linear_types(1)
    regrets = tabular_regrets(types, types, reference, beta=0.3)
    for i, own in enumerate(types):
        for j, other in enumerate(types):
            divergences = [(own, reference, 1), (other, own, 1), (other, reference, -1)]
            wanted = sum(sign * (p.exp() * (p - q)).sum().item() / 10 for p, q, sign in divergences)
            assert regrets[i, j].item() == pytest.approx(0.3 * wanted, abs=1e-10)
    kl = kl_divergence(types, reference)
    wanted = torch.stack([torch.stack([kl_divergence(other, own) for other in types]) for own in types])
    torch.testing.assert_close(kl_regret_matrix(tabular_values(types, types, reference), kl), wanted)


def test_divergence_by_hand() -> None:
    # prompts (1/2, 1/2 ‖ 1/4, 3/4) and equal ones: the mean of ½ ln 2 + ½ ln(2/3) and 0
    p = torch.tensor([[0.5, 0.5], [0.1, 0.9]], dtype=torch.float64).log()
    q = torch.tensor([[0.25, 0.75], [0.1, 0.9]], dtype=torch.float64).log()
    assert kl_divergence(p, q).item() == pytest.approx(0.25 * math.log(4 / 3), abs=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_distillation_keeps_every_regret_and_comes_nearer(seed: int) -> None:
    _, features, types, reference = log_linear_types(seed)
    game = solve_minmax_regret(tabular_regrets(types, types, reference))
    mixture = mixture_policy(types, game.policy_weights)
    student = log_linear_policy(distill_log_linear(mixture, features, reference), features, reference)
    for log_type in types:
        asked = regret_by_hand(log_type, mixture, reference)
        assert regret_by_hand(log_type, student, reference) == pytest.approx(asked, abs=1e-6)
    assert kl_divergence(student, reference) <= kl_divergence(mixture, reference) + 1e-12


def test_distillation_of_one_type_is_that_type() -> None:
    thetas, features, types, reference = log_linear_types(2)
    assert distill_log_linear(types[1], features, reference).tolist() == pytest.approx(thetas[1].tolist(), abs=1e-8)


def test_numerics_that_fail_say_how_far_they_came(monkeypatch) -> None:
    _, features, types, reference = log_linear_types(2)
    monkeypatch.setattr("palign.functional.regret_policies.MAX_STEPS", 1)
    with pytest.raises(RuntimeError, match="Distillation stopped after 1 steps at a gradient of"):
        distill_log_linear(types[0], features, reference)
    votes = (types[..., :, None] - types[..., None, :]).sigmoid()
    with pytest.raises(RuntimeError, match="Pooled DPO stopped after 1 steps at a gradient of"):
        pooled_dpo_policy(votes, torch.ones(3, dtype=torch.float64) / 3, reference, beta=1.0)


@pytest.mark.parametrize("seed", range(5))
def test_regression_recovers_the_weighted_sum(seed: int) -> None:
    thetas, features, types, reference = log_linear_types(seed)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    found = regress_log_linear(types, weights, features, reference)
    assert found.tolist() == pytest.approx((weights @ thetas).tolist(), abs=1e-8)
    torch.testing.assert_close(
        log_linear_policy(found, features, reference), geometric_policy(types, reference, weights), atol=1e-8, rtol=0
    )


def test_regression_is_least_squares_over_pairs() -> None:
    # margins that no θ has: against the normal equations over all pairs
    types, reference = normal(1, 10, 6, seed=0).log_softmax(-1), normal(10, 6, seed=1).log_softmax(-1)
    features = normal(10, 6, 4, seed=2)
    a, b = torch.triu_indices(6, 6, 1)
    gaps = (features[:, a] - features[:, b]).flatten(0, 1)
    h = types[0] - reference
    margins = (h[:, a] - h[:, b]).flatten()
    wanted = torch.linalg.solve(gaps.T @ gaps, gaps.T @ margins)
    found = regress_log_linear(types, torch.ones(1, dtype=torch.float64), features, reference)
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-10)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kl_weight", [0.1, 1.0])
def test_kl_minmax_has_no_gap(seed: int, kl_weight: float) -> None:
    _, _, types, reference = log_linear_types(seed, n_types=4)
    found = kl_minmax(types, reference, kl_weight=kl_weight, beta=0.8)
    # primal and dual worked out from their definitions
    regrets = [0.8 * regret_by_hand(log_type, found.log_policy, reference) for log_type in types]
    primal = max(regrets) + kl_weight * kl_divergence(found.log_policy, reference).item()
    h = types - reference
    tilted = reference + 0.8 / kl_weight * torch.einsum("k,kxy->xy", found.type_weights, h)
    own = (types.exp() * h).sum(-1).mean(-1)
    dual = 0.8 * (found.type_weights @ own) - kl_weight * tilted.logsumexp(-1).mean()
    assert abs(primal - dual.item()) < 1e-6 and abs(found.gap - (primal - dual.item())) < 1e-9
    assert found.type_weights.sum().item() == pytest.approx(1) and (found.type_weights >= 0).all()


def test_kl_minmax_evens_out_regrets_times_importance() -> None:
    """Of two types both matter at the optimum: R_1 = 4 R_2; and one of no importance is left out."""
    _, _, types, reference = log_linear_types(3, n_types=2)
    found = kl_minmax(types, reference, kl_weight=0.05, beta=1.0, type_importance=torch.tensor([1.0, 4.0]))
    assert found.regrets[0].item() == pytest.approx(4 * found.regrets[1].item(), rel=1e-4) and abs(found.gap) < 1e-6
    alone = kl_minmax(types, reference, kl_weight=1.0, beta=1.0, type_importance=torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(alone.log_policy, types[1], atol=1e-6, rtol=0)  # at τ = β its own policy
    for importance in ([0.0, 0.0], [1.0, -1.0], [1.0]):
        with pytest.raises(ValueError, match="type_importance"):
            kl_minmax(types, reference, kl_weight=1.0, type_importance=torch.tensor(importance))


def test_kl_minmax_of_one_type_is_its_policy() -> None:
    # τ = β: nothing is better than π_1 itself, which has no regret
    _, _, types, reference = log_linear_types(3, n_types=1)
    found = kl_minmax(types, reference, kl_weight=0.5, beta=0.5)
    torch.testing.assert_close(found.log_policy, types[0])
    assert found.regrets.item() == pytest.approx(0, abs=1e-12)


def test_kl_budget_is_met_or_refused() -> None:
    _, _, types, reference = log_linear_types(3)
    assert kl_minmax_at_budget(types, reference, kl_budget=0.4).kl == pytest.approx(0.4, abs=1e-5)
    with pytest.raises(ValueError, match="kl_budget is 50 nats; this family reaches"):
        kl_minmax_at_budget(types, reference, kl_budget=50)
    with pytest.raises(ValueError, match="kl_weight is 0"):
        kl_minmax(types, reference, kl_weight=0)


def test_pooled_dpo_of_one_type_is_its_policy() -> None:
    # votes of σ(β Δh): DPO recovers h up to a constant of the prompt
    _, _, types, reference = log_linear_types(4, n_types=2)
    rewards = 0.2 * (types - reference)
    votes = (rewards[..., :, None] - rewards[..., None, :]).sigmoid()
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(pooled_dpo_policy(votes, first, reference, beta=0.2), types[0])


def test_pooled_dpo_of_two_responses_by_hand() -> None:
    # half say σ(2), half say σ(0): the pooled reward gap is the logit of their mean, and β h that gap
    rewards = torch.tensor([[[2.0, 0.0]], [[0.0, 0.0]]], dtype=torch.float64)
    votes = (rewards[..., :, None] - rewards[..., None, :]).sigmoid()
    reference = torch.full((1, 2), math.log(0.5), dtype=torch.float64)
    found = pooled_dpo_policy(votes, torch.tensor([0.5, 0.5], dtype=torch.float64), reference, beta=0.5)
    p = (1 / (1 + math.exp(-2)) + 0.5) / 2
    assert (found[0, 0] - found[0, 1]).item() == pytest.approx(math.log(p / (1 - p)) / 0.5, abs=1e-10)


def check_ordering(figures: dict[str, float]) -> None:
    # what is weighted by the prior can hurt a rare type more than the reference does: those are ordered in the mean
    assert figures["mixture"] < figures["uniform"]
    assert figures["uniform"] < min(figures[name] for name in ("prior-weighted", "pooled DPO", "reference"))
    assert figures["re-optimised geometric at the mixture's KL"] < figures["mixture"] - 0.03


def test_ordering_of_the_routes(script) -> None:
    check_ordering(script.ordering(0))


@pytest.mark.slow
def test_ordering_of_the_routes_over_seeds(script) -> None:
    tables = [script.ordering(seed) for seed in range(8)]
    for figures in tables:
        check_ordering(figures)
    means = {name: sum(figures[name] for figures in tables) / 8 for name in tables[0]}
    # the order of the means, in which pooled DPO comes after the prior-weighted mixture
    order = [
        "re-optimised geometric at the mixture's KL",
        "mixture",
        "uniform",
        "prior-weighted",
        "pooled DPO",
        "reference",
    ]
    assert sorted(means, key=means.get) == order
    assert [means[name] for name in order] == pytest.approx([0.884, 0.956, 1.026, 1.321, 1.328, 1.514], rel=0.08)


def test_own_loss_must_be_subtracted(script) -> None:
    without, with_own = script.robust_against_noise(0, n_rounds=50)
    assert without - with_own > 0.3


@pytest.mark.slow
def test_own_loss_must_be_subtracted_over_seeds(script) -> None:
    for seed in range(8):
        without, with_own = script.robust_against_noise(seed)
        assert without - with_own > 0.3


def test_low_regret_far_away_is_refused(script) -> None:
    population = script.equal_scale_population(0)
    far = kl_minmax(population.log_types, population.log_reference, kl_weight=0.1)
    near = mixture_policy(population.log_types, torch.full((3,), 1 / 3, dtype=torch.float64))
    regrets = [population.max_regret(near), population.max_regret(far.log_policy)]
    kl = [population.kl(near), population.kl(far.log_policy)]
    assert regrets[1] < 0.25 * regrets[0] and kl[1] > 4 * kl[0]
    assert choose_within_budget(regrets, kl, kl_budget=2 * kl[0]) == 0
