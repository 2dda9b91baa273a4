"""Per-person standardization of rewards, worked by hand."""

import pytest
import torch

from palign.functional.reward_scales import RewardScale, RewardScales


def test_mean_and_deviation_of_each_person() -> None:
    scales = RewardScales()
    assert len(scales) == 0
    assert [part.tolist() for part in scales.of(["anybody"])] == [[0.0], [1.0]]  # before anything was fitted
    scales.fit({"ann": torch.tensor([2.0, 4.0, 6.0]), "bob": torch.tensor([10.0, 20.0, 30.0])})
    assert scales.scales["ann"] == RewardScale(4.0, 2.0)
    assert scales.scales["bob"] == RewardScale(20.0, 10.0)
    # a stranger gets the means over people: (4 + 20) / 2 and (2 + 10) / 2
    assert [part.tolist() for part in scales.of(["bob", "stranger"])] == [[20.0, 12.0], [10.0, 6.0]]


def test_people_who_never_vary_get_the_populations_deviation() -> None:
    scales = RewardScales()
    scales.fit({"flat": torch.tensor([1.0, 1.0]), "steep": torch.tensor([0.0, 2.0])})
    assert scales.scales["flat"].mean == 1.0
    assert scales.scales["flat"].std == pytest.approx(2**0.5 / 2)  # the mean of 0 and √2
    scales.fit({"flat": torch.tensor([1.0, 1.0])})
    assert scales.scales["flat"].std == pytest.approx(1e-6)


def test_a_given_population_scale_is_kept() -> None:
    scales = RewardScales()
    scales.fit({None: torch.tensor([0.0, 2.0])})
    assert scales.of(["stranger"])[0].tolist() == [1.0]
