"""A sample of very many people: what costs too much on a million is fitted on thousands and then carried over."""

import torch
from torch import Tensor

__all__ = ["draw_people"]


def draw_people(
    annotator_index: Tensor, n_annotators: int, n_drawn: int, *, least_rows: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw `n_drawn` of the people who have rows; all of them where there are no more.

    Args:
        annotator_index: (rows,) int64 in [0, n_annotators).
        least_rows: half of the places go first to people who have so many.

    Returns:
        people (n,) int64, rising; the rows they have, (rows,) bool; the same people's numbers 0…n−1 at those rows
        (n_rows_kept,) int64.
    """
    counts = torch.bincount(annotator_index, minlength=n_annotators)
    people = torch.where(counts > 0)[0]
    people = people[torch.randperm(len(people), generator=torch.Generator().manual_seed(seed))]
    has_many = counts[people] >= least_rows
    is_first = has_many & (has_many.cumsum(0) <= n_drawn // 2)
    people = people[(~is_first).int().argsort(stable=True)][:n_drawn].sort().values
    number = torch.full((n_annotators,), -1)
    number[people] = torch.arange(len(people))
    numbers = number[annotator_index]
    keep = numbers >= 0
    return people, keep, numbers[keep]
