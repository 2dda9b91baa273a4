"""Ideal points: scores worked by hand, and what may not change a margin."""

import math

import pytest
import torch

from palign.functional.ideal_point import Similarity, ideal_point_scores, mix_prototypes


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def simplex(*shape: int, seed: int = 0) -> torch.Tensor:
    return normal(*shape, seed=seed).softmax(-1)


def margins(chosen, rejected, ideal, similarity: str, log_scale=None) -> torch.Tensor:
    return ideal_point_scores(chosen, ideal, similarity=similarity, log_scale=log_scale) - ideal_point_scores(
        rejected, ideal, similarity=similarity, log_scale=log_scale
    )


def test_mixture_by_hand() -> None:
    prototypes = torch.tensor([[0.0, 4.0], [2.0, 0.0]])
    weights = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    assert mix_prototypes(weights, prototypes).tolist() == [[1.5, 1.0], [0.0, 4.0]]
    of_the_row = torch.stack([prototypes, 10 * prototypes])
    assert mix_prototypes(weights, of_the_row).tolist() == [[1.5, 1.0], [0.0, 40.0]]


def test_scores_by_hand() -> None:
    point, ideal = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 8.0]])
    assert ideal_point_scores(point, ideal, similarity="squared_distance").tolist() == [-25.0]
    assert ideal_point_scores(point, ideal, similarity="distance").tolist() == [-5.0]
    # cos = 32 / (5 · 8)
    assert ideal_point_scores(point, ideal, similarity="cosine").item() == pytest.approx(0.8)
    scaled = ideal_point_scores(point, ideal, similarity="cosine", log_scale=torch.tensor(math.log(10)))
    assert scaled.item() == pytest.approx(8.0, rel=1e-5)


def test_cosine_scale_is_capped_at_a_hundred() -> None:
    point = torch.tensor([[1.0, 0.0]])
    scores = [
        ideal_point_scores(point, point, similarity="cosine", log_scale=torch.tensor(value)).item()
        for value in (math.log(99.0), math.log(101.0), 50.0)
    ]
    assert scores == pytest.approx([99.0, 100.0, 100.0], rel=1e-5)


def test_unknown_similarity() -> None:
    with pytest.raises(ValueError, match="'dot' is not a valid Similarity"):
        ideal_point_scores(torch.zeros(1, 2), torch.zeros(1, 2), similarity="dot")


@pytest.mark.parametrize("similarity", list(Similarity))
def test_shapes_broadcast(similarity: Similarity) -> None:
    points, ideals = normal(5, 3, 4), normal(5, 1, 4, seed=1)
    scores = ideal_point_scores(points, ideals, similarity=similarity)
    assert scores.shape == (5, 3)
    one = ideal_point_scores(points[2, 1], ideals[2, 0], similarity=similarity)
    assert scores[2, 1].item() == pytest.approx(one.item(), abs=1e-12)


@pytest.mark.parametrize("similarity", list(Similarity))
def test_a_margin_turns_its_sign_with_the_pair(similarity: Similarity) -> None:
    first, second, ideal = normal(20, 4), normal(20, 4, seed=1), normal(20, 4, seed=2)
    there = margins(first, second, ideal, similarity)
    torch.testing.assert_close(there, -margins(second, first, ideal, similarity), atol=1e-12, rtol=0)
    assert there.abs().min() > 1e-6


@pytest.mark.parametrize("similarity", list(Similarity))
def test_order_of_prototypes_does_not_matter(similarity: Similarity) -> None:
    weights, prototypes, points = simplex(20, 3), normal(3, 4, seed=1), normal(20, 4, seed=2)
    order = [2, 0, 1]
    torch.testing.assert_close(
        ideal_point_scores(points, mix_prototypes(weights, prototypes), similarity=similarity),
        ideal_point_scores(points, mix_prototypes(weights[:, order], prototypes[order]), similarity=similarity),
        atol=1e-12,
        rtol=0,
    )


@pytest.mark.parametrize("similarity", list(Similarity))
def test_turning_and_shifting_the_space_leaves_margins_alone(similarity: Similarity) -> None:
    first, second, prototypes, weights = normal(20, 4), normal(20, 4, seed=1), normal(3, 4, seed=2), simplex(20, 3)
    turn = torch.linalg.qr(normal(4, 4, seed=3))[0]
    from_origin = similarity in (Similarity.COSINE, Similarity.INNER_PRODUCT)  # where vectors are seen from
    shift = 0 if from_origin else normal(4, seed=4)

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x @ turn + shift

    before = margins(first, second, mix_prototypes(weights, prototypes), similarity)
    after = margins(moved(first), moved(second), mix_prototypes(weights, moved(prototypes)), similarity)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_squared_distance_margins_are_linear_in_the_weights() -> None:
    first, second, prototypes, weights = normal(20, 4), normal(20, 4, seed=1), normal(3, 4, seed=2), simplex(20, 3)
    mixed = margins(first, second, mix_prototypes(weights, prototypes), "squared_distance")
    of_each = torch.stack([margins(first, second, p, "squared_distance") for p in prototypes], -1)
    torch.testing.assert_close(mixed, (weights * of_each).sum(-1), atol=1e-10, rtol=0)


@pytest.mark.parametrize("similarity", list(Similarity))
def test_gradients_are_finite_differences(similarity: Similarity) -> None:
    ideal, point = normal(1, 3, seed=1).requires_grad_(), normal(1, 3)
    log_scale = torch.tensor(1.5, dtype=torch.float64)

    def score(z: torch.Tensor) -> torch.Tensor:
        return ideal_point_scores(point, z, similarity=similarity, log_scale=log_scale).sum()

    (gradient,) = torch.autograd.grad(score(ideal), ideal)
    for entry in range(3):
        step = torch.zeros_like(ideal)
        step[0, entry] = 1e-5
        assert gradient[0, entry].item() == pytest.approx(
            (score(ideal + step) - score(ideal - step)).item() / 2e-5, abs=1e-6
        )


def test_gradient_of_a_distance_is_finite_at_the_ideal_point() -> None:
    point = torch.ones(1, 3, requires_grad=True)
    ideal_point_scores(point, torch.ones(1, 3), similarity="distance").sum().backward()
    assert torch.isfinite(point.grad).all()
