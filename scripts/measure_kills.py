"""How trainers survive `kill -9`: random points in a tiny run of each, and how far its end is from a whole one's.

    python scripts/measure_kills.py --n_points 20 --only mixture reward ppo fair embeddings
    python scripts/measure_kills.py --sigterm --n_points 20              # through the recipes, which then exit 143

Prints the tables of docs/interruption.md. Half of the points are moments drawn over the length of a run, half are
single writes, which are hit before, after or half-way; every third run is killed twice.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

for name, value in {
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1",
}.items():  # fmt: skip
    os.environ.setdefault(name, value)
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.worlds.kill_runs import RUNS  # noqa: E402
from tests.worlds.kills import difference, random_kills, survive, whole_run  # noqa: E402
from tests.worlds.terminated import ENDED, RECIPE_RUNS, Moment, end_and_go_on, in_child, n_steps, weights_of  # noqa: E402


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n_points", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=[*RUNS, *RECIPE_RUNS])
    parser.add_argument("--sigterm", action="store_true", help="ask recipes to end, where else runs are killed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.sigterm:
        print("| recipe | seconds | steps | points | ended with 143 | ended equal | largest difference | to end, s |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name in args.only or list(RECIPE_RUNS):
            with tempfile.TemporaryDirectory() as folder:
                measure_sigterm(name, Path(folder), args.n_points, args.seed)
        return
    print("| run | seconds | writes | points | kills | ended equal | largest difference | two whole runs |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in args.only or list(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder), args.n_points, args.seed)


def measure(name: str, folder: Path, n_points: int, seed: int) -> None:
    """One row of the table; a run that did not end says what it said."""
    run, start = RUNS[name], time.monotonic()
    expected, seconds, n_writes = whole_run(run, folder / "whole")
    again, _, _ = whole_run(run, folder / "again")
    points = [
        survive(run, folder / f"point{number}", expected, kills)
        for number, kills in enumerate(random_kills(n_points, seconds, n_writes, seed=seed))
    ]
    ended = [point.difference for point in points if not point.failure]
    equal = sum(gap <= 1e-6 for gap in ended)
    print(
        f"| {name} | {seconds:.1f} | {n_writes} | {n_points} | {sum(len(p.kills) for p in points)} | {equal} | "
        f"{max(ended, default=float('nan')):.1e} | {difference(again, expected):.1e} |",
        flush=True,
    )
    for point in points:
        if point.failure or not point.difference <= 1e-6:
            print(f"{name}: {point.kills}: {point.difference}\n{point.failure}", file=sys.stderr)
    print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def measure_sigterm(name: str, folder: Path, n_points: int, seed: int) -> None:
    """One row of the table of SIGTERM: half of the signals within a step of training, half at moments drawn over the
    length of a recipe's run (all of them where nothing has steps).
    """
    start = time.monotonic()
    status, seconds = in_child(name, folder / "whole")
    if status != 0:
        raise RuntimeError((folder / "whole.log").read_text(errors="replace")[-3000:])
    expected, rng = dict(weights_of(name, folder / "whole")), np.random.default_rng(seed)
    steps, moments = n_steps(folder / "whole"), []
    for number in range(n_points):
        in_a_step = steps and number % 2 == 0
        at = (
            Moment(step=int(rng.integers(1, steps + 1)))
            if in_a_step
            else Moment(float(rng.uniform(0.02, 0.98)) * seconds)
        )
        moments.append(at)
    points = [end_and_go_on(name, folder / f"point{i}", expected, at) for i, at in enumerate(moments)]
    gaps = [point.difference for point in points]
    equal = sum(gap <= 1e-6 for gap in gaps)
    print(
        f"| {name} | {seconds:.1f} | {steps} | {n_points} | {sum(p.status == ENDED for p in points)} | {equal} | "
        f"{max(gaps):.1e} | {max((p.seconds for p in points if p.status == ENDED), default=0.0):.1f} |",
        flush=True,
    )
    for at, point in zip(moments, points, strict=True):
        if not point.difference <= 1e-6 or point.status not in (0, ENDED):
            print(f"{name} at {at}: {point.status}, {point.difference}\n{point.said}", file=sys.stderr)
    print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
