"""One metric for all on people whose metric and points are planted: docs/metric.md.

    python scripts/measure_metric.py answers --seeds 0 1 2     # accuracy and errors against answers of a person
    python scripts/measure_metric.py people --seeds 0 1 2      # errors against the number of people, by regulariser
    python scripts/measure_metric.py subspaces --seeds 0 1 2   # five answers a person, items in planes
    python scripts/measure_metric.py persona FOLDER --seeds 0 --answers 5 10 20 40

Figures are means over seeds ± standard errors. A point's error is the mean squared distance to the true one under the
true metric, as a share of what it is at the origin.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from palign.data.loading import load_preferences
from palign.data.preferences import Preferences
from palign.data.splits import split_by_row
from palign.data.synthetic_metric import MetricPopulation, make_metric_population
from palign.functional.metric.points import aligned_error, ideal_points
from palign.pipelines.arguments.metric import MetricArguments
from palign.pipelines.metric import FittedMetric, MetricRows, fit_all
from palign.pipelines.reward import first_rows

Record = dict[str, float]
QUIET = {"output_dir": "outputs/measure_metric"}


def accuracies(fitted: FittedMetric, rows: MetricRows) -> Record:
    """Share of held-out pairs in order, of the metric and of the baselines."""
    record = {}
    for name, scores in fitted.scores(rows.evaluation, rows.vectors(rows.evaluation)).items():
        gap = scores[:, 0] - scores[:, 1]
        record[name] = float(((gap > 0).double() + 0.5 * (gap == 0)).mean())
    return record


def fit(
    train: Preferences, test: Preferences, items: np.ndarray, **options: object
) -> tuple[FittedMetric, MetricRows]:
    """What palign metric fits of these rows."""
    rows = MetricRows(train, test, items, None, [])
    return fit_all(rows, MetricArguments(**(QUIET | options))), rows


def errors(fitted: FittedMetric, people: MetricPopulation) -> Record:
    """Of metric and points, in the items' own coordinates."""
    tensors = fitted.model.tensors
    basis, center = tensors["basis"], tensors["center"]
    metric = basis @ tensors["metric"] @ basis.T
    truth = torch.from_numpy(people.metric)
    inside: Tensor = ideal_points(tensors["metric"], tensors["shared"] + tensors["people"])
    points = center + inside @ torch.linalg.pinv(basis)
    true = torch.from_numpy(people.points)
    missed = ((points - true) @ truth * (points - true)).sum(1).mean()
    return {
        "metric error": aligned_error(metric, truth),
        "point error": float(missed / ((true @ truth) * true).sum(1).mean()),
    }


def answers(args: argparse.Namespace) -> Iterator[tuple[str, Record]]:
    """Full and low rank, 60 people, against answers of a person."""
    for rank in args.ranks:
        for n in args.answers or (3, 6, 12, 25, 50, 100):
            for seed in args.seeds:
                people = make_metric_population(n_annotators=60, rank=rank, n_items=200, seed=seed)
                train, test = (people.comparisons(k, seed=100 * seed + k) for k in (n, 40))
                fitted, rows = fit(train, test, people.items, seed=seed)
                yield f"rank {rank}, {n} answers", accuracies(fitted, rows) | errors(fitted, people)


def people(args: argparse.Namespace) -> Iterator[tuple[str, Record]]:
    """Rank 3 of 10, 15 answers a person, against people, by regulariser."""
    for n in (10, 30, 100, 300):
        for penalty in ("ridge", "balls", "nuclear", "joint_nuclear"):
            for seed in args.seeds:
                crowd = make_metric_population(n_annotators=n, rank=3, n_items=200, seed=seed)
                train, test = (crowd.comparisons(k, seed=100 * seed + k) for k in (15, 20))
                options = {"penalty": penalty, "baselines": False, "personal": "none", "seed": seed}
                fitted, rows = fit(train, test, crowd.items, **options)
                yield f"{n} people, {penalty}", accuracies(fitted, rows) | errors(fitted, crowd)


def subspaces(args: argparse.Namespace) -> Iterator[tuple[str, Record]]:
    """Six dimensions, items in twelve planes, five answers a person, all within one plane."""
    for n in (100, 400, 1600, 6400):
        for estimator in ("general", "subspaces"):
            for seed in args.seeds:
                shape = {"dim": 6, "n_subspaces": 12, "subspace_dim": 2, "n_items": 240, "sharpness": 2.0}
                crowd = make_metric_population(n_annotators=n, seed=seed, **shape)
                train, test = (crowd.comparisons(k, seed=100 * seed + k) for k in (5, 4))
                options = {"estimator": estimator, "penalty": "ridge", "baselines": False, "personal": "none"}
                options |= {"strengths": [0.1, 0.2]}
                fitted, rows = fit(train, test, crowd.items, seed=seed, **options)
                yield f"{n} people, {estimator}", {"metric error": errors(fitted, crowd)["metric error"]}


def persona(args: argparse.Namespace) -> Iterator[tuple[str, Record]]:
    """Real statements, people of four types: rows of make_persona.py and the statements' vectors in the folder."""
    folder = Path(args.folder)
    vectors = np.load(folder / "vectors.npy", allow_pickle=False).astype(np.float32)
    train, test = (load_preferences(folder / f"{part}.jsonl", n_embeddings=len(vectors)) for part in ("train", "test"))
    for n in args.answers or (5, 10, 20, 40):
        for seed in args.seeds:
            held = split_by_row(test, fraction=0.5, seed=seed)[1]
            fitted, rows = fit(first_rows(train, n), held, vectors, seed=seed)
            yield f"{n} answers", accuracies(fitted, rows) | {"own terms": float(fitted.model.config.personal_squares)}


WORLDS: dict[str, Callable[[argparse.Namespace], Iterator[tuple[str, Record]]]] = {
    "answers": answers, "people": people, "subspaces": subspaces, "persona": persona,
}  # fmt: skip


def main() -> None:
    """Print a line for each run, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("folder", nargs="?", help="persona: train.jsonl, test.jsonl, vectors.npy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--answers", type=int, nargs="+")
    parser.add_argument("--ranks", type=int, nargs="+", default=[10, 3], help="answers: of the metric, out of 10")
    args = parser.parse_args()
    table: dict[str, list[Record]] = {}
    start = time.process_time()
    for name, record in WORLDS[args.world](args):
        table.setdefault(name, []).append(record)
        print(json.dumps({"row": name, **{k: round(v, 4) for k, v in record.items()}}), flush=True)
    print(f"\n{time.process_time() - start:.0f} s of processor time\n")
    columns = list(next(iter(table.values()))[0])
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, records in table.items():
        cells = []
        for column in columns:
            values = np.array([record[column] for record in records])
            spread = f" ± {values.std(ddof=1) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.3f}{spread}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
