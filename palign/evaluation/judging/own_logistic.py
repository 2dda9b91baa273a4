"""A reward of each person's own, of their earlier choices alone: logistic regression on the vectors that PAL reads.

What a shared model must beat to be worth anything for somebody: nothing is learned from others but one number, how
strongly all are shrunk.
"""

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences

if TYPE_CHECKING:
    from palign.models.pal import PALRewardModel

__all__ = ["fit_person", "own_logistic_scores"]

SPREADS = (0.25, 1.0, 4.0, 16.0)  # prior variances of the margin of a typical pair; one is chosen for everybody
HELD_OUT = 3  # every third row of a person, to choose it by


def own_logistic_scores(
    model: "PALRewardModel",
    earlier: Preferences,
    rows: Preferences,
    *,
    vectors: np.ndarray | None = None,
    batch_size: int = 32,
) -> tuple[np.ndarray, float, int]:
    """Scores (n_rows, max_items) of rows, each by its person's regression; the variance chosen; people without one.

    Args:
        model: whose vectors are read; its head is not.
        earlier: rows that people gave before; who has none there has the score 0 everywhere.
        rows: to score.
        vectors: where rows name vectors.
    """
    people = AnnotatorIndex(dict.fromkeys(earlier.annotator_ids))
    pairs, owner, weight = _pairs(model, earlier, people, vectors, batch_size)
    scale = np.sqrt((pairs**2).sum(1).mean()) or 1.0
    pairs = pairs / scale
    mine = [np.flatnonzero(owner == i) for i in range(len(people))]
    variance = _chosen_variance(pairs, weight, mine)
    directions = np.stack([fit_person(pairs[part], weight[part], variance=variance) for part in mine])
    data = model.row_tensors(rows, vectors, batch_size=batch_size)
    states = np.asarray(data.item_states.cpu(), dtype=np.float64)[data.item_indices.cpu().numpy()] / scale
    index = people.indices(rows.annotator_ids, unknown=-1)
    scores = np.einsum("nid,nd->ni", states, np.concatenate([directions, np.zeros((1, states.shape[-1]))])[index])
    scores[rows.ranks < 0] = 0.0
    return scores, variance, len({person for person, i in zip(rows.annotator_ids, index, strict=True) if i < 0})


def fit_person(pairs: np.ndarray, weight: np.ndarray, *, variance: float) -> np.ndarray:
    """Direction (hidden,) of one person: the maximum a posteriori of a logistic regression without a constant.

    Solved for the weights of the pairs, of which it is the sum: there are fewer pairs than coordinates.

    Args:
        pairs: (n_pairs, hidden), the better item less the worse one.
        weight: (n_pairs,) of each.
        variance: of the normal prior of each coordinate, for pairs of mean squared length 1.
    """
    kernel = pairs @ pairs.T

    def loss(a: np.ndarray) -> tuple[float, np.ndarray]:
        margins = kernel @ a
        value = float((weight * np.logaddexp(0.0, -margins)).sum() + a @ margins / (2 * variance))
        return value, kernel @ (a / variance - weight * expit(-margins))

    return pairs.T @ minimize(loss, np.zeros(len(pairs)), jac=True, method="L-BFGS-B").x


def _pairs(
    model: "PALRewardModel", rows: Preferences, people: AnnotatorIndex, vectors: np.ndarray | None, batch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n_pairs, hidden) better less worse, whose they are, and weights: all pairs of a row weigh one together."""
    data = model.row_tensors(rows, vectors, annotator_index=people.indices(rows.annotator_ids), batch_size=batch_size)
    ranks, items = data.ranks.cpu().numpy(), data.item_indices.cpu().numpy()
    row, better, worse = np.nonzero((ranks[:, :, None] < ranks[:, None, :]) & (ranks >= 0)[:, :, None])
    used, place = np.unique(items, return_inverse=True)
    states = np.asarray(data.item_states[used].cpu() if len(used) else data.item_states[:0].cpu(), dtype=np.float64)
    place = place.reshape(items.shape)
    differences = states[place[row, better]] - states[place[row, worse]]
    n_pairs = np.bincount(row, minlength=len(rows))
    return differences, data.annotator_index.cpu().numpy()[row], 1.0 / n_pairs[row]


def _chosen_variance(pairs: np.ndarray, weight: np.ndarray, mine: list[np.ndarray]) -> float:
    """The variance under which everybody's held-out pairs are likeliest."""
    parts = [(part[np.arange(len(part)) % HELD_OUT > 0], part[::HELD_OUT]) for part in mine if len(part) >= HELD_OUT]

    def likelihood(variance: float) -> float:
        total = 0.0
        for fitted, held in parts:
            direction = fit_person(pairs[fitted], weight[fitted], variance=variance)
            total -= float((weight[held] * np.logaddexp(0.0, -pairs[held] @ direction)).sum())
        return total

    return max(SPREADS, key=likelihood) if parts else 1.0
