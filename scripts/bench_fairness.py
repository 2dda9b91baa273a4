"""Time and memory of GroupFrame at scale: 1,000,000 judgements by 10,000 annotators, five group columns.

    python scripts/bench_fairness.py [--judgements 1000000] [--annotators 10000] [--resamples 1000]

Prints, for each grouping, CPU seconds of this process for the frame alone and for the intervals of every statistic,
and the peak memory of the process so far. Groupings: each of five columns (2 to 50 groups; the value of `topic` is a
judgement's, not a person's), the intersection of three of them, and the annotators themselves.
"""

import argparse
import resource
import time

import numpy as np
import pandas as pd

from palign.evaluation.group_frame import STATISTICS, GroupFrame

GROUPS = {"sex": 2, "age": 6, "type": 4, "country": 50, "topic": 12}  # number of values of each column
BY_ROW = "topic"  # of a judgement, not of a person
INTERSECTION = ("sex", "age", "country")


def draw_table(n_judgements: int, n_annotators: int, seed: int = 0) -> pd.DataFrame:
    """A row per judgement, two metrics, the five group columns as texts with gaps, ids as texts."""
    rng = np.random.default_rng(seed)
    people = np.concatenate([np.arange(n_annotators), rng.integers(n_annotators, size=n_judgements - n_annotators)])
    columns: dict[str, np.ndarray] = {"annotator_id": np.array([f"worker {i}" for i in range(n_annotators)])[people]}
    for name, n_groups in GROUPS.items():
        values = np.array([*(f"{name} {k}" for k in range(n_groups - 1)), None], dtype=object)
        of = rng.integers(n_groups, size=n_judgements if name == BY_ROW else n_annotators)
        columns[name] = values[of if name == BY_ROW else of[people]]
    own = rng.beta(14, 6, n_annotators)[people]
    right = (rng.random(n_judgements) < own).astype(float)
    return pd.DataFrame({**columns, "accuracy": right, "log_likelihood": np.log(0.2 + 0.6 * right)})


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="Time and memory of the fairness frame.")
    parser.add_argument("--judgements", type=int, default=1_000_000)
    parser.add_argument("--annotators", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    table = draw_table(options.judgements, options.annotators)
    print(f"the table itself: {_peak():.2f} GiB\n")
    print("| groups | n | frame, s | intervals, s | peak memory, GiB |\n|---|---|---|---|---|")
    for groups in (*GROUPS, INTERSECTION, "annotator_id"):
        start = time.process_time()
        frame = GroupFrame(table, metrics=["accuracy", "log_likelihood"], groups=groups)
        built = time.process_time()
        of_people = groups == "annotator_id"
        statistics = [stat for stat in STATISTICS if not (of_people and stat == "by_group")]
        frame.intervals(statistics, n_resamples=options.resamples)
        done = time.process_time()
        name = groups if isinstance(groups, str) else " × ".join(groups)
        n_groups = len(frame.by_group)
        print(f"| {name} | {n_groups:,} | {built - start:.1f} | {done - built:.1f} | {_peak():.2f} |", flush=True)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
