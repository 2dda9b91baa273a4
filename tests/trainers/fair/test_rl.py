"""The players of the route rl: the price of KL by hand, what the weights follow, and the reward of a batch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from palign.functional.regret import solve_minmax_regret
from palign.functional.regret_hedge import OnlineHedge
from palign.trainers.fair import rl
from palign.trainers.fair.rl import GameReward, KLPrice


def test_the_price_rises_beyond_the_budget_and_falls_within_it() -> None:
    """KL half again the budget: ln λ rises by half a step for good, half of what is at once. Far beyond it a whole
    one of each. Without KL it falls."""
    price = KLPrice(budget=2.0, lasting=1.0, least=0.9)
    assert price.price == 1.0
    price.see(3.0)
    assert price.price == pytest.approx(np.exp((rl.PRICE_STEP + rl.PRICE_NOW) / 2))
    price.see(100.0)
    assert price.price == pytest.approx(np.exp(1.5 * rl.PRICE_STEP + rl.PRICE_NOW))
    price.see(2.0)
    assert price.price == pytest.approx(np.exp(1.5 * rl.PRICE_STEP))
    for _ in range(50):
        price.see(0.0)
    assert price.lasting == 0.9


def test_weight_goes_to_who_loses_and_the_last_regret_counts_twice() -> None:
    """Regrets (1, 0), step ½: scores (½, 0), and the last again: odds e^1. Then (0, 1): scores (½, ½) + (0, ½)."""
    hedge = OnlineHedge(2, step_size=0.5)
    first = hedge.see(torch.tensor([1.0, 0.0]))
    assert float(first[0] / first[1]) == pytest.approx(np.e)
    second = hedge.see(torch.tensor([0.0, 1.0]))
    assert float(second[1] / second[0]) == pytest.approx(np.exp(0.5))
    assert hedge.average.tolist() == pytest.approx(((first + second) / 2).tolist())


def test_the_last_regret_may_count_more_often() -> None:
    """Regrets (1, 0), step ½, thrice again: scores (½, 0) and (1½, 0), odds e^2. Then (0, 1): (½, ½) and (0, 1½)."""
    hedge = OnlineHedge(2, step_size=0.5, ahead=3.0)
    first, second = hedge.see(torch.tensor([1.0, 0.0])), hedge.see(torch.tensor([0.0, 1.0]))
    assert float(first[0] / first[1]) == pytest.approx(np.exp(2.0))
    assert float(second[1] / second[0]) == pytest.approx(np.exp(1.5))


@pytest.mark.parametrize(("ahead", "least", "most"), [(1.0, 0.1, 1.0), (30.0, 0.0, 0.02)])
def test_what_is_lost_now_damps_the_circle(ahead: float, least: float, most: float) -> None:
    """Each of two answers is what one type loses by, so that halves are best for both players. A policy that learns by
    small steps is late, and the sum of regrets alone leads it past the halves again and again."""
    hedge, logit, shares = OnlineHedge(2, step_size=0.1, ahead=ahead), 1.0, []
    for _ in range(400):
        share = 1 / (1 + np.exp(-logit))
        weights = hedge.see(torch.tensor([share, 1 - share]))
        logit -= 0.1 * float(weights[0] - weights[1])
        shares.append(abs(share - 0.5))
    assert least < max(shares[-150:]) < most


def test_two_hedges_find_the_value_of_the_game() -> None:
    """Types against policies, each by its own Hedge: the averages are those of the linear programme."""
    table = torch.tensor([[0.0, 3.0, 1.0], [1.0, 0.0, 2.0], [2.0, 1.0, 0.0]], dtype=torch.float64)
    types, policies = OnlineHedge(3, step_size=0.05), OnlineHedge(3, step_size=0.05)
    for _ in range(4000):
        w, q = policies.weights, types.weights
        types.see(table @ w)
        policies.see(-(table.T @ q))
    exact = solve_minmax_regret(table)
    assert policies.average.tolist() == pytest.approx(exact.policy_weights.tolist(), abs=0.02)
    assert types.average.tolist() == pytest.approx(exact.type_weights.tolist(), abs=0.02)


def reward(monkeypatch: pytest.MonkeyPatch, logps: np.ndarray, *, is_regret: bool) -> GameReward:
    """Of two types with β = ½; log-probabilities of two completions under types, reference and the policy."""
    monkeypatch.setattr(rl, "type_logps", lambda *_, **__: logps)
    monkeypatch.setattr(rl, "AdapterPolicies", lambda *_: None)
    builder: Any = SimpleNamespace(
        model=torch.nn.Linear(1, 1), args=SimpleNamespace(draw_batch_size=8), importance=torch.ones(2).double(),
        mixture=SimpleNamespace(policies=SimpleNamespace(names=["type_0", "type_1"])),
        type_rewards=lambda rows, completions, h: 0.5 * h,
    )  # fmt: skip
    own = torch.tensor([[2.0, 1.0], [4.0, 1.0]], dtype=torch.float64)
    return GameReward(
        builder, "rl", own, [[1], [2]], OnlineHedge(2, step_size=1.0), KLPrice(1.0, 0.1, 0.01), is_regret
    )


def test_the_reward_of_a_batch_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """h is (2, 0) and (0, 4), KL 1 and 3: β h is (1, 0) and (0, 2), weighted by halves ½ and 1, less .1 and .3.
    Regrets of the prompts are (1, 1) and (4, −1), their means (2.5, 0): the next weights have odds e^5, both twice."""
    logps = np.array([[-3.0, -5, -5, -4], [-6.0, -2, -6, -3]])
    game = reward(monkeypatch, logps, is_regret=True)
    found = game(prompts=["a", "b"], completions=["x", "y"], completion_ids=[[5], [6]], row=[0, 1])
    assert found == pytest.approx([0.4, 0.7])
    assert game.history[0] == {"weights": [0.5, 0.5], "max_regret": pytest.approx(2.5), "kl": pytest.approx(2.0)}
    assert float(game.hedge.weights[0] / game.hedge.weights[1]) == pytest.approx(np.exp(5.0), rel=1e-5)
    assert game.price.price == pytest.approx(0.1 * np.exp(rl.PRICE_STEP + rl.PRICE_NOW))


def test_maxmin_follows_the_least_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batch: mean rewards ½ and 1, so the first type's weight has odds e^(2 · ½)."""
    game = reward(monkeypatch, np.array([[-3.0, -5, -5, -4], [-6.0, -2, -6, -3]]), is_regret=False)
    game(prompts=["a", "b"], completions=["x", "y"], completion_ids=[[5], [6]], row=[0, 1])
    assert float(game.hedge.weights[0] / game.hedge.weights[1]) == pytest.approx(np.e, rel=1e-5)


class Adapter(torch.nn.Module):
    """Weights B of two adapters, named as PEFT names them."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_B = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1, bias=False) for name in ("rl", "type_0")})


@pytest.mark.parametrize(("kl", "length"), [(4.0, 1.0), (8.0, (rl.SHORTER * 5 / 8) ** 0.5)])
def test_an_adapter_beyond_the_budget_is_shortened(kl: float, length: float) -> None:
    """KL is the square of the length: one cut of √(.97 · 5 / 8) is enough, and no other adapter moves."""
    model = Adapter()
    for layer in model.lora_B.values():
        torch.nn.init.ones_(layer.weight)

    def draw(name: str) -> Any:
        return SimpleNamespace(kl=np.full(3, kl * float(model.lora_B[name].weight) ** 2))

    found = rl._hold(SimpleNamespace(model=model, draw=draw), "rl", 5.0)
    assert found == pytest.approx(length)
    assert float(model.lora_B["rl"].weight) == pytest.approx(length)
    assert float(model.lora_B["type_0"].weight) == 1.0
