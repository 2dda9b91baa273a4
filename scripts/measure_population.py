"""Masses of cells on a line, planted and found again from one answer a person: docs/populations.md.

    python scripts/measure_population.py line --seeds 0 1 2 3 4 5 6 7
    python scripts/measure_population.py plane --seeds 0 1 2 3

`line`: two camps, nine items, one noiseless answer a person; total variation between found and true masses, and the
share of 90 % intervals that hold the true mass. `plane`: two dimensions, eight pairs; whether bounds hold, how wide
they are, and how far the regularised solution is from the truth.
"""

import argparse
from collections import defaultdict

import numpy as np

from palign.functional.populations.cells import bound_cells, find_cells, hyperplanes
from palign.functional.populations.line import Thresholds, choose_regularisation, fit_masses
from palign.functional.populations.posterior import cell_spans, mass_draws

N_TRUE = 400_000
Table = dict[str, dict[str, list[float]]]


def camps(n: int, rng: np.random.Generator) -> np.ndarray:
    """Two fifths about −1, three fifths about .8."""
    first = rng.random(n) < 0.4
    return np.where(first, rng.normal(-1, 0.3, n), rng.normal(0.8, 0.4, n))


def line(seeds: list[int], flip: float) -> Table:
    """Against the number of people, and with two answers of each."""
    table: Table = defaultdict(lambda: defaultdict(list))
    for n, n_answers in ((100, 1), (300, 1), (1000, 1), (3000, 1), (10_000, 1), (300, 2), (1000, 2)):
        for seed in seeds:
            rng = np.random.default_rng(seed)
            items, person = np.linspace(-2, 2, 9), np.repeat(np.arange(n), n_answers)
            points = camps(n, rng)[person]
            first = rng.integers(9, size=len(person))
            second = (first + rng.integers(1, 9, size=len(person))) % 9
            wins = np.abs(points - items[first]) < np.abs(points - items[second])
            wins ^= rng.random(len(wins)) < flip
            chosen, rejected = np.where(wins, items[first], items[second]), np.where(wins, items[second], items[first])
            whole = Thresholds.of(chosen, rejected)
            truth = np.histogram(camps(N_TRUE, rng), [-99, *whole.places, 99])[0] / N_TRUE
            begin, end = cell_spans(chosen, rejected, person, whole.places)
            agree = end >= begin
            draws = mass_draws(begin[agree], end[agree], len(truth), seed=seed)
            low, high = np.quantile(draws, [0.05, 0.95], axis=0)
            estimates = {
                "least squares": choose_regularisation(chosen, rejected, person, seed=seed).fit(whole).masses,
                "without ridge": fit_masses(whole).masses, "posterior mean": draws.mean(0),
            }  # fmt: skip
            row = table[f"{n:,} people, {n_answers} answer{'s' if n_answers > 1 else ''}"]
            for name, masses in estimates.items():
                row[name].append(float(np.abs(masses - truth).sum() / 2))
            row["intervals that hold"].append(float(((low <= truth) & (truth <= high)).mean()))
            row["their width"].append(float((high - low).mean()))
    return table


def plane(seeds: list[int], flip: float) -> Table:
    """Eight pairs of items in the plane, two camps of people."""
    table: Table = defaultdict(lambda: defaultdict(list))
    for n in (400, 4000, 40_000):
        for seed in seeds:
            rng = np.random.default_rng(seed)
            items = rng.normal(size=(16, 2))
            normals, offsets = hyperplanes(items[:8], items[8:])
            sides = find_cells(normals, offsets)

            def people(count: int, rng: np.random.Generator = rng) -> np.ndarray:
                centre = np.where(rng.random((count, 1)) < 0.4, -0.8, 0.8)
                return centre + 0.6 * rng.normal(size=(count, 2))

            truth_sides = np.sign(people(N_TRUE) @ normals.T - offsets).astype(np.int8)
            truth = np.array([(truth_sides == cell).all(1).mean() for cell in sides])
            pair, points = rng.integers(8, size=n), people(n)
            wins = (points * normals[pair]).sum(1) > offsets[pair]
            counts, right = np.bincount(pair, minlength=8), np.bincount(pair, wins, minlength=8)
            share = right / counts
            error = 1.645 * np.sqrt(np.maximum(share * (1 - share), 1 / counts) / counts)
            bounds = bound_cells(sides, np.clip(share - error, 0, 1), np.clip(share + error, 0, 1))
            row = table[f"{n:,} people"]
            row["cells"].append(float(len(sides)))
            row["bounds that hold"].append(float(((bounds.low <= truth) & (truth <= bounds.high)).mean()))
            row["their width"].append(float((bounds.high - bounds.low).mean()))
            row["nearest to even"].append(float(np.abs(bounds.even - truth).sum() / 2))
            row["equal masses"].append(float(np.abs(1 / len(truth) - truth).sum() / 2))
    return table


def main() -> None:
    """Print the table, means over seeds ± standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=("line", "plane"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--flip", type=float, default=0.0, help="line: share of answers that are turned round")
    args = parser.parse_args()
    table = {"line": line, "plane": plane}[args.world](args.seeds, args.flip)
    columns = list(next(iter(table.values())))
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, row in table.items():
        cells = [f"{np.mean(v):.3f} ± {np.std(v, ddof=1) / len(v) ** 0.5:.3f}" for v in row.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
