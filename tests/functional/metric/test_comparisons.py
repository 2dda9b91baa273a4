"""Margins by hand, gradients by automatic differentiation, conjugates by their definition."""

import pytest
import torch

from palign.functional.metric.comparisons import Comparisons, Loss, Parameters, rewards
from tests.worlds.metric import tiny_pairs


def drawn(pairs: Comparisons, seed: int = 1) -> Parameters:
    torch.manual_seed(seed)
    root = torch.randn(pairs.dim, pairs.dim, dtype=torch.float64)
    people = torch.randn(pairs.n_people, pairs.dim, dtype=torch.float64)
    return Parameters(root @ root.T, torch.randn(pairs.dim, dtype=torch.float64), people)


def test_the_margin_is_the_difference_of_squared_distances() -> None:
    """M = diag(1, 4), u = (1, 0): a = (1, 1) is at 4, b = (0, 2) at 1 + 16 = 17; so a wins by 13."""
    items = torch.tensor([[1.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    one = torch.tensor([0])
    pairs = Comparisons(items, one, torch.tensor([1]), one, 1, torch.ones(1, dtype=torch.float64))
    metric, point = torch.diag(torch.tensor([1.0, 4.0]).double()), torch.tensor([[1.0, 0.0]]).double()
    at = Parameters(metric, torch.zeros(2).double(), -2 * point @ metric)
    assert float(pairs.margins(at)) == pytest.approx(13)
    values = rewards(items, metric, at.vectors().expand(2, -1))
    assert float(values[0] - values[1]) == pytest.approx(13)


@pytest.mark.parametrize("kind", list(Loss))
def test_the_gradient_is_that_of_automatic_differentiation(kind: Loss) -> None:
    pairs = tiny_pairs()
    at = drawn(pairs)
    parts = [part.clone().requires_grad_() for part in at.parts()]
    (pairs.weight * kind.values(pairs.margins(Parameters(*parts)))).sum().backward()
    value, gradient = pairs.loss_and_gradient(at, kind)
    assert value == pytest.approx(pairs.loss(at, kind))
    for part, wanted in zip(gradient.parts(), parts, strict=True):
        torch.testing.assert_close(part, wanted.grad)


@pytest.mark.parametrize("kind", list(Loss))
def test_the_conjugate_is_the_largest_gap_to_a_line(kind: Loss) -> None:
    """ℓ*(−α) = max over m of −α m − ℓ(m), on a fine grid of margins."""
    margins = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    slopes = torch.tensor([0.05, 0.3, 0.5, 0.95], dtype=torch.float64)
    wanted = (-slopes[:, None] * margins - kind.values(margins)).max(1).values
    torch.testing.assert_close(kind.conjugates(slopes), wanted, atol=1e-5, rtol=0)


def test_curvatures_bound_the_gram_matrices() -> None:
    pairs = tiny_pairs(40, dim=3)
    metric, shared, people = pairs.curvatures()
    squares = (pairs.items[:, :, None] * pairs.items[:, None]).flatten(1)
    features = (squares[pairs.loser] - squares[pairs.winner]) * pairs.weight.sqrt()[:, None]
    assert metric == pytest.approx(float(torch.linalg.svdvals(features)[0]) ** 2, rel=0.02)
    moved = pairs.differences * pairs.weight.sqrt()[:, None]
    assert shared == pytest.approx(float(torch.linalg.svdvals(moved)[0]) ** 2, rel=1e-6)
    for person in range(2):
        top = float(torch.linalg.svdvals(moved[pairs.person == person])[0]) ** 2
        assert float(people[person]) == pytest.approx(top, rel=0.02)


def test_item_rewards_stand_for_metric_and_shared_part() -> None:
    pairs = tiny_pairs()
    at = drawn(pairs)
    liked = rewards(pairs.items, at.metric, at.shared)
    fixed = Comparisons(
        *(getattr(pairs, n) for n in ("items", "winner", "loser", "person", "n_people", "weight")), liked
    )
    alone = Parameters(fixed.zeros().metric, fixed.zeros().shared, at.people)
    torch.testing.assert_close(fixed.margins(alone), pairs.margins(at))


def test_vectors_that_are_not_finite_are_named() -> None:
    items = torch.tensor([[0.0], [float("nan")]], dtype=torch.float64)
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="Item vector 1 .* NaN"):
        Comparisons(items, one, torch.tensor([1]), one, 1, torch.ones(1).double())
    with pytest.raises(ValueError, match="the rest"):
        Comparisons(items[:1], one, torch.tensor([0, 0]), one, 1, torch.ones(1).double())
