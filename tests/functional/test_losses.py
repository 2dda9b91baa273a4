"""Preference losses against answers worked by hand, brute force over orders, and finite differences."""

import itertools
import math

import numpy as np
import pytest
import torch

from palign.functional.losses import (
    PreferenceLoss,
    bradley_terry,
    hinge,
    implicit_reward,
    nll_of_best,
    plackett_luce,
    preference_loss,
    ranked_hinge,
    strictly_below,
)


def double(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_stages(scores: list[float], ranks: list[int]) -> float:
    """The definition in plain Python: Σ over winners of log Σ exp(winner and those it beat) − winner."""
    total = 0.0
    for score, rank in zip(scores, ranks, strict=True):
        beaten = [s for s, r in zip(scores, ranks, strict=True) if r > rank]
        if rank >= 0 and beaten:
            total += math.log(sum(math.exp(s - score) for s in [score, *beaten]))
    return total


def test_bradley_terry_by_hand() -> None:
    # σ(0) = 1/2, σ(ln 3) = 3/4, σ(−ln 3) = 1/4
    losses = bradley_terry(double([0.0, math.log(3), -math.log(3)]))
    assert losses.tolist() == pytest.approx([math.log(2), math.log(4 / 3), math.log(4)], abs=1e-12)


def test_bradley_terry_far_out_is_finite() -> None:
    assert bradley_terry(torch.tensor([-1e4, 1e4])).tolist() == [1e4, 0.0]


def test_likelihood_of_the_best_by_hand() -> None:
    logps = double([[-6.0, -1.0, 9.0], [-2.0, -4.0, -8.0]])
    lengths, ranks = torch.tensor([[3, 5, 99], [1, 2, 4]]), torch.tensor([[0, 1, -1], [1, 0, 0]])
    nll, tokens = nll_of_best(logps, lengths, ranks)
    assert nll.tolist() == [6.0, 12.0]  # two that tie for the best are both told
    assert tokens.tolist() == [3, 6]  # a mean of 18 / 9 nats a token
    both, _ = nll_of_best(torch.stack([logps, 2 * logps]), lengths, ranks)  # types come first
    assert both.tolist() == [[6.0, 12.0], [12.0, 24.0]]


def test_hinge_by_hand() -> None:
    assert hinge(double([2.0, 1.0, 0.25, -3.0])).tolist() == [0.0, 0.0, 0.75, 4.0]
    assert hinge(double([2.0, 0.25]), margin=3.0).tolist() == [1.0, 2.75]


def test_plackett_luce_by_hand() -> None:
    # strengths 1, 2, 3: P(third > second > first) = 3/6 · 2/3
    scores = double([3.0, 2.0, 1.0]).log()
    assert plackett_luce(scores, torch.tensor([0, 1, 2])).item() == pytest.approx(math.log(3), abs=1e-12)
    # the first of them is picked out of three: 3/6, and the last: 1/6
    assert plackett_luce(scores, torch.tensor([0, 1, 1])).item() == pytest.approx(math.log(2), abs=1e-12)
    assert plackett_luce(scores, torch.tensor([1, 1, 0])).item() == pytest.approx(math.log(6), abs=1e-12)
    # two that tie at the top each beat the third: 3/4 · 2/3
    assert plackett_luce(scores, torch.tensor([0, 0, 1])).item() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("ranks", [[0, 1], [1, 0]])
def test_two_items_are_bradley_terry(ranks: list[int]) -> None:
    scores = 3 * torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    margins = (scores[:, 0] - scores[:, 1]) * (1 if ranks == [0, 1] else -1)
    expected = -torch.log(1 / (1 + torch.exp(-margins)))
    loss = plackett_luce(scores, torch.tensor(ranks).expand(50, 2))
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    padded = torch.cat([scores, torch.full((50, 1), 9.0)], 1)
    loss = plackett_luce(padded, torch.tensor([*ranks, -1]).expand(50, 3))
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)


def test_a_tie_of_two_says_nothing() -> None:
    ranks = torch.tensor([[0, 0], [0, 1], [0, -1]])
    losses = plackett_luce(double([[1.0, 5.0]]).expand(3, 2), ranks)
    assert losses.tolist() == pytest.approx([0.0, math.log1p(math.exp(4)), 0.0], abs=1e-12)


@pytest.mark.parametrize("n_items", [3, 4])
def test_probabilities_of_all_orders_sum_to_one(n_items: int) -> None:
    scores = torch.randn(n_items, dtype=torch.float64, generator=torch.Generator().manual_seed(n_items))
    orders = torch.tensor(list(itertools.permutations(range(n_items))))
    assert torch.exp(-plackett_luce(scores, orders)).sum().item() == pytest.approx(1, abs=1e-12)


def test_best_of_three_is_the_first_stage() -> None:
    scores = double([0.3, -1.2, 0.8])
    best, order = plackett_luce(scores, torch.tensor([[0, 1, 1], [0, 1, 2]]))
    second = plackett_luce(scores[1:], torch.tensor([0, 1]))
    assert best.item() == pytest.approx(-scores.log_softmax(0)[0].item(), abs=1e-12)
    assert order.item() == pytest.approx((best + second).item(), abs=1e-12)


@pytest.mark.parametrize(
    "ranks", [[0, 1, 2, 3], [3, 0, 2, 1], [0, 1, 2, 2], [1, 0, 0, 1], [2, -1, 0, 1], [0, 0, 0, 0], [1, 1, -1, 0]]
)
def test_any_ranks_against_plain_python(ranks: list[int]) -> None:
    scores = [0.5, -1.0, 2.0, 0.25]
    loss = plackett_luce(double(scores), torch.tensor(ranks)).item()
    assert loss == pytest.approx(by_stages(scores, ranks), abs=1e-12)


@pytest.mark.parametrize("loss", [plackett_luce, ranked_hinge])
def test_ties_among_losers_and_padding_add_nothing(loss) -> None:
    ranks = torch.tensor([[0, 1, 1, -1]])
    scores = torch.tensor([[0.5, -1.0, 2.0, 0.0]], dtype=torch.float64)
    plain = loss(scores, ranks)
    for content in (math.nan, math.inf, -math.inf, 1e30):
        polluted = scores.clone()
        polluted[0, 3] = content
        polluted.requires_grad_()
        value = loss(polluted, ranks)
        assert value.item() == plain.item()
        value.sum().backward()
        assert polluted.grad[0, 3] == 0 and torch.isfinite(polluted.grad).all()
    swapped = loss(scores[:, [0, 2, 1, 3]], ranks)
    assert swapped.item() == pytest.approx(plain.item(), abs=1e-12)


def test_order_of_items_does_not_matter() -> None:
    scores, ranks = double([[0.5, -1.0, 2.0, 0.25]]), torch.tensor([[2, 0, 1, 2]])
    for order in itertools.permutations(range(4)):
        assert plackett_luce(scores[:, order], ranks[:, order]).item() == pytest.approx(
            plackett_luce(scores, ranks).item(), abs=1e-12
        )


def test_ranked_hinge_by_hand() -> None:
    # pairs (0,1), (0,2), (1,2): gaps 0.5, −1, −1.5 → 0.5, 2, 2.5
    scores = double([1.0, 0.5, 2.0])
    assert ranked_hinge(scores, torch.tensor([0, 1, 2])).item() == pytest.approx(5 / 3, abs=1e-12)
    assert ranked_hinge(scores, torch.tensor([0, 1, 1])).item() == pytest.approx(1.25, abs=1e-12)
    assert ranked_hinge(scores, torch.tensor([0, 0, 0])).item() == 0.0
    assert ranked_hinge(scores[:2], torch.tensor([0, 1]), margin=2.0).item() == 1.5
    assert ranked_hinge(scores, torch.tensor([0, 1, -1]), margin=2.0).item() == 1.5


def test_preference_loss_by_name() -> None:
    scores, ranks = double([[1.0, 0.5, 2.0]]), torch.tensor([[0, 1, 2]])
    assert preference_loss(scores, ranks, "logistic").item() == pytest.approx(by_stages([1.0, 0.5, 2.0], [0, 1, 2]))
    assert preference_loss(scores, ranks, PreferenceLoss.HINGE).item() == pytest.approx(5 / 3)
    with pytest.raises(ValueError, match="'squared' is not a valid PreferenceLoss"):
        preference_loss(scores, ranks, "squared")


@pytest.mark.parametrize("ranks", [[0, 1], [1, 0]])
def test_losses_are_per_row_and_any_leading_shape(ranks: list[int]) -> None:
    scores = torch.randn(4, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for kind in PreferenceLoss:
        losses = preference_loss(scores, torch.tensor(ranks).expand(4, 5, 2), kind)
        assert losses.shape == (4, 5)
        assert losses[2, 3].item() == pytest.approx(
            preference_loss(scores[2, 3], torch.tensor(ranks), kind).item(), abs=1e-12
        )


@pytest.mark.parametrize("ranks", [[0, 1, 2, 3], [0, 1, 1, -1], [1, 0, 0, 2]])
@pytest.mark.parametrize("kind", ["logistic", "hinge"])
def test_gradients_are_finite_differences(ranks: list[int], kind: str) -> None:
    scores = double([[0.3, -0.55, 1.7, 0.9]]).requires_grad_()
    (gradient,) = torch.autograd.grad(preference_loss(scores, torch.tensor([ranks]), kind).sum(), scores)
    for item in range(4):
        step = torch.zeros_like(scores)
        step[0, item] = 1e-5
        up, down = (preference_loss(scores + sign * step, torch.tensor([ranks]), kind).sum() for sign in (1, -1))
        assert gradient[0, item].item() == pytest.approx((up - down).item() / 2e-5, abs=1e-6)


def test_strictly_below_by_hand() -> None:
    assert strictly_below(torch.tensor([0, 1, 1, -1])).int().tolist() == [
        [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0],
    ]  # fmt: skip


def test_implicit_reward_by_hand() -> None:
    """β = .5: a completion of −3 nats under the policy and −5 under the reference is worth +1; arrays and tensors."""
    assert implicit_reward(double([-3.0, -5.0]), double([-5.0, -5.0]), 0.5).tolist() == [1.0, 0.0]
    assert implicit_reward(np.array([[-3.0, -7.0]]), np.array([[-5.0]]), 0.5).tolist() == [[1.0, -1.0]]
