"""Do two partitions of the same people agree? Names of the parts do not matter."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

__all__ = ["adjusted_rand_index", "match_types", "type_accuracy"]


def adjusted_rand_index(a: Tensor, b: Tensor) -> float:
    """Agreement on pairs of people, 1 if equal and 0 on average by chance (Hubert and Arabie 1985, equation 5).

    Args:
        a, b: (n_annotators,) int64, the part each person is in.

    Returns:
        At most 1. Two partitions that both have a single part, or both only parts of one person, agree: 1.
    """
    table = _contingency(a, b)
    together, in_a, in_b = (float(_pairs(counts)) for counts in (table, table.sum(1), table.sum(0)))
    n_pairs = float(_pairs(table.sum()))
    by_chance = in_a * in_b / n_pairs if n_pairs else 0.0
    most = (in_a + in_b) / 2
    return 1.0 if most == by_chance else (together - by_chance) / (most - by_chance)


def match_types(types: Tensor, truth: Tensor) -> Tensor:
    """The renaming of `types` that agrees with `truth` on most people (Hungarian method).

    Args:
        types, truth: (n_annotators,) int64, the type of each person.

    Returns:
        (n,) int64 `names`, n the larger number of types: type k is called `names[k]` in `truth`, so that
        `names[types]` compares with `truth`.
    """
    table = _contingency(types, truth)
    n_types = max(table.shape)
    square = np.zeros((n_types, n_types), dtype=np.int64)
    square[: table.shape[0], : table.shape[1]] = table
    _, columns = linear_sum_assignment(-square)
    return torch.from_numpy(columns).to(types.device)


def type_accuracy(types: Tensor, truth: Tensor) -> float:
    """Share of people in their true type, in [0, 1], after the best renaming (`match_types`)."""
    return float((match_types(types, truth)[types] == truth).double().mean())


def _contingency(a: Tensor, b: Tensor) -> np.ndarray:
    """(parts of a, parts of b) numbers of people."""
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(
            f"two partitions of the same people are needed, (n_annotators,) each and not empty; these have shapes "
            f"{tuple(a.shape)} and {tuple(b.shape)}."
        )
    if min(int(a.min()), int(b.min())) < 0:
        raise ValueError("a partition names its parts 0, 1, …; a negative number was given. Leave such people out.")
    a, b = a.cpu().long(), b.cpu().long()
    n_a, n_b = int(a.max()) + 1, int(b.max()) + 1
    return torch.bincount(a * n_b + b, minlength=n_a * n_b).view(n_a, n_b).numpy()


def _pairs(counts: np.ndarray) -> np.ndarray:
    return (counts * (counts - 1) // 2).sum()
