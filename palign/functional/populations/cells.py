"""Above one dimension: what one answer a person says of where people stand, and what it does not.

Each pair cuts space by the hyperplane of points as near to one item as to the other, and the people who were asked
about it give the share on either side. The cells between hyperplanes have masses that those shares do not determine:
several populations give the same answers. What is known of a cell are the least and the greatest mass that fit, two
linear programmes. Source: Tatli, Nowak and Vinayak (AISTATS 2024), who show that above one dimension masses are not
identifiable and propose a regularised solution.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog, nnls

__all__ = ["CellBounds", "bound_cells", "find_cells", "hyperplanes"]

MOST_CELLS = 2000
MARGIN = 1e-7  # a cell must hold a ball of that radius, in units of the items' spread


@dataclass(frozen=True)
class CellBounds:
    """What is known of each cell.

    Attributes:
        sides: (n_cells, n_pairs) int8, +1 on the side of the pair's first item.
        low, high: (n_cells,) least and greatest mass that fits the shares within their intervals.
        even: (n_cells,) the masses nearest to equal ones among those that fit best: one of many.
        slack: how far the best fit is off, summed over pairs, beyond the intervals; 0 where some population fits.
    """

    sides: np.ndarray
    low: np.ndarray
    high: np.ndarray
    even: np.ndarray
    slack: float


def hyperplanes(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals (n_pairs, dim) of length one and offsets (n_pairs,): x is nearer to first where normal · x > offset."""
    normal = first - second
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return normal / length, ((first**2).sum(1) - (second**2).sum(1)) / (2 * length[:, 0])


def find_cells(normals: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(n_cells, n_pairs) int8: every combination of sides that some point has, one hyperplane after the other.

    Raises:
        ValueError: more than 2,000 cells.
    """
    cells = [np.zeros(0, dtype=np.int8)]
    for n in range(1, len(normals) + 1):
        grown = [np.append(cell, side).astype(np.int8) for cell in cells for side in (-1, 1)]
        cells = [cell for cell in grown if _has_room(cell, normals[:n], offsets[:n])]
        if len(cells) > MOST_CELLS:
            raise ValueError(
                f"{len(normals)} pairs cut space into more than {MOST_CELLS:,} cells. Ask what is known of fewer "
                "pairs, or put the items on a line."
            )
    return np.stack(cells)


def _has_room(sides: np.ndarray, normals: np.ndarray, offsets: np.ndarray) -> bool:
    """Whether a ball of some size lies in a cell: a linear programme for the largest, at most of radius one."""
    dim = normals.shape[1]
    rows = np.hstack([-sides[:, None] * normals, np.ones((len(sides), 1))])
    solution = linprog(
        np.append(np.zeros(dim), -1.0), A_ub=rows, b_ub=-sides * offsets, bounds=[(None, None)] * dim + [(0, 1)]
    )
    return bool(solution.status == 0 and -solution.fun > MARGIN)


def bound_cells(sides: np.ndarray, low: np.ndarray, high: np.ndarray) -> CellBounds:
    """Bounds of each cell's mass, given an interval for the share on the first item's side of each pair.

    Args:
        sides: (n_cells, n_pairs), as `find_cells` gives.
        low, high: (n_pairs,) ends of the intervals.

    Raises:
        RuntimeError: a linear programme that cannot be solved (says of which cell).
    """
    n_cells, n_pairs = sides.shape
    member = (sides > 0).astype(float).T
    # Shares drawn from people asked about different pairs need not fit together exactly: the least slack comes first.
    slack = linprog(
        np.concatenate([np.zeros(n_cells), np.ones(n_pairs)]),
        A_ub=np.block([[member, -np.eye(n_pairs)], [-member, -np.eye(n_pairs)]]),
        b_ub=np.concatenate([high, -low]),
        A_eq=np.concatenate([np.ones(n_cells), np.zeros(n_pairs)])[None],
        b_eq=[1.0],
    )
    if slack.status != 0:
        raise RuntimeError(f"No masses fit the shares ({slack.message}).")
    missed = np.maximum(slack.x[n_cells:], 0) + 1e-9
    rows, limits = np.vstack([member, -member]), np.concatenate([high + missed, -(low - missed)])
    ends = np.empty((2, n_cells))
    for cell in range(n_cells):
        for which, sign in enumerate((1.0, -1.0)):
            solution = linprog(
                sign * np.eye(n_cells)[cell], A_ub=rows, b_ub=limits, A_eq=np.ones((1, n_cells)), b_eq=[1.0]
            )
            if solution.status != 0:
                raise RuntimeError(f"The mass of cell {cell} cannot be bounded ({solution.message}).")
            ends[which, cell] = sign * solution.fun
    even = _nearest_to_even(member, (low + high) / 2)
    return CellBounds(sides, np.clip(ends[0], 0, 1), np.clip(ends[1], 0, 1), even, float(max(slack.fun, 0.0)))


def _nearest_to_even(member: np.ndarray, shares: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """min Σ_j (mass on the first side − share)² + ridge Σ_c (p_c − 1/n)² over the simplex, by non-negative squares."""
    n_cells = member.shape[1]
    heavy = 1e3  # of the row that holds the sum at one
    rows = np.vstack([member, np.sqrt(ridge) * np.eye(n_cells), heavy * np.ones((1, n_cells))])
    wanted = np.concatenate([shares, np.full(n_cells, np.sqrt(ridge) / n_cells), [heavy]])
    masses = nnls(rows, wanted, maxiter=50 * n_cells)[0]
    return masses / masses.sum()
