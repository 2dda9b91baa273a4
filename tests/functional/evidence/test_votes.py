"""Votes: what is cut out of them by hand, and what is no vote."""

import pytest
import torch

from palign.functional.evidence.votes import Votes


def three() -> Votes:
    """A ranking by person 1, then two rows of person 0 on the same items; person 2 said nothing."""
    items = torch.tensor([[5, 3, 4], [1, 2, 1], [1, 2, 1]])
    return Votes(items, torch.tensor([[0, 1, 2], [0, 1, -1], [0, 1, -1]]), torch.tensor([1, 0, 0]), 3)


def test_some_rows_keep_all_people() -> None:
    for rows in (torch.tensor([2, 0]), torch.tensor([True, False, True])):
        some = three().of_rows(rows)
        assert len(some) == 2 and some.n_annotators == 3
    assert some.item_indices.tolist() == [[5, 3, 4], [1, 2, 1]] and some.annotator_index.tolist() == [1, 0]
    assert some.ranks.tolist() == [[0, 1, 2], [0, 1, -1]]


def test_other_names_on_the_same_rows() -> None:
    votes = three().said_by(torch.tensor([0, 1, 4]), 5)
    assert votes.annotator_index.tolist() == [0, 1, 4] and votes.n_annotators == 5
    assert torch.equal(votes.item_indices, three().item_indices) and torch.equal(votes.ranks, three().ranks)
    assert three().said_by(torch.tensor([2, 2, 2])).n_annotators == 3


def test_evidence_is_of_one_person() -> None:
    # a > b > c as three pairs: two judgements; of three people they are three
    pairs = Votes(
        torch.tensor([[0, 1], [0, 2], [1, 2]]), torch.tensor([[0, 1]]).expand(3, 2), torch.zeros(3).long(), 3
    )
    assert pairs.evidence().tolist() == pytest.approx([2 / 3] * 3)
    assert pairs.said_by(torch.arange(3)).evidence().tolist() == [1.0] * 3


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"item_indices \(1, 2\), ranks \(1, 3\)"):
        Votes(torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1), 1)
    with pytest.raises(ValueError, match=r"annotator_index \(2,\)"):
        Votes(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(2), 3)
    with pytest.raises(ValueError, match="runs from 2 to 2; it must lie in 0…1"):
        Votes(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]), torch.tensor([2]), 2)
    with pytest.raises(ValueError, match="runs from -1 to -1"):
        three().said_by(torch.tensor([-1, -1, -1]))
