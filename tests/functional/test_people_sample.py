"""Who is drawn, and which rows go with them."""

import torch

from palign.functional.people_sample import draw_people

OWNERS = torch.tensor([5, 0, 2, 5, 0, 4, 2, 2])  # of six people, 1 and 3 have no row, 4 has one


def test_rows_go_with_their_people() -> None:
    people, keep, numbers = draw_people(OWNERS, 6, 2, seed=3)
    assert len(people) == 2 and set(people.tolist()) <= {0, 2, 4, 5}
    assert keep.tolist() == [owner in people.tolist() for owner in OWNERS.tolist()]
    assert people[numbers].tolist() == OWNERS[keep].tolist()


def test_all_are_taken_where_there_are_no_more() -> None:
    people, keep, numbers = draw_people(OWNERS, 6, 10)
    assert people.tolist() == [0, 2, 4, 5] and bool(keep.all())
    assert numbers.tolist() == [3, 0, 1, 3, 0, 2, 1, 1]


def test_seeds_draw_different_people() -> None:
    index = torch.arange(1000).repeat(2)
    drawn = [draw_people(index, 1000, 100, seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert len(drawn[0].unique()) == 100


def test_half_of_the_places_go_first_to_people_of_many_rows() -> None:
    index = torch.cat([torch.arange(100), torch.arange(10)])  # ten of a hundred people have two rows
    for seed in range(5):
        assert set(range(10)) <= set(draw_people(index, 100, 20, least_rows=2, seed=seed)[0].tolist())
        assert sum(person < 10 for person in draw_people(index, 100, 16, least_rows=2, seed=seed)[0].tolist()) >= 8
    # where all have as many, the draw is the same
    index = torch.arange(50).repeat(2)
    assert torch.equal(draw_people(index, 50, 20, least_rows=2)[0], draw_people(index, 50, 20)[0])
