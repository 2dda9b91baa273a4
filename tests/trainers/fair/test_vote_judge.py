"""Shares of wins by hand, against the reference, and against what a sampled policy really wins."""

import numpy as np
import pytest

from palign.trainers.fair.vote_judge import vote_shares

ALONE = {"n_types": 1, "n_draws": 20, "seed": 0}


def test_a_share_of_wins_by_hand() -> None:
    """One pair and one row of three, both of one type. Weights of the pair 3 (best) and 1; of the three 1 (best), 1, 2
    (worst): beaten 1, 0 and 1, ½, 0. Wins 3 + 1 + ½ of 8. Texts that decide: 8² / (9 + 1 + 1 + 1 + 4) = 4."""
    ratios = np.log([[3.0, 1.0, 7.0], [1.0, 1.0, 2.0]])
    found = vote_shares(ratios, np.array([[0, 1, -1], [0, 1, 2]]), np.array([0, 1]), np.array([0, 0]), **ALONE)
    assert found.shares.tolist() == pytest.approx([4.5 / 8])
    assert found.n_texts.tolist() == pytest.approx([4.0])
    assert found.n_people.tolist() == [2]


def test_the_reference_wins_half_whatever_the_votes() -> None:
    rng = np.random.default_rng(0)
    ranks = rng.integers(0, 3, size=(40, 4))
    found = vote_shares(np.zeros((40, 4)), ranks, rng.integers(7, size=40), rng.integers(-1, 2, 40),
                        n_types=2, n_draws=20, seed=0)  # fmt: skip
    assert found.shares == pytest.approx([0.5, 0.5])
    assert found.draws == pytest.approx(np.full((20, 2), 0.5))


def test_weights_give_what_a_policy_wins() -> None:
    """Texts of four kinds are shown uniformly; a person prefers one to another with σ(u_a − u_b). A policy that
    writes kinds with probabilities p wins Σ p_a ¼ Σ_b σ(u_a − u_b), and the votes say so within their interval."""
    rng = np.random.default_rng(1)
    utility, p = np.array([0.0, 1.0, 2.0, -1.0]), np.array([0.1, 0.1, 0.7, 0.1])
    wins = 1 / (1 + np.exp(-(utility[:, None] - utility)))
    kinds = rng.integers(4, size=(4000, 2))
    is_first = rng.random(4000) < wins[kinds[:, 0], kinds[:, 1]]
    ranks = np.where(is_first[:, None], [0, 1], [1, 0])
    found = vote_shares(np.log(4 * p)[kinds], ranks, rng.integers(50, size=4000), np.zeros(4000, int),
                        n_types=1, n_draws=200, seed=0)  # fmt: skip
    low, high = np.quantile(found.draws[:, 0], [0.005, 0.995])
    assert low < p @ wins.mean(1) < high
    assert high - low < 0.06


def test_a_type_without_voters_has_no_share() -> None:
    found = vote_shares(
        np.zeros((1, 2)), np.array([[0, 1]]), np.array([0]), np.array([1]), n_types=2, n_draws=2, seed=0
    )
    assert np.isnan(found.shares[0]) and found.n_people.tolist() == [0, 1]
