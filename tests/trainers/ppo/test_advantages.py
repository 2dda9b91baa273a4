"""Token rewards, generalised advantages and the value loss, worked by hand."""

import pytest
import torch

from palign.trainers.ppo.advantages import clipped_value_loss, generalised_advantages, standardized, token_rewards

MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def test_the_score_stands_at_the_last_token_and_the_kl_at_every_one() -> None:
    kl = torch.tensor([[1.0, 2.0, 0.0], [4.0, 9.0, 9.0]])
    rewards = token_rewards(torch.tensor([10.0, -1.0]), kl, MASK, kl_coef=0.5)
    assert rewards.tolist() == [[-0.5, -1.0, 10.0], [-3.0, 0.0, 0.0]]


def test_advantages_by_hand() -> None:
    """gamma 1, lambda .5. Row 0: rewards 0, 0, 1 and values .2, .4, .6 give δ = .2, .2, .4, so A₂ = .4,
    A₁ = .2 + .5·.4 = .4, A₀ = .2 + .5·.4 = .4. Row 1 ends after one token: A₀ = 2 − 1 = 1.
    """
    rewards = torch.tensor([[0.0, 0.0, 1.0], [2.0, 5.0, 5.0]])
    values = torch.tensor([[0.2, 0.4, 0.6], [1.0, 7.0, 7.0]])
    found = generalised_advantages(rewards, values, MASK, gamma=1.0, lam=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.4, 0.4], [1.0, 0.0, 0.0]]))


def test_lambda_one_is_the_rest_of_the_rewards_and_lambda_zero_one_step() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, 1.5, 3.0]])
    rest = generalised_advantages(rewards, values, torch.ones(1, 3), gamma=0.5, lam=1.0)
    assert rest[0, 0].item() == pytest.approx(1 + 0.5 * 2 + 0.25 * 4 - 0.5)
    step = generalised_advantages(rewards, values, torch.ones(1, 3), gamma=0.5, lam=0.0)
    assert step[0].tolist() == pytest.approx([1 + 0.75 - 0.5, 2 + 1.5 - 1.5, 4 - 3.0])


def test_a_value_that_left_the_range_is_given_no_credit() -> None:
    """Old value 0, return 1: at 1 the loss is that of .2, which is as far as it may go: ½·.8² = .32."""
    found = clipped_value_loss(
        torch.tensor([1.0, 0.1, -1.0]), torch.zeros(3), torch.tensor([1.0, 1.0, 1.0]), cliprange=0.2
    )
    assert found.tolist() == pytest.approx([0.32, 0.405, 2.0])


def test_standardized_leaves_padding_at_zero() -> None:
    found = standardized(torch.tensor([[3.0, 9.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor(1.0), torch.tensor(4.0))
    assert found[0].tolist() == pytest.approx([1.0, 0.0])
