"""How sure one can be of masses on a line: their posterior, by Gibbs draws.

Each person is known to stand in some cells next to one another: one answer leaves all on one side of a threshold, two
answers may leave those between two. Given the masses, everybody is put into one of their cells; given who is in which
cell, the masses have a Dirichlet posterior. Resampled people will not do here: least squares on the simplex often
gives a cell no mass at all, and so do nearly all of its resamples.
"""

import numpy as np

__all__ = ["cell_spans", "mass_draws"]

PRIOR = 0.5  # people in each cell beforehand (Jeffreys)
BURN_IN = 500
THINNING = 5  # steps to a draw: neighbours are much alike
MOST_GROUPS = 400  # of people alike who are put into cells together


def cell_spans(
    chosen: np.ndarray, rejected: np.ndarray, person: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and last cell (n_people,) that a person can be in by all their answers; last < first where none agrees.

    Args:
        chosen, rejected: (n,) positions; person: (n,) int64.
        places: (n_thresholds,) rising, the middles among them.
    """
    number = np.searchsorted(places, (chosen + rejected) / 2)
    n_people = int(person.max()) + 1
    first, last = np.zeros(n_people, dtype=np.int64), np.full(n_people, len(places))
    below = chosen < rejected
    np.minimum.at(last, person[below], number[below])
    np.maximum.at(first, person[~below], number[~below] + 1)
    return first, last


def mass_draws(first: np.ndarray, last: np.ndarray, n_cells: int, *, n_draws: int = 800, seed: int = 0) -> np.ndarray:
    """(n_draws, n_cells) masses from the posterior, a person and cells that they may be in each (n_people,).

    Raises:
        ValueError: somebody has no cell.
    """
    if (last < first).any():
        raise ValueError(f"{int((last < first).sum())} people have no cell that fits their answers; leave them out.")
    rng = np.random.default_rng(seed)
    spans, counts = np.unique(np.stack([first, last], 1), axis=0, return_counts=True)
    if len(spans) > MOST_GROUPS:
        spans, counts = np.stack([first, last], 1), np.ones(len(first), dtype=np.int64)
    masses, draws = np.full(n_cells, 1 / n_cells), np.empty((n_draws, n_cells))
    for step in range(BURN_IN + n_draws * THINNING):
        inside = _in_groups if len(spans) <= MOST_GROUPS else _one_by_one
        masses = rng.dirichlet(inside(masses, spans, counts, rng) + PRIOR)
        if step >= BURN_IN:
            draws[(step - BURN_IN) // THINNING] = masses
    return draws


def _in_groups(masses: np.ndarray, spans: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n_cells,) people put into each cell, those of one span together."""
    inside = np.zeros(len(masses))
    for (low, high), count in zip(spans.tolist(), counts.tolist(), strict=True):
        part = masses[low : high + 1]
        inside[low : high + 1] += rng.multinomial(count, part / part.sum())
    return inside


def _one_by_one(masses: np.ndarray, spans: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same, each person by a uniform number between the ends of their span."""
    edges = np.concatenate([[0.0], np.cumsum(masses)])
    low, high = edges[spans[:, 0]], edges[spans[:, 1] + 1]
    cells = np.searchsorted(edges, low + rng.random(len(spans)) * (high - low), side="right") - 1
    return np.bincount(np.clip(cells, spans[:, 0], spans[:, 1]), minlength=len(masses))
