"""Starts of EM: net wins worked by hand, planted clusters, and what may never be a start."""

import numpy as np
import pytest
import torch

from palign.functional.evidence.votes import Votes
from palign.functional.mixture_start import find_stages, kmeans, net_wins, random_start, soften, spectral_start
from palign.functional.partitions import adjusted_rand_index


def double(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_stages_by_hand() -> None:
    items = torch.tensor([[5, 3, 4], [1, 2, 0], [2, 1, 0]])
    ranks = torch.tensor([[0, 1, 2], [0, 0, -1], [0, 1, -1]])  # a ranking, a tie, a pair
    stages = find_stages(Votes(items, ranks, torch.tensor([1, 0, 0]), 3))
    assert stages.winner.tolist() == [5, 3, 2]
    beaten = [row[~gone].tolist() for row, gone in zip(stages.losers, stages.absent, strict=True)]
    assert beaten == [[3, 4], [4], [1]]
    assert stages.annotator.tolist() == [1, 1, 0] and stages.counts().tolist() == [1, 2, 0]


def test_net_wins_by_hand() -> None:
    features = double([[1.0, 0.0], [0.0, 2.0], [4.0, 4.0]])
    # person 0: item 2 beat 0 and 1: (4, 4) − (.5, 1); then 0 beat 1: (1, −2). Their mean is (2.25, .5)
    ranks = torch.tensor([[0, 1, 1], [0, 1, -1]])
    stages = find_stages(Votes(torch.tensor([[2, 0, 1], [0, 1, 0]]), ranks, torch.tensor([0, 0]), 2))
    torch.testing.assert_close(net_wins(features, stages), double([[2.25, 0.5], [0.0, 0.0]]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("rows_each", [2, 5])
def test_planted_clusters_are_found_from_few_rows(rows_each: int) -> None:
    # everybody of type k prefers items that point to one of three directions: nearly noiseless
    generator = torch.Generator().manual_seed(0)
    types = torch.arange(60) % 3
    owner = torch.arange(60).repeat_interleave(rows_each)
    features = torch.randn(len(owner), 2, 8, generator=generator, dtype=torch.float64) * 0.1
    features[torch.arange(len(owner)), 0, types[owner]] += 1
    items = torch.arange(2 * len(owner)).view(-1, 2)
    stages = find_stages(Votes(items, torch.tensor([0, 1]).expand_as(items), owner, 60))
    start = spectral_start(features.flatten(0, 1), stages, 3, seed=1)
    assert adjusted_rand_index(start.argmax(1), types) == 1.0
    torch.testing.assert_close(start.max(1).values, torch.full((60,), 0.9, dtype=torch.float64))
    assert torch.equal(start, spectral_start(features.flatten(0, 1), stages, 3, seed=1))


def test_scale_of_one_feature_does_not_hide_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    types, owner = torch.arange(60) % 2, torch.arange(60).repeat_interleave(20)
    features = torch.randn(len(owner), 2, 5, generator=generator, dtype=torch.float64)
    sign = 1 - 2 * types[owner].double()
    is_first = sign * (features[:, 0, 0] - features[:, 1, 0]) > 0
    features[..., 4] *= 1000  # noise, and most of the variance
    items = torch.arange(2 * len(owner)).view(-1, 2)
    items = torch.where(is_first[:, None], items, items.flip(1))
    stages = find_stages(Votes(items, torch.tensor([0, 1]).expand_as(items), owner, 60))
    start = spectral_start(features.flatten(0, 1), stages, 2)
    assert adjusted_rand_index(start.argmax(1), types) == 1.0


def test_as_many_types_as_people_and_people_without_rows() -> None:
    features = torch.eye(4, dtype=torch.float64)
    items = torch.tensor([[0, 1], [1, 2], [2, 3]])
    stages = find_stages(Votes(items, torch.tensor([0, 1]).expand_as(items), torch.tensor([0, 1, 3]), 4))
    start = spectral_start(features, stages, 3)
    assert sorted(start[[0, 1, 3]].argmax(1).tolist()) == [0, 1, 2]
    assert start[2].tolist() == pytest.approx([1 / 3] * 3)
    assert spectral_start(features, stages, 1).tolist() == [[1.0]] * 4
    with pytest.raises(ValueError, match="n_types is 4 and 3 annotators"):
        spectral_start(features, stages, 4)


def test_identical_people_still_get_a_start() -> None:
    features = torch.eye(2, dtype=torch.float64)
    items = torch.tensor([[0, 1]]).repeat(6, 1)
    stages = find_stages(Votes(items, torch.tensor([0, 1]).expand_as(items), torch.arange(6), 6))
    start = spectral_start(features, stages, 2)
    assert torch.isfinite(start).all() and (start.max(1).values > 0.5).all()


def test_soft_and_random_starts() -> None:
    assert soften(torch.tensor([2, 0]), 3)[0].tolist() == pytest.approx([0.05, 0.05, 0.9])
    start = random_start(10, 3, seed=0)
    assert sorted(torch.bincount(start.argmax(1)).tolist()) == [3, 3, 4]
    assert not torch.equal(start, random_start(10, 3, seed=1))


def test_kmeans_by_hand() -> None:
    points = double([[0.0], [1.0], [10.0], [11.0]])
    clusters = kmeans(points, torch.ones(4, dtype=torch.float64), 2, np.random.default_rng(0), 3)
    assert clusters[0] == clusters[1] != clusters[2] == clusters[3]
