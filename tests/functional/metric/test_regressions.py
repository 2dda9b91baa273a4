"""Regressions side by side give what a general solver gives each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from palign.functional.metric.regressions import fit_each
from tests.worlds.metric import tiny_pairs


def test_everybody_is_at_the_optimum_of_a_general_solver() -> None:
    pairs = tiny_pairs(25, dim=3, n_people=3)
    pairs = replace(pairs, item_rewards=torch.linspace(-1, 1, 6, dtype=torch.float64), n_people=4)
    ridge = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    theta = fit_each(pairs, ridge)
    for person in range(3):
        rows = pairs.person == person
        x, w = pairs.differences[rows].numpy(), pairs.weight[rows].numpy()
        known = (pairs.item_rewards[pairs.winner] - pairs.item_rewards[pairs.loser])[rows].numpy()

        def loss(t: np.ndarray, x: np.ndarray = x, w: np.ndarray = w, known: np.ndarray = known) -> float:
            return float((w * np.logaddexp(0, -x @ t - known)).sum() + (ridge.numpy() * t**2).sum() / 2)

        found = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
        np.testing.assert_allclose(theta[person].numpy(), found.x, atol=1e-4)
    assert theta[3].tolist() == [0, 0, 0]  # somebody without a pair


def test_a_ridge_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="Every ridge must be positive"):
        fit_each(tiny_pairs(), torch.zeros(2, dtype=torch.float64))
