"""Optimistic Hedge against the exact game and its bound; the step by hand."""

import math

import pytest
import torch

from palign.functional.regret import solve_minmax_regret
from palign.functional.regret_hedge import exponentiated_gradient, hedge_bound, optimistic_hedge


def random_regrets(seed: int, least: float = 0.5) -> torch.Tensor:
    """4 × 4: none on the diagonal, `least` to `least` + 1 elsewhere."""
    table = least + torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return table.fill_diagonal_(0.0)


def compare(seed: int, least: float = 0.5) -> None:
    regrets = random_regrets(seed, least)
    exact, played = solve_minmax_regret(regrets), optimistic_hedge(regrets)
    # (ln(K + 1) + ln K) / (η T) with η = 1/(4 max |R|), T = 1e5: less than with η = 5/√T
    bound = (math.log(5) + math.log(4)) * 4 * float(regrets.max()) / 1e5
    assert played.bound == pytest.approx(bound, rel=1e-12) and bound < math.log(20) / (5 * math.sqrt(1e5))
    assert 0 <= played.gap <= played.bound
    assert abs(played.value - exact.value) < 1e-3
    assert (played.policy_weights - exact.policy_weights).abs().max() < 2e-3
    assert (played.gaps * played.steps).max() <= played.bound * 1e5
    assert played.steps[-1] == 100_000 and played.average_policy_weights.shape == (100, 4)


def test_agrees_with_the_exact_game() -> None:
    compare(seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
@pytest.mark.parametrize("least", [0.0, 0.5])
def test_agrees_with_the_exact_game_on_more(seed: int, least: float) -> None:
    compare(seed, least)


def test_units_do_not_matter() -> None:
    # two types: w = (R_12, R_21) / their sum
    for unit in (1e-4, 1.0, 1e3):
        played = optimistic_hedge([[0.0, unit], [2 * unit, 0.0]], n_steps=4000)
        assert played.policy_weights.tolist() == pytest.approx([1 / 3, 2 / 3], abs=2e-3)


def test_two_steps_by_hand() -> None:
    # η = ln 2, R = [[0, 1], [2, 0]] (and 0 for the action of no regret). Step 1: uniform; losses of policies are
    # (2/3, 1/3), gains of types (1/2, 1, 0). Step 2 counts them twice: w ∝ 2^(−4/3), 2^(−2/3); q ∝ 2, 4, 1.
    played = optimistic_hedge([[0.0, 1.0], [2.0, 0.0]], n_steps=2, step_size=math.log(2), n_recorded=2)
    second = 1 / (1 + 2 ** (2 / 3))
    assert played.average_policy_weights[0].tolist() == [0.5, 0.5]
    assert played.policy_weights.tolist() == pytest.approx([(0.5 + second) / 2, (1.5 - second) / 2], abs=1e-12)
    assert played.type_weights.tolist() == pytest.approx([(1 / 3 + 2 / 7) / 2, (1 / 3 + 4 / 7) / 2], abs=1e-12)


def test_negative_regrets_go_to_nobody() -> None:
    played = optimistic_hedge([[-1.0, -0.5]], n_steps=2000)
    assert played.value == 0.0 and played.type_weights.sum() < 0.05 and played.gap <= played.bound


def test_large_regrets_take_smaller_steps() -> None:
    regrets = 1e3 * random_regrets(0)
    played = optimistic_hedge(regrets, n_steps=2000)
    assert played.gap <= played.bound == hedge_bound(4, 4, step_size=1 / (4 * regrets.max().item()), n_steps=2000)
    assert optimistic_hedge(torch.zeros(2, 2), n_steps=10).value == 0.0


def test_importance_and_bad_input() -> None:
    played = optimistic_hedge([[0.0, 1.0], [1.0, 0.0]], n_steps=20_000, type_importance=[1.0, 3.0])
    assert played.policy_weights.tolist() == pytest.approx([0.25, 0.75], abs=5e-3)
    with pytest.raises(ValueError, match="n_steps is 0"):
        optimistic_hedge([[1.0]], n_steps=0)


def test_exponentiated_gradient_by_hand() -> None:
    # weights (1/4, 3/4), losses (1, 0), step ln 3: both become equal
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    losses = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert exponentiated_gradient(weights, losses, step_size=math.log(3)).tolist() == pytest.approx([0.5, 0.5])
