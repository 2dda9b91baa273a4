"""Small linear programmes of a matrix game, solved without rounding: simplex on whole numbers.

A float64 is a whole number times a power of two, so a table of them is a table of whole numbers in some unit. Pivots
that divide by the previous pivot (Edmonds 1967) keep them whole. There are no tolerances: a tie is a tie, the second
aim is pursued on exactly those weights that are best for the first, and answers are rounded once, at the end. HiGHS,
whose tolerances are absolute, missed the value of one of 668 random tables of mixed scale by half; it serves for
tables of more than `EXACT_LIMIT` rows and columns, where whole numbers grow long.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog

__all__ = ["GameSolution", "solve_matrix_game"]

EXACT_LIMIT = 32  # both sides above it: half a second at 40 × 40, a minute at 80 × 80


@dataclass(frozen=True)
class GameSolution:
    """Solution of min over weights of max(0, max_i (table @ weights)_i).

    Attributes:
        column_weights: (n_columns,) ≥ 0 of sum 1.
        row_weights: (n_rows,) ≥ 0, a solution of the dual: of sum 1 if the value is above 0, else of sum ≤ 1.
        value: of the game.
    """

    column_weights: np.ndarray
    row_weights: np.ndarray
    value: float


def solve_matrix_game(table: np.ndarray) -> GameSolution:
    """min over the simplex of max(0, max_i (table @ w)_i); among equals the w of the least mean of table @ w.

    Args:
        table: (n_rows, n_columns) finite float64.
    """
    if min(table.shape) > EXACT_LIMIT:
        return _by_highs(table)
    dictionary = _Dictionary(*_whole_numbers(table))
    dictionary.make_feasible()
    dictionary.minimise(objective=-2)
    dictionary.minimise(objective=-1)
    return dictionary.solution()


def _by_highs(table: np.ndarray) -> GameSolution:
    """The same in floating point: the second programme may spend 1e-10 of the largest entry on the mean."""
    n_rows, n_columns = table.shape
    unit = float(np.abs(table).max()) or 1.0
    constraints = {
        "A_ub": np.hstack([table / unit, -np.ones((n_rows, 1))]),
        "b_ub": np.zeros(n_rows),
        "A_eq": np.append(np.ones(n_columns), 0.0)[None],
        "b_eq": [1.0],
        "method": "highs-ds",
        "options": {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    }
    first = linprog(np.append(np.zeros(n_columns), 1.0), **constraints)
    ceiling = [(0, None)] * n_columns + [(0, first.fun + 1e-10)]
    second = linprog(np.append(table.mean(0) / unit, 0.0), **constraints, bounds=ceiling)
    if not first.success:
        raise RuntimeError(f"HiGHS did not solve the game of {n_rows} × {n_columns}: {first.message}")
    best = second if second.success else first
    weights = np.clip(best.x[:-1], 0.0, None)
    duals = np.clip(-first.ineqlin.marginals, 0.0, None)
    return GameSolution(weights / weights.sum(), duals / max(1.0, duals.sum()), first.fun * unit)


def _whole_numbers(table: np.ndarray) -> tuple[np.ndarray, int]:
    """Python integers and the denominator they share."""
    ratios = [[float(x).as_integer_ratio() for x in row] for row in table]
    unit = max(d for row in ratios for _, d in row)  # powers of two: the largest is a multiple of all
    whole = np.empty(table.shape, dtype=object)
    for i, row in enumerate(ratios):
        for j, (numerator, denominator) in enumerate(row):
            whole[i, j] = numerator * (unit // denominator)
    return whole, unit


class _Dictionary:
    """Basic variables as affine functions of the others: x_B = (T[:, -1] + T[:, :-1] x_N) / denominator.

    Variables: 0 … n−1 the weights w, n the value v, n+1 … n+m the slacks s_i = v − (table w)_i, all ≥ 0. Σ w = 1 is
    used up to make w_0 basic. The last two rows are what is minimised: v, then Σ_i (table w)_i.
    """

    def __init__(self, table: np.ndarray, unit: int) -> None:
        m, n = table.shape
        self.m, self.n, self.unit = m, n, unit
        self.basic = [0, *range(n + 1, n + 1 + m)]
        self.others = [*range(1, n), n]
        self.denominator = 1
        rows = np.zeros((m + 3, n + 1), dtype=object)
        rows[0, : n - 1], rows[0, n] = -1, 1
        rows[1 : m + 1, : n - 1] = table[:, :1] - table[:, 1:]
        rows[1 : m + 1, n - 1] = 1
        rows[1 : m + 1, n] = -table[:, 0]
        rows[m + 1, n - 1] = 1
        rows[m + 2] = -rows[1 : m + 1].sum(0)
        rows[m + 2, n - 1] = 0
        self.rows = rows

    def make_feasible(self) -> None:
        """All weight on the first column: v rises to what its worst row asks."""
        slacks = self.rows[1 : self.m + 1, -1]
        worst = min(range(self.m), key=lambda i: slacks[i])
        if slacks[worst] < 0:
            self.pivot(worst + 1, self.n - 1)

    def minimise(self, objective: int) -> None:
        """Simplex steps on one of the last rows, along columns that leave the rows of objectives above it alone.

        The steepest column first; after many steps Bland's rule, which cannot cycle.
        """
        above = self.rows.shape[0] - 2
        patience = 20 * (self.m + self.n)
        while True:
            row = self.rows[objective]
            is_fixed = (self.rows[above:objective] != 0).any(0)
            falling = [c for c in range(self.n) if row[c] < 0 and not is_fixed[c]]
            if not falling:
                return
            steepness = [row[c] if patience > 0 else 0 for c in falling]
            column = min(zip(steepness, (self.others[c] for c in falling), falling, strict=True))[2]
            self.pivot(self._leaving(column), column)
            patience -= 1

    def _leaving(self, column: int) -> int:
        """The row that reaches 0 first, ties by the number of its variable."""
        best = None
        for r in range(self.m + 1):
            slope = -self.rows[r, column]
            if slope > 0:
                room = self.rows[r, -1]
                if best is not None:
                    difference = room * best[1] - best[0] * slope
                if best is None or difference < 0 or (difference == 0 and self.basic[r] < self.basic[best[2]]):
                    best = (room, slope, r)
        assert best is not None, "weights lie in a simplex: no direction is unbounded"
        return best[2]

    def pivot(self, r: int, c: int) -> None:
        """Variable `others[c]` becomes basic in place of `basic[r]`."""
        rows, pivot = self.rows, self.rows[r, c]
        sign = 1 if pivot > 0 else -1
        updated = (rows * pivot - np.outer(rows[:, c], rows[r])) * sign // self.denominator
        updated[:, c] = sign * rows[:, c]
        updated[r] = -sign * rows[r]
        updated[r, c] = sign * self.denominator
        self.rows, self.denominator = updated, abs(pivot)
        self.basic[r], self.others[c] = self.others[c], self.basic[r]

    def solution(self) -> GameSolution:
        """Where the dictionary stands, rounded to float64."""
        values = dict(zip(self.basic, self.rows[: self.m + 1, -1], strict=True))
        weights = [values.get(j, 0) for j in range(self.n)]
        value = float(Fraction(values.get(self.n, 0), self.denominator * self.unit))
        prices = dict(zip(self.others, self.rows[self.m + 1, :-1], strict=True))
        duals = [prices.get(self.n + 1 + i, 0) for i in range(self.m)]
        return GameSolution(self._rounded(weights), self._rounded(duals), value)

    def _rounded(self, numerators: list[int]) -> np.ndarray:
        return np.array([float(Fraction(x, self.denominator)) for x in numerators])
