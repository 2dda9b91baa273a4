"""Agreement of partitions against tables worked by hand."""

import pytest
import torch

from palign.functional.partitions import adjusted_rand_index, match_types, type_accuracy


def test_adjusted_rand_index_by_hand() -> None:
    # contingency (2, 1 / 0, 3): 1 + 3 = 4 pairs together, 6 in a, 1 + 6 = 7 in b, 15 in all:
    # (4 − 42/15) / (6.5 − 42/15) = 1.2 / 3.7
    a, b = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 1, 1])
    assert adjusted_rand_index(a, b) == pytest.approx(12 / 37, abs=1e-12)
    assert adjusted_rand_index(b, a) == pytest.approx(12 / 37, abs=1e-12)


def test_names_do_not_matter_and_chance_is_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(3, (2, 20_000), generator=generator)
    assert adjusted_rand_index(a, torch.tensor([2, 0, 1])[a]) == 1.0
    assert abs(adjusted_rand_index(a, b)) < 1e-3


@pytest.mark.parametrize("part", [[0, 0, 0], [0, 1, 2], [0]])
def test_trivial_partitions_agree_with_themselves(part: list[int]) -> None:
    assert adjusted_rand_index(torch.tensor(part), torch.tensor(part)) == 1.0


def test_one_part_against_several_is_chance() -> None:
    assert adjusted_rand_index(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1])) == 0.0


def test_match_types_by_hand() -> None:
    found, truth = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([2, 2, 0, 0, 0, 1])
    assert match_types(found, truth).tolist() == [2, 0, 1]
    assert type_accuracy(found, truth) == pytest.approx(5 / 6)


def test_more_types_found_than_there_are() -> None:
    found, truth = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, 1, 1])
    assert sorted(match_types(found, truth).tolist()) == [0, 1, 2]
    assert type_accuracy(found, truth) == pytest.approx(3 / 4)
    assert type_accuracy(truth, found) == pytest.approx(3 / 4)


def test_what_is_no_partition_is_named() -> None:
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        adjusted_rand_index(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="negative"):
        match_types(torch.tensor([0, -1]), torch.tensor([0, 1]))
