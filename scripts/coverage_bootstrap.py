"""How often does a 90 % interval of the gap between groups hold the truth? People resampled against rows resampled.

    python scripts/coverage_bootstrap.py [--repetitions 500] [--seed 0]

Each repetition draws people whose own accuracies differ (Beta about their group's mean, standard deviation .12), lets
each judge 10 to 30 pairs, and asks GroupFrame for the interval of the gap, once with people as the resampled unit and
once with rows. Prints one line per population: coverage by people, coverage by rows, mean width of both.
"""

import argparse

import numpy as np
import pandas as pd

from palign.evaluation.group_frame import GroupFrame

POPULATIONS = {  # people in each group, mean accuracy of each group
    "two groups, .65 and .80": ((20, 40), (0.65, 0.80)),
    "two groups, equal": ((20, 40), (0.70, 0.70)),
    "four groups, .60 to .84": ((15, 20, 30, 40), (0.60, 0.68, 0.76, 0.84)),
    "four groups, equal": ((15, 20, 30, 40), (0.70, 0.70, 0.70, 0.70)),
    "two groups of 5 and 8": ((5, 8), (0.65, 0.80)),
}
FURTHER = {  # more groups, other patterns
    "one group lower than three": ((15, 20, 30, 40), (0.60, 0.75, 0.75, 0.75)),
    "four groups, .68 to .72": ((15, 20, 30, 40), (0.68, 0.70, 0.71, 0.72)),
    "ten groups of 12, equal": ((12,) * 10, (0.70,) * 10),
    "twenty groups of 8, .60 to .80": ((8,) * 20, tuple(0.60 + 0.2 * k / 19 for k in range(20))),
}


def draw_table(
    sizes: tuple[int, ...], means: tuple[float, ...], rng: np.random.Generator, deviation: float = 0.12
) -> pd.DataFrame:
    """A row per judgement: ``annotator_id``, ``group``, ``row``, ``accuracy`` 0 or 1."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    mean = np.asarray(means)[group]
    total = mean * (1 - mean) / deviation**2 - 1
    own = rng.beta(mean * total, (1 - mean) * total)
    people = np.repeat(np.arange(len(own)), rng.integers(10, 31, len(own)))
    right = rng.random(len(people)) < own[people]
    columns = {"annotator_id": people, "group": group[people], "row": np.arange(len(people))}
    return pd.DataFrame({**columns, "accuracy": right.astype(float)})


def coverage(
    sizes: tuple[int, ...], means: tuple[float, ...], n_repetitions: int, seed: int, n_resamples: int = 500
) -> dict[str, tuple[float, float]]:
    """Unit of resampling → share of intervals that hold the true gap, and their mean width."""
    rng, truth = np.random.default_rng(seed), max(means) - min(means)
    held: dict[str, list[bool]] = {"annotator_id": [], "row": []}
    widths: dict[str, list[float]] = {unit: [] for unit in held}
    for repetition in range(n_repetitions):
        table = draw_table(sizes, means, rng)
        for unit in held:
            frame = GroupFrame(table, metrics="accuracy", groups="group", annotator_column=unit)
            low, high = frame.interval("gap", level=0.9, seed=repetition, n_resamples=n_resamples).loc["accuracy"]
            held[unit].append(low <= truth <= high)
            widths[unit].append(high - low)
    return {unit: (float(np.mean(held[unit])), float(np.mean(widths[unit]))) for unit in held}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Coverage of the 90 %% bootstrap interval of the gap between groups.")
    parser.add_argument("--repetitions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| population | people resampled | rows resampled | width, people | width, rows |\n|---|---|---|---|---|")
    for name, (sizes, means) in (POPULATIONS | FURTHER).items():
        found = coverage(sizes, means, options.repetitions, options.seed)
        (people, wide), (rows, narrow) = found["annotator_id"], found["row"]
        print(f"| {name} | {people:.3f} | {rows:.3f} | {wide:.3f} | {narrow:.3f} |", flush=True)


if __name__ == "__main__":
    main()
