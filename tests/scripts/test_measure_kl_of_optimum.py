"""The way to the optimum by KL: a case by hand, and where it ends."""

import numpy as np
import pytest

from palign.data.synthetic_optimum import best_single_policy
from tests.worlds.scripts import load_script


def test_two_opposite_types_and_a_text_for_both() -> None:
    """Texts of worth (1, 0), (0, 1) and (¾, ¾), a third each. By symmetry w is ½: tilts of e^½, e^½ and e^¾ at price
    1. With p of the third, the worst type gets (1 − p) / 2 + ¾ p."""
    utilities, shares = np.array([[1, 0], [0, 1], [0.75, 0.75]]), np.full(3, 1 / 3)
    worst, kl = load_script("measure_kl_of_optimum").at_price(utilities, shares, 1.0, n_steps=50)
    p = np.exp(0.25) / (2 + np.exp(0.25))
    assert worst == pytest.approx((1 - p) / 2 + 0.75 * p)
    assert kl == pytest.approx(p * np.log(3 * p) + (1 - p) * np.log(1.5 * (1 - p)))


def test_a_low_price_ends_at_the_exact_optimum() -> None:
    script, types = load_script("measure_kl_of_optimum"), ("bright", "cautious", "detailed")
    worst, kl = script.at_price(*script.written(types, 5000), 0.03, n_steps=5000)
    assert worst == pytest.approx(best_single_policy(types).value, abs=2e-3)
    assert 1 < kl < 5
