"""How many people stand where on a line, from one answer each.

Who prefers a to b stands on a's side of the middle between them. So every pair asks whether somebody stands below a
*threshold*, and the people who were asked about it give the share of the population below it. The thresholds cut the
line into cells; what is sought are the cells' masses. On a line they are determined (Tatli, Nowak and Vinayak,
*Learning Populations of Preferences via Pairwise Comparison Queries*, AISTATS 2024); above one dimension they are not
(`palign.functional.populations.cells`).

Masses are found by regularised least squares on the simplex, min_p Σ_j n_j (F_j − share_j)² + ridge · n_cells ·
Σ_c (p_c − q_c)², F_j the mass below threshold j and q what is shrunk to: even masses, or those of the normal
population that makes the answers likeliest (which is ours). Without a ridge, F is the isotonic regression of the
shares.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr

__all__ = [
    "LineMasses", "Regularisation", "Thresholds", "choose_regularisation", "fit_masses", "isotonic",
    "normal_masses",
]  # fmt: skip

MAX_STEPS = 20_000
TOLERANCE = 1e-9
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # people that the target is worth
N_PARTS = 5


@dataclass(frozen=True)
class Thresholds:
    """Answers by the threshold they are about.

    Attributes:
        places: (n_thresholds,) rising.
        counts: (n_thresholds,) answers about each, or the weight of them.
        below: (n_thresholds,) those of people who stand below it.
    """

    places: np.ndarray
    counts: np.ndarray
    below: np.ndarray

    @classmethod
    def of(
        cls,
        chosen: np.ndarray,
        rejected: np.ndarray,
        weight: np.ndarray | None = None,
        *,
        places: np.ndarray | None = None,
    ) -> "Thresholds":
        """Of pairs of positions.

        Args:
            chosen, rejected: (n,) positions on the line.
            weight: (n,) what an answer counts for; 1 if None.
            places: (n_thresholds,) rising, if those of more answers than these are to be kept.

        Raises:
            ValueError: a position that is not finite, or a pair of one and the same.
        """
        chosen, rejected = np.asarray(chosen, dtype=float), np.asarray(rejected, dtype=float)
        bad = np.flatnonzero(~np.isfinite(chosen) | ~np.isfinite(rejected) | (chosen == rejected))
        if len(bad):
            row = int(bad[0])
            raise ValueError(
                f"Row {row} (counting from 0) compares the positions {chosen[row]} and {rejected[row]}; they must be "
                f"two different numbers, and {len(bad)} rows are not like that. Drop them, or mend the positions."
            )
        weight = np.ones(len(chosen)) if weight is None else np.asarray(weight, dtype=float)
        middle = (chosen + rejected) / 2
        places = np.unique(middle) if places is None else places
        number = np.searchsorted(places, middle)
        counts = np.bincount(number, weight, minlength=len(places))
        below = np.bincount(number, weight * (chosen < rejected), minlength=len(places))
        return cls(places, counts, below)

    @property
    def shares(self) -> np.ndarray:
        """(n_thresholds,) of the answers, below each threshold; half where nobody was asked."""
        return np.where(self.counts > 0, self.below / np.maximum(self.counts, 1e-300), 0.5)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class LineMasses:
    """Masses of cells.

    Attributes:
        places: (n_thresholds,) where cells end; there is one cell more than thresholds.
        masses: (n_thresholds + 1,) on the simplex, from below all thresholds to above them.
        ridge: people that the target was worth.
        n_steps: of the solver.
    """

    places: np.ndarray
    masses: np.ndarray
    ridge: float
    n_steps: int

    @property
    def below(self) -> np.ndarray:
        """(n_thresholds,) mass below each threshold."""
        return np.cumsum(self.masses)[:-1]


def isotonic(shares: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The rising sequence (n,) nearest to shares in weighted squares: neighbours that fall are pooled.

    Thresholds without an answer take the value of the pool below them, or above where there is none.
    """
    pools: list[list[float]] = []  # sum, weight, number of thresholds
    for share, count in zip(shares, counts, strict=True):
        pools.append([share * count, count, 1])
        while len(pools) > 1 and _falls(pools[-2], pools[-1]):
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    values = np.array([total / weight if weight > 0 else np.nan for total, weight, _ in pools])
    known = np.flatnonzero(~np.isnan(values))
    if len(known) == 0:
        return np.full(len(shares), 0.5)
    values = values[known[np.clip(np.searchsorted(known, np.arange(len(values)), side="right") - 1, 0, None)]]
    return np.repeat(values, [int(n) for _, _, n in pools])


def _falls(first: list[float], second: list[float]) -> bool:
    return first[1] > 0 and second[1] > 0 and first[0] / first[1] >= second[0] / second[1]


def fit_masses(answers: Thresholds, *, ridge: float = 0.0, target: np.ndarray | None = None) -> LineMasses:
    """Masses of the cells (see above).

    Args:
        ridge: people that the target is worth; 0 leaves the isotonic regression.
        target: (n_cells,) what is shrunk to, on the simplex; even masses if None.

    Raises:
        ValueError: no answer, or a ridge below 0.
        RuntimeError: no optimum after 20,000 steps (says how far).
    """
    if len(answers) == 0 or not answers.counts.sum() > 0:
        raise ValueError("There is no answer to learn masses from.")
    if not ridge >= 0:
        raise ValueError(f"ridge is {ridge}; it counts people that even shares are worth: 0 or more.")
    n_cells = len(answers) + 1
    target = np.full(n_cells, 1 / n_cells) if target is None else target
    if ridge == 0:
        edges = np.concatenate([[0.0], np.clip(isotonic(answers.shares, answers.counts), 0, 1), [1.0]])
        return LineMasses(answers.places, np.diff(edges), 0.0, 0)
    masses, n_steps = _descend(answers, ridge, target)
    return LineMasses(answers.places, masses, ridge, n_steps)


def _descend(answers: Thresholds, ridge: float, target: np.ndarray) -> tuple[np.ndarray, int]:
    """Accelerated projected gradient steps until the duality gap over the simplex is small."""
    shares, weight = answers.shares, answers.counts / answers.counts.sum()
    ridge = ridge / answers.counts.sum()

    def gradient(p: np.ndarray) -> np.ndarray:
        off = weight * (np.cumsum(p)[:-1] - shares)
        return 2 * np.append(np.cumsum(off[::-1])[::-1], 0.0) + 2 * ridge * len(p) * (p - target)

    top = 2 * _largest_curvature(weight, len(target)) + 2 * ridge * len(target)
    now = ahead = target
    momentum, gap = 1.0, np.inf
    for step in range(1, MAX_STEPS + 1):
        new = _onto_simplex(ahead - gradient(ahead) / top)
        if (ahead - new) @ (new - now) > 0:
            momentum, ahead = 1.0, new
        else:
            after = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            ahead, momentum = new + (momentum - 1) / after * (new - now), after
        now = new
        if step % 20 == 0:
            slope = gradient(now)
            gap = float(slope @ now - slope.min())
            if gap <= TOLERANCE:
                return now, step
    raise RuntimeError(
        f"The masses are not at their optimum after {MAX_STEPS} steps: the duality gap is {gap:.2g}, and "
        f"{TOLERANCE:.0e} was asked. Ask about fewer thresholds, or merge those that lie close together (--n_cells)."
    )


def _largest_curvature(weight: np.ndarray, n_cells: int) -> float:
    """Of Σ_j weight_j (Σ_{c ≤ j} p_c)²: its matrix has entries Σ_{j ≥ max(c, d)} weight_j."""
    tail = np.append(np.cumsum(weight[::-1])[::-1], 0.0)
    vector = np.ones(n_cells)
    top = 0.0
    for _ in range(50):
        vector = vector / np.linalg.norm(vector)
        vector = np.append(np.cumsum((weight * np.cumsum(vector)[:-1])[::-1])[::-1], 0.0)
        top = float(np.linalg.norm(vector))
    return max(top, float(tail[0]) * 1e-3) * 1.02


def _onto_simplex(values: np.ndarray) -> np.ndarray:
    """The nearest point of the simplex (Held, Wolfe and Crowder 1974)."""
    falling = np.sort(values)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(values) + 1)
    return np.maximum(values - excess[np.flatnonzero(falling > excess)[-1]], 0.0)


def normal_masses(answers: Thresholds) -> np.ndarray:
    """(n_thresholds + 1,) masses of the normal population under which the answers are likeliest (a probit regression).

    Where the answers do not rise along the line a normal says nothing: even masses.
    """
    spread = float(np.ptp(answers.places)) or 1.0
    places = (answers.places - answers.places.mean()) / spread

    def loss(at: np.ndarray) -> float:
        z = np.exp(at[1]) * places - at[0]
        return -float((answers.below * log_ndtr(z) + (answers.counts - answers.below) * log_ndtr(-z)).sum())

    solution = minimize(loss, np.array([0.0, 0.0]), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6})
    if not np.isfinite(solution.x).all() or not -4 < solution.x[1] < 6:
        return np.full(len(answers) + 1, 1 / (len(answers) + 1))
    below = ndtr(np.exp(solution.x[1]) * places - solution.x[0])
    return np.diff(np.concatenate([[0.0], below, [1.0]]))


TARGETS = {"none": None, "even": lambda answers: None, "normal": normal_masses}


@dataclass(frozen=True)
class Regularisation:
    """What people held out chose: `target` (`none`, `even`, `normal`), `ridge`, and (target, ridge, squared error of a
    foretold answer) of all that were tried.
    """

    target: str
    ridge: float
    table: list[tuple[str, float, float]]

    def fit(self, answers: Thresholds) -> LineMasses:
        """Masses under it."""
        target = None if self.target == "none" else TARGETS[self.target](answers)
        return fit_masses(answers, ridge=self.ridge, target=target)


def choose_regularisation(
    chosen: np.ndarray, rejected: np.ndarray, person: np.ndarray, *, seed: int = 0
) -> Regularisation:
    """The target and the ridge under which answers of people held out are foretold best.

    Args:
        chosen, rejected: (n,) positions.
        person: (n,) int64, who are held out in five parts.
        seed: of the parts.
    """
    whole = Thresholds.of(chosen, rejected)
    part = np.random.default_rng(seed).permutation(int(person.max()) + 1)[person] % N_PARTS
    says = (chosen < rejected).astype(float)
    number = np.searchsorted(whole.places, (chosen + rejected) / 2)
    options = [("none", 0.0), *((name, ridge) for name in ("even", "normal") for ridge in RIDGES)]
    table = []
    for name, ridge in options:
        errors = []
        for held in np.unique(part):
            out = part == held
            if out.all():
                continue
            kept = Thresholds.of(chosen[~out], rejected[~out], places=whole.places)
            foretold = Regularisation(name, ridge, []).fit(kept).below[number[out]]
            errors.append(np.square(foretold - says[out]))
        table.append((name, ridge, float(np.concatenate(errors).mean()) if errors else 0.0))
    best = min(table, key=lambda entry: entry[2])
    return Regularisation(best[0], best[1], table)
