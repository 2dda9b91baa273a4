"""Each check against a case it must see and one it must let pass."""

import math

import pytest
import torch

from palign.functional.evidence.votes import Votes
from palign.functional.mixture_checks import (
    dead_types,
    duplicate_types,
    frozen_assignment,
    length_confounder,
    longer_wins_rate,
    permutation_test,
    restart_stability,
    row_margins,
    weak_adapters,
)


def double(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_restart_stability() -> None:
    best = torch.tensor([0, 0, 0, 1, 1, 1])
    other = torch.tensor([0, 0, 1, 1, 1, 1])  # adjusted Rand index 12/37
    stable = restart_stability(torch.stack([best, 1 - best, best, other]))
    assert (stable.verdict, stable.value) == ("ok", 1.0)
    unstable = restart_stability(torch.stack([best, other, other]))
    assert unstable.verdict == "look" and unstable.value == pytest.approx(12 / 37)
    assert "depend on the start" in unstable.message
    alone = restart_stability(best[None])
    assert (alone.verdict, alone.value) == ("ok", None)


def test_a_restart_that_fits_far_worse_is_no_rival() -> None:
    best = torch.tensor([0, 0, 0, 1, 1, 1])
    other = torch.tensor([0, 0, 1, 1, 1, 1])
    types = torch.stack([best, best, other, other])
    assert restart_stability(types, double([100, 100, 90, 90])).value == 1.0
    assert restart_stability(types, double([100, 100, 96, 96])).value == pytest.approx(12 / 37)
    alone = restart_stability(types[[0, 2]], double([100, 90]))
    assert (alone.verdict, alone.value) == ("ok", None) and "none of 1 other restarts" in alone.message


def people(opposed: bool) -> tuple[torch.Tensor, Votes]:
    """30 people of 8 pairs who go by the first feature; half of them the other way if `opposed`."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(30).repeat_interleave(8)
    features = torch.randn(240, 2, 2, generator=generator, dtype=torch.float64)
    sign = 1.0 - 2.0 * (owner % 2) * opposed
    noise = torch.rand(240, generator=generator, dtype=torch.float64)
    is_first = noise < (2 * sign * (features[:, 0, 0] - features[:, 1, 0])).sigmoid()
    items = torch.arange(480).view(-1, 2)
    items = torch.where(is_first[:, None], items, items.flip(1))
    return features.flatten(0, 1), Votes(items, torch.tensor([0, 1]).expand(240, 2), owner, 30)


def test_permutation_of_ids() -> None:
    found = permutation_test(*people(opposed=True), 2, n_permutations=9, max_steps=5)
    assert found.verdict == "ok" and found.value == pytest.approx(0.1)
    nothing = permutation_test(*people(opposed=False), 2, n_permutations=4, max_steps=5, ridge=0.1)
    assert nothing.verdict == "stop" and nothing.value > 0.2
    assert "Use one type" in nothing.message
    assert permutation_test(*people(opposed=False), 1).verdict == "ok"
    with pytest.raises(ValueError, match="n_permutations is 0"):
        permutation_test(*people(opposed=False), 2, n_permutations=0)


def test_permutation_of_ids_of_some_of_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palign.functional.mixture_checks.N_DRAWN", 20)
    found = permutation_test(*people(opposed=True), 2, n_permutations=9, max_steps=5)
    assert found.verdict == "ok" and found.value == pytest.approx(0.1)


def test_one_row_each_tells_nothing() -> None:
    features, votes = people(opposed=True)
    some = votes.of_rows(torch.arange(40))
    found = permutation_test(features, some.said_by(torch.arange(40), 40), 2, n_permutations=4, max_steps=5)
    assert (found.verdict, found.value) == ("ok", None) and "only renames people" in found.message
    few = torch.cat([torch.arange(30), torch.arange(10)])  # 10 of 30 people have two rows
    assert permutation_test(features, some.said_by(few), 2, n_permutations=4).value is None


def test_dead_types() -> None:
    check = dead_types(double([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.0, 0.9, 0.1]]))
    assert (check.verdict, check.value) == ("look", 1.0) and "types 2 have" in check.message
    assert dead_types(double([[1.0, 0.0], [0.0, 1.0]])).verdict == "ok"


def test_duplicate_types() -> None:
    margins = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert duplicate_types(margins).verdict == "ok"
    margins[:, 2] = 3 * margins[:, 0] + 5 + 0.01 * margins[:, 1]
    check = duplicate_types(margins)
    assert check.verdict == "look" and check.value > 0.99 and "types 0 and 2" in check.message
    assert duplicate_types(-margins[:, :2] * double([1.0, 0.0])).verdict == "ok"  # a type of no opinion
    opposed = torch.stack([margins[:, 0], -margins[:, 0]], 1)
    assert duplicate_types(opposed).value == pytest.approx(-1.0)
    assert duplicate_types(margins[:, :1]).verdict == "ok"


def test_frozen_assignment() -> None:
    certain, swapped = double([[0.99, 0.01]] * 8), double([[0.01, 0.99]] * 8)
    start = double([[0.9, 0.1]] * 8)
    frozen = frozen_assignment(certain, start)
    assert frozen.verdict == "look" and frozen.value == 0.0 and "Temper" in frozen.message
    assert frozen_assignment(certain, start, agreement=0.9).verdict == "ok"
    assert frozen_assignment(certain, start, agreement=0.3).verdict == "look"
    assert frozen_assignment(swapped, start).verdict == "ok"
    assert frozen_assignment(double([[0.7, 0.3]] * 8), start).verdict == "ok"


def test_weak_adapters() -> None:
    before = double([[0.99, 0.01]] * 3 + [[0.5, 0.5]])
    one, two = double([[0.95, 0.05]] + [[0.6, 0.4]] * 3), double([[0.05, 0.95]] * 2 + [[0.6, 0.4]] * 2)
    weak = weak_adapters(one, before)
    assert (weak.verdict, weak.value) == ("look", 1.0) and "place 1 person surely, 3 were before" in weak.message
    assert weak_adapters(two, before).verdict == "ok"


def test_longer_wins_by_hand() -> None:
    lengths = torch.tensor([[5, 3, 4], [2, 9, 0], [4, 4, 0], [1, 2, 3]])
    ranks = torch.tensor([[0, 1, 1], [0, 1, -1], [0, 1, -1], [0, 0, 0]])
    # person 0: 2 of 2, then 0 of 1; person 1: a tie in length; person 2: no strict pair
    rate = longer_wins_rate(lengths, ranks, torch.tensor([0, 0, 1, 2]), 3)
    assert rate[:2].tolist() == pytest.approx([2 / 3, 0.5]) and math.isnan(rate[2])


def test_length_confounder() -> None:
    types = torch.nn.functional.one_hot(torch.arange(40) % 2, 2).double()
    noise = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_length = 0.2 + 0.5 * types[:, 1] + 0.1 * noise
    check = length_confounder(types, by_length)
    assert (check.verdict, check.value) == ("look", 1.0) and "length alone" in check.message
    assert length_confounder(types, noise).verdict == "ok"
    by_length[3] = math.nan
    assert length_confounder(types, by_length).value == 1.0
    assert length_confounder(types, torch.full((40,), 0.5)).verdict == "ok"


def test_row_margins_by_hand() -> None:
    scores = double([[[1.0, 0.0], [3.0, 2.0], [5.0, 1.0]], [[1.0, 4.0], [0.0, 1.0], [math.nan, math.nan]]])
    margins = row_margins(scores, torch.tensor([[0, 1, 1], [0, 1, -1]]))
    assert margins.tolist() == [[-3.0, -1.5], [1.0, 3.0]]
    assert row_margins(scores[:1], torch.tensor([[0, 0, 0]])).tolist() == [[0.0, 0.0]]
