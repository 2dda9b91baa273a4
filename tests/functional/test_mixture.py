"""EM over annotators against Bayes by brute force, in plain Python, and against its own definitions."""

import itertools
import math

import pytest
import torch

from palign.functional.mixture import (
    assign_rows,
    elbo,
    entropy,
    log_evidence,
    mixing_weights,
    responsibilities,
    row_weights,
    sum_by_annotator,
    temper_schedule,
)


def double(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


ROW_PROBABILITIES = [[0.9, 0.2], [0.8, 0.3], [0.4, 0.5], [0.1, 0.6], [0.7, 0.7], [0.05, 0.95], [0.99, 0.5]]
OWNERS = [0, 2, 0, 2, 1, 2, 0]
PRIOR = [0.7, 0.3]


def bayes(prior: list[float], rows: list[list[float]], owners: list[int], person: int) -> list[float]:
    """Prior times probabilities, normalised: products in plain Python."""
    joint = [
        prior[k] * math.prod(row[k] for row, owner in zip(rows, owners, strict=True) if owner == person)
        for k in range(len(prior))
    ]
    return [value / sum(joint) for value in joint]


def fixture() -> torch.Tensor:
    return sum_by_annotator(double(ROW_PROBABILITIES).log(), torch.tensor(OWNERS), 4)


def test_e_step_is_bayes_by_brute_force() -> None:
    gamma = responsibilities(fixture(), double(PRIOR))
    expected = [bayes(PRIOR, ROW_PROBABILITIES, OWNERS, person) for person in range(4)]
    torch.testing.assert_close(gamma, double(expected), atol=1e-12, rtol=0)
    assert gamma[3].tolist() == pytest.approx(PRIOR, abs=1e-15)  # no rows: the prior


def test_e_step_does_not_depend_on_order_or_batches() -> None:
    values, owners = double(ROW_PROBABILITIES).log(), torch.tensor(OWNERS)
    for order in itertools.islice(itertools.permutations(range(7)), 0, 5040, 97):
        shuffled = sum_by_annotator(values[list(order)], owners[list(order)], 4)
        torch.testing.assert_close(shuffled, fixture(), atol=1e-14, rtol=0)
    for size in (1, 2, 3, 4, 7):  # 7 is not a multiple of 2, 3 or 4: the last batch counts too
        parts = [sum_by_annotator(v, o, 4) for v, o in zip(values.split(size), owners.split(size), strict=True)]
        torch.testing.assert_close(sum(parts), fixture(), atol=1e-14, rtol=0)


def test_votes_that_a_type_predicts_raise_it() -> None:
    before = responsibilities(fixture(), double(PRIOR))
    for kind in range(2):
        votes = double([[0.5, 0.5]] * 10)
        votes[:, kind] = 0.9
        for person in range(4):
            added = fixture() + sum_by_annotator(votes.log(), torch.full((10,), person), 4)
            assert responsibilities(added, double(PRIOR))[person, kind] > before[person, kind]


def test_ten_thousand_rows_and_impossible_types() -> None:
    far = double([[-1e5, -1e5 + math.log(3)], [-math.inf, -4.0], [-1e5, 0.0]])
    gamma = responsibilities(far, double([0.5, 0.5]))
    torch.testing.assert_close(gamma, double([[0.25, 0.75], [0.0, 1.0], [0.0, 1.0]]), atol=1e-9, rtol=0)
    dead = responsibilities(double([[-1.0, -9.0]]), double([0.0, 1.0]))
    assert dead.tolist() == [[0.0, 1.0]]


def test_temper_by_hand() -> None:
    # odds 16 to 1 at a uniform prior; the fourth root of 16 is 2
    gamma = responsibilities(double([[math.log(16), 0.0]]), double([0.5, 0.5]), temper=0.25)
    assert gamma[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-12)


def test_mixing_weights_count_people_once() -> None:
    gamma = double([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.7, 0.3]])
    assert mixing_weights(gamma).tolist() == pytest.approx([0.55, 0.45])
    assert mixing_weights(gamma, torch.tensor([True, True, True, False])).tolist() == pytest.approx([0.5, 0.5])
    assert mixing_weights(gamma, torch.zeros(4, dtype=torch.bool)).tolist() == [0.5, 0.5]


def test_evidence_and_elbo() -> None:
    likelihoods, prior = fixture(), double(PRIOR)
    expected = [
        math.log(sum(PRIOR[k] * math.prod(r[k] for r, o in zip(ROW_PROBABILITIES, OWNERS, strict=True) if o == i)
                     for k in range(2)))
        for i in range(4)
    ]  # fmt: skip
    evidence = log_evidence(likelihoods, prior)
    torch.testing.assert_close(evidence, double(expected), atol=1e-12, rtol=0)
    gamma = responsibilities(likelihoods, prior)
    assert elbo(likelihoods, prior, gamma).item() == pytest.approx(sum(expected), abs=1e-9)
    other = torch.full_like(gamma, 0.5)
    divergence = torch.xlogy(other, other / gamma).sum()  # what the bound lacks: KL(q ‖ γ)
    assert elbo(likelihoods, prior, other).item() == pytest.approx(sum(expected) - divergence.item(), abs=1e-9)


def test_elbo_with_impossible_types() -> None:
    likelihoods = double([[-math.inf, -2.0]])
    gamma = responsibilities(likelihoods, double([0.5, 0.5]))
    assert elbo(likelihoods, double([0.5, 0.5]), gamma).item() == pytest.approx(-2 + math.log(0.5), abs=1e-12)
    assert elbo(likelihoods, double([0.5, 0.5]), double([[0.5, 0.5]])).item() == -math.inf


def test_entropy_by_hand() -> None:
    assert entropy(double([[1.0, 0.0], [0.5, 0.5]])).tolist() == pytest.approx([0.0, math.log(2)], abs=1e-12)


def test_row_weights_by_hand() -> None:
    gamma = double([[0.9, 0.1, 0.0], [0.3, 0.7, 0.0]])
    weights = row_weights(gamma, torch.tensor([0, 0, 0, 1]))
    # means over the four rows: 0.75, 0.25 and 0
    expected = [[1.2, 0.4, 0.0], [1.2, 0.4, 0.0], [1.2, 0.4, 0.0], [0.4, 2.8, 0.0]]
    torch.testing.assert_close(weights, double(expected), atol=1e-12, rtol=0)


def test_temper_schedule() -> None:
    assert temper_schedule(1) == [1.0]
    assert temper_schedule(2) == [0.2, 1.0]
    rising = temper_schedule(10, start=0.1)
    assert len(rising) == 10 and rising[0] == pytest.approx(0.1) and rising[-2:] == [1.0, 1.0]
    ratios = [after / before for before, after in itertools.pairwise(rising[:9])]
    assert ratios == pytest.approx([10 ** (1 / 8)] * 8)


@pytest.mark.parametrize("n_types", [1, 2, 3, 5])
def test_assigned_rows_meet_their_expectations(n_types: int) -> None:
    generator = torch.Generator().manual_seed(n_types)
    gamma = torch.rand(40, n_types, generator=generator, dtype=torch.float64).pow(4)
    gamma /= gamma.sum(1, keepdim=True)
    index = torch.randint(40, (333,), generator=generator)
    types = assign_rows(gamma, index, generator)
    one_hot = torch.nn.functional.one_hot(types, n_types).double()
    assert (one_hot.sum(0) - gamma[index].sum(0)).abs().max() < 1
    of_person = sum_by_annotator(one_hot, index, 40)
    assert (of_person - gamma * torch.bincount(index, minlength=40)[:, None]).abs().max() < 1


def test_assigned_rows_are_drawn_from_gamma() -> None:
    gamma = double([[0.2, 0.5, 0.3], [0.65, 0.05, 0.3], [0.0, 1.0, 0.0]])
    index, generator = torch.tensor([0, 1, 1, 2, 0]), torch.Generator().manual_seed(0)
    counts = sum(torch.nn.functional.one_hot(assign_rows(gamma, index, generator), 3) for _ in range(1000)) / 1000
    # a share of 1,000 draws has a standard error of at most .016
    torch.testing.assert_close(counts.double(), gamma[index], atol=0.064, rtol=0)


def test_assigned_rows_repeat_with_their_seed() -> None:
    gamma, index = double([[0.4, 0.6]]), torch.zeros(101, dtype=torch.int64)
    first, again = (assign_rows(gamma, index, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again) and first.sum() in (60, 61)
    assert assign_rows(gamma, index[:0], torch.Generator()).shape == (0,)


def test_what_is_wrong_is_named() -> None:
    bad = double([[0.0, 0.0], [-1.0, math.nan]])
    with pytest.raises(ValueError, match="annotator 1 under type 1 is nan"):
        responsibilities(bad, double([0.5, 0.5]))
    with pytest.raises(ValueError, match="annotator 0 has probability zero"):
        responsibilities(double([[-math.inf, -3.0]]), double([1.0, 0.0]))
    with pytest.raises(ValueError, match="sum to one"):
        log_evidence(double([[0.0, 0.0]]), double([0.5, 0.6]))
    with pytest.raises(ValueError, match=r"shape \(1, 2\) and mixing_weights \(3,\)"):
        log_evidence(double([[0.0, 0.0]]), double([0.5, 0.25, 0.25]))
    with pytest.raises(ValueError, match="temper is 0"):
        responsibilities(double([[0.0, 0.0]]), double([0.5, 0.5]), temper=0)
    with pytest.raises(ValueError, match="runs from 0 to 4; it must lie in 0…3"):
        sum_by_annotator(double([1.0, 2.0]), torch.tensor([0, 4]), 4)
    with pytest.raises(ValueError, match="at least one round"):
        temper_schedule(0)
