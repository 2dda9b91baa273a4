"""Items in subspaces: found, stitched exactly, and a planted metric recovered from four answers a person."""

import numpy as np
import pytest
import torch

from palign.data.synthetic_metric import make_metric_population
from palign.functional.metric.points import aligned_error
from palign.functional.metric.subspaces import (
    Subspaces,
    find_subspaces,
    fit_in_subspaces,
    stitch,
    stitching_rank,
    subspaces_of,
)
from tests.worlds.metric import pairs_of


def bases(n: int, dim: int, r: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.linalg.qr(torch.randn(dim, r, generator=generator, dtype=torch.float64))[0] for _ in range(n)]


def test_stitching_by_hand() -> None:
    """Lines along e1, e2 and (e1 + e2)/√2 measure 1, 4 and (1 + 4 + 2m)/2 = 3: m = 1/2."""
    lines = [torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]), torch.full((2, 1), 0.5**0.5)]
    pieces = [torch.tensor([[value]]).double() for value in (1.0, 4.0, 3.0)]
    metric = stitch([line.double() for line in lines], pieces)
    torch.testing.assert_close(metric, torch.tensor([[1.0, 0.5], [0.5, 4.0]]).double())


def test_pieces_of_a_metric_are_put_together_exactly_where_they_span_it() -> None:
    root = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    metric = root @ root.T
    enough, few = bases(6, 5, 2), bases(4, 5, 2)
    assert (stitching_rank(enough), stitching_rank(few)) == (15, 12)
    torch.testing.assert_close(stitch(enough, [b.T @ metric @ b for b in enough]), metric)
    partly = stitch(few, [b.T @ metric @ b for b in few])
    assert aligned_error(partly, metric) > 0.05  # what no piece says is not known
    for b in few:
        torch.testing.assert_close(b.T @ partly @ b, b.T @ metric @ b)


def test_planted_subspaces_are_found_and_general_items_have_none() -> None:
    people = make_metric_population(n_annotators=1, dim=5, n_subspaces=6, n_items=90, seed=0)
    spaces = find_subspaces(torch.from_numpy(people.items).double())
    assert len(spaces.bases) == 6 and all(basis.shape == (5, 2) for basis in spaces.bases)
    for number in range(6):  # the same items together, under whatever number
        assert len(np.unique(people.subspaces[spaces.of_item.numpy() == number])) == 1
    general = make_metric_population(n_annotators=1, dim=5, n_items=90, seed=0)
    assert find_subspaces(torch.from_numpy(general.items).double()) is None


def test_more_people_bring_the_planted_metric_nearer() -> None:
    """Five answers of a person in one of twelve planes of six dimensions: fewer than dimensions, and yet."""
    errors = []
    shape = {"dim": 6, "n_subspaces": 12, "n_items": 240, "sharpness": 2.0, "seed": 1}
    for n in (150, 1500):
        people = make_metric_population(n_annotators=n, **shape)
        pairs = pairs_of(people, people.comparisons(5, seed=1))
        spaces = subspaces_of(pairs.items, torch.from_numpy(people.subspaces))
        fit = fit_in_subspaces(pairs, spaces, strengths=(0.1, 0.2), tolerance=1e-3)
        errors.append(aligned_error(fit.metric, torch.from_numpy(people.metric)))
    assert errors[1] < 0.35 and errors[1] < 0.7 * errors[0]


def test_pairs_across_subspaces_alone_are_refused() -> None:
    people = make_metric_population(n_annotators=4, dim=3, n_items=30, seed=0)
    pairs = pairs_of(people, people.comparisons(4, seed=1))
    spaces = Subspaces(bases(30, 3, 1), torch.arange(30))
    with pytest.raises(ValueError, match="No pair compares two items of one subspace"):
        fit_in_subspaces(pairs, spaces)
    with pytest.raises(ValueError, match="subspace 0 span 3 of 3 dimensions"):
        subspaces_of(pairs.items, torch.zeros(30, dtype=torch.int64))
