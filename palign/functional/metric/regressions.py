"""A logistic regression of everybody's own, side by side: Newton steps for the weights of a person's pairs, of
which there are fewer than features.

The problem is that of a Gaussian process with a linear kernel: Rasmussen and Williams (2006), algorithm 3.1, with
halved steps where a whole one does not help.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from palign.functional.metric.comparisons import Comparisons

__all__ = ["fit_each"]

MAX_STEPS = 50
TOLERANCE = 1e-8  # gain of a step, relative to the losses at zero
MOST_ENTRIES = 4_000_000  # of kernels at a time


def fit_each(pairs: Comparisons, ridge: Tensor) -> Tensor:
    """(n_people, dim): argmin of Σ weight · log(1 + exp(−margin)) + ½ Σ_j ridge_j θ_j² for each person, where a
    margin is what the pair's `item_rewards` say (0 if there are none) and differences · θ.

    Args:
        ridge: (dim,) positive.

    Raises:
        ValueError: a ridge that is not positive.
        RuntimeError: somebody is not at the optimum after 50 steps (says how many).
    """
    if not bool((ridge > 0).all()):
        raise ValueError("Every ridge must be positive, or a person of few pairs has no finite optimum.")
    known = torch.zeros(len(pairs), dtype=torch.float64)
    if pairs.item_rewards is not None:
        known = pairs.item_rewards[pairs.winner] - pairs.item_rewards[pairs.loser]
    features = pairs.differences / ridge.sqrt()
    theta = torch.zeros(pairs.n_people, pairs.dim, dtype=torch.float64)
    counts = torch.bincount(pairs.person, minlength=pairs.n_people)
    rows = torch.argsort(pairs.person, stable=True).split(counts.tolist())
    people = torch.argsort(counts, stable=True)
    people = people[counts[people] > 0].tolist()
    while people:
        longest = int(counts[people[-1]])
        block, people = people[-max(1, MOST_ENTRIES // longest**2) :], people[: -max(1, MOST_ENTRIES // longest**2)]
        padded = torch.full((len(block), longest), -1)
        for place, person in enumerate(block):
            padded[place, : len(rows[person])] = rows[person]
        present = padded >= 0
        x = features[padded] * present[..., None]
        share = _newton(x @ x.mT, pairs.weight[padded] * present, known[padded])
        theta[block] = (share[:, None] @ x)[:, 0] / ridge.sqrt()
    return theta


def _newton(kernel: Tensor, weight: Tensor, known: Tensor) -> Tensor:
    """Weights of pairs (people, n) at the optimum; kernel (people, n, n); weight 0 is padding."""
    eye = torch.eye(kernel.shape[1], dtype=kernel.dtype)
    share = torch.zeros_like(weight)

    def losses(share: Tensor) -> tuple[Tensor, Tensor]:
        scores = (kernel @ share[..., None])[..., 0]
        return (weight * F.softplus(-scores - known)).sum(1) + (share * scores).sum(1) / 2, scores

    value, scores = losses(share)
    allowed = TOLERANCE * value.clamp_min(1.0)
    for _ in range(MAX_STEPS):
        p = torch.sigmoid(-scores - known)
        curved = (weight * p * (1 - p)).clamp_min(1e-12).sqrt()
        wanted = curved.square() * scores + weight * p
        inner = eye + curved[..., None] * kernel * curved[:, None]
        solved = torch.linalg.solve(inner, (curved * (kernel @ wanted[..., None])[..., 0])[..., None])[..., 0]
        step, size = wanted - curved * solved - share, torch.ones_like(value)
        for _ in range(30):
            new_value, new_scores = losses(share + size[:, None] * step)
            worse = new_value > value
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
        better = new_value <= value
        gain = torch.where(better, value - new_value, 0.0)
        share = torch.where(better[:, None], share + size[:, None] * step, share)
        value, scores = torch.where(better, new_value, value), torch.where(better[:, None], new_scores, scores)
        if bool((gain <= allowed).all()):
            return share
    raise RuntimeError(
        f"{int((gain > allowed).sum())} of {len(share)} people are not at their optimum after {MAX_STEPS} Newton "
        "steps. Give a larger ridge, or look at the vectors for outliers."
    )
