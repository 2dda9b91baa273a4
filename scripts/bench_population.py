"""What a million people cost: rows, the linear head's EM, weight fits, the report and the guard; time, memory, truth.

    OMP_NUM_THREADS=1 python scripts/bench_population.py                    # 10,000, 100,000 and 1,000,000 people
    OMP_NUM_THREADS=1 python scripts/bench_population.py --n_annotators 10000 --stages people report

Everybody gives ten comparisons (`--n_each`) of two of 100,000 vectors (`--n_items`) of 32 numbers (`--dim`). People
are of four types (`palign.data.synthetic`, utility −‖x − z‖², logistic noise), so that what is found can be held
against the truth: a figure that is fast by being wrong would show. Each stage at each size is a process of its own;
its peak memory is that of the stage and of drawing the population. Seconds are CPU seconds of that process: wall
seconds of one thread on a core of its own.

Growth is the exponent between the smallest and the largest size, log(time ratio) / log(size ratio): 1 is linear.
"""

import argparse
import json
import logging
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.data.synthetic import GaussianPopulation, make_gaussian_population

N_TYPES, BETA, N_GROUPS = 4, 8.0, 50


class Clock:
    """Seconds by name, in order, and what was found beside them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.found: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Any:
        start = time.process_time()
        yield
        self.seconds[name] = time.process_time() - start
        print(f"  {name}: {self.seconds[name]:.1f} s, peak {peak():.1f} GiB so far", file=sys.stderr, flush=True)


def peak() -> float:
    """GiB, of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def draw(options: argparse.Namespace) -> tuple[GaussianPopulation, Preferences]:
    """People of known types and what they said."""
    population = make_gaussian_population(
        n_types=N_TYPES, n_annotators=options.size, n_items=options.n_items, dim=options.dim, seed=0
    )
    return population, population.comparisons(options.n_each, seed=1, beta=BETA)


def bench_rows(options: argparse.Namespace, clock: Clock) -> None:
    """Arrays → Preferences, everybody's index, saved and read again."""
    with clock.of("draw the population"):
        _, rows = draw(options)
    ids, chosen, rejected = rows.annotator_ids.copy(), *rows.item_indices.T
    with clock.of("Preferences.from_arrays"):
        rows = Preferences.from_arrays(ids, chosen, rejected)
    with clock.of("annotators and their rows' numbers"):
        people = rows.annotators()
        index = people.indices(rows.annotator_ids)
    with clock.of("one person in ten set apart"):
        apart = rows.take_annotators(people.ids[::10])
    with tempfile.TemporaryDirectory() as folder:
        with clock.of("annotators.json written"):
            people.save(Path(folder) / "annotators.json")
        with clock.of("annotators.json read"):
            again = AnnotatorIndex.load(Path(folder) / "annotators.json")
    assert again == people and len(apart) == options.n_each * len(people.ids[::10])
    assert bool((np.bincount(index) == options.n_each).all())


def bench_mixture(options: argparse.Namespace, clock: Clock) -> None:
    """The linear head: E-step, the whole fit with K given, newcomers, the mixture's files."""
    from palign.functional.evidence.votes import Votes
    from palign.functional.mixture import assign_rows, responsibilities
    from palign.functional.mixture_linear import fit_linear_mixture, linear_log_likelihoods, place_newcomers
    from palign.functional.partitions import type_accuracy
    from palign.models.files.mixture import MixtureRecord, load_mixture, save_mixture

    population, rows = draw(options)
    people = rows.annotators()
    truth = torch.from_numpy(population.types)
    features, true_theta = linear_features(population)
    index = torch.from_numpy(people.indices(rows.annotator_ids))
    ranks = torch.from_numpy(rows.ranks.astype(np.int64))
    said = Votes(torch.from_numpy(rows.item_indices), ranks, index, len(people))
    shares = torch.bincount(truth, minlength=N_TYPES).double() / len(truth)
    with clock.of("E-step (likelihoods and posterior)"):
        gamma = responsibilities(linear_log_likelihoods(true_theta, features, said), shares)
    clock.found["types told by the true utilities"] = type_accuracy(gamma.argmax(1), truth)
    with clock.of("whole fit, K = 4, 8 restarts"):
        fit = fit_linear_mixture(features, said, N_TYPES)
    clock.found["types told by the fit"] = type_accuracy(fit.responsibilities.argmax(1), truth)
    clock.found["gap between shares found and true"] = float(
        (fit.mixing_weights.sort().values - shares.sort().values).abs().max()
    )
    with clock.of("newcomers placed"):
        place_newcomers(fit.theta, fit.mixing_weights, features, said)
    with clock.of("one type drawn for every row"):
        assign_rows(fit.responsibilities, index, torch.Generator().manual_seed(0))
    record = MixtureRecord(
        people, fit.responsibilities.numpy(), torch.bincount(index).numpy(), fit.mixing_weights.numpy(), 0.1, 64, None
    )
    with tempfile.TemporaryDirectory() as folder:
        with clock.of("mixture written"):
            save_mixture(record, folder)
        with clock.of("mixture read"):
            again = load_mixture(folder)
    assert again.annotators == people and np.array_equal(again.responsibilities, record.responsibilities)


def bench_choice(options: argparse.Namespace, clock: Clock) -> None:
    """What looks at thousands of people, however many there are: K chosen, and whether there are types at all."""
    from palign.functional.evidence.votes import Votes
    from palign.functional.mixture_checks import permutation_test
    from palign.functional.mixture_type_count import choose_n_types

    population, rows = draw(options)
    people = rows.annotators()
    features, _ = linear_features(population)
    index = torch.from_numpy(people.indices(rows.annotator_ids))
    ranks = torch.from_numpy(rows.ranks.astype(np.int64))
    said = Votes(torch.from_numpy(rows.item_indices), ranks, index, len(people))
    with clock.of("K chosen among 3, 4 and 5"):
        clock.found["K chosen"] = choose_n_types(features, said, candidates=(3, 4, 5)).n_types
    with clock.of("permutation test, 19 shuffles"):
        clock.found["p of the permutation test"] = permutation_test(features, said, N_TYPES).value


def linear_features(population: GaussianPopulation) -> tuple[torch.Tensor, torch.Tensor]:
    """Items (n_items, dim + 1) in which −‖x − z‖² is linear, of unit variance; and θ (n_types, dim + 1) of it."""
    table = np.c_[population.items, np.square(population.items).sum(1)].astype(np.float64)
    scale = table.std(0)
    theta = BETA * np.c_[2 * population.prototypes, -np.ones(N_TYPES)] * scale
    return torch.from_numpy(((table - table.mean(0)) / scale).astype(np.float32)), torch.from_numpy(theta)


def bench_people(options: argparse.Namespace, clock: Clock) -> None:
    """A PAL head: training in at least 200 steps an epoch, files, and weights of as many newcomers."""
    from palign.functional.partitions import type_accuracy
    from palign.models.pal import PALRewardModel
    from palign.trainers.pal_reward_config import PALRewardConfig
    from palign.trainers.pal_reward_trainer import PALRewardTrainer

    population, rows = draw(options)
    truth = torch.from_numpy(population.types)
    model = PALRewardModel.from_embeddings(
        hidden_size=options.dim, n_prototypes=N_TYPES, annotators=rows.annotators(), preference_dim=options.dim
    )
    with tempfile.TemporaryDirectory() as folder:
        args = PALRewardConfig(
            output_dir=folder, head_epochs=options.n_epochs, head_batch_size=min(4096, len(rows) // 200), use_cpu=True,
            report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = PALRewardTrainer(model, args, rows, embeddings=population.items)
        with clock.of(f"PAL head, {options.n_epochs} epochs, everybody placed"):
            trainer.train()
        with clock.of("model written"):
            trainer.save_model()
        with clock.of("model read"):
            again = PALRewardModel.from_pretrained(folder)
    assert torch.equal(again.people.logits.weight, model.people.logits.weight)
    clock.found["types told by the people's weights"] = type_accuracy(model.people.all().argmax(1), truth)
    fresh = population.comparisons(1, seed=2)  # without noise
    scores = trainer.predict_scores(fresh)
    clock.found["noiseless pairs told, everybody"] = float((scores[:, 0] > scores[:, 1]).double().mean())
    newcomers = population.newcomers(options.size, seed=3)
    theirs = newcomers.comparisons(options.n_each, seed=4, beta=BETA)
    for method in ("posterior", "map"):
        with clock.of(f"weight fits of newcomers, {method}"):
            fit = model.fit_annotators(theirs, embeddings=population.items, method=method)
        told = type_accuracy(fit.weights.argmax(1), torch.from_numpy(newcomers.types))
        clock.found[f"newcomers' types told, {method}"] = told
    with clock.of("newcomers added"):
        model.add_annotators(fit)
    fresh = newcomers.comparisons(1, seed=5)
    scores = trainer.predict_scores(fresh)
    clock.found["noiseless pairs told, newcomers"] = float((scores[:, 0] > scores[:, 1]).double().mean())


def bench_report(options: argparse.Namespace, clock: Clock) -> None:
    """Two models' scores → tables → report.json, .md and .html: people, types, 50 countries, age by country."""
    from palign.evaluation.report import write_report
    from palign.evaluation.scoring import score_table

    population, rows = draw(options)
    people = np.repeat(np.arange(options.size), options.n_each)
    rng = np.random.default_rng(7)
    for name, n_groups in (("country", N_GROUPS), ("age", 6)):
        values = np.array([f"{name} {k}" for k in range(n_groups)], dtype=object)
        rows.columns[name] = values[rng.integers(n_groups, size=options.size)[people]]
    del rows.columns["margin"]
    own = np.stack([population.gold(people, column) for column in rows.item_indices.T], axis=1)
    pooled = -np.square(population.items - population.prototypes.mean(0)).sum(1)[rows.item_indices]
    types = dict(zip(population.annotator_ids, population.types, strict=True))
    with clock.of("two score tables"):
        tables = [
            score_table(scores, rows, model=name, types=types) for name, scores in (("pooled", pooled), ("own", own))
        ]
    expected = (own[:, 0] > own[:, 1]).mean()
    with tempfile.TemporaryDirectory() as folder:
        with clock.of("report of both, with pages"):
            report = write_report(
                tables, output_dir=folder, metrics=("accuracy", "log_likelihood"),
                group_columns=("country", ("age", "country")), n_resamples=options.n_resamples,
            )  # fmt: skip
        clock.found["report.html, MiB"] = report.html_path.stat().st_size / 2**20
    told = report.data["sections"][0]["models"][1]["frames"][0]["metrics"]["accuracy"]["overall"]
    assert math.isclose(told["value"], expected, rel_tol=1e-9) and told["low"] < expected < told["high"]
    clock.found["width of the interval of accuracy"] = told["high"] - told["low"]
    deviation = float(tables[1].groupby("annotator_id")["accuracy"].mean().std())
    clock.found["the same by its standard error"] = 2 * 1.645 * deviation / math.sqrt(options.size)


def bench_guard(options: argparse.Namespace, clock: Clock) -> None:
    """Every check of the guard."""
    from palign.data.guard import GuardOptions, guard

    population, rows = draw(options)
    with clock.of("guard"):
        findings = guard({"train": rows}, embeddings=population.items, options=GuardOptions(n_types=N_TYPES))
    clock.found["checks that are not ok"] = sum(finding.verdict != "ok" for finding in findings)


STAGES: dict[str, Callable[[argparse.Namespace, Clock], None]] = {
    "rows": bench_rows,
    "mixture": bench_mixture,
    "choice": bench_choice,
    "people": bench_people,
    "report": bench_report,
    "guard": bench_guard,
}


def run_child(size: int, stage: str, argv: list[str]) -> dict[str, Any]:
    """One stage at one size in a process of its own."""
    print(f"{stage}, {size:,} people", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, *argv, "--child", stage, "--size", str(size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def as_table(found: dict[str, dict[int, dict[str, Any]]], sizes: list[int]) -> str:
    """Markdown: a line for each step, a column for each size, and the exponent."""
    lines = ["| | " + " | ".join(f"{size:,}" for size in sizes) + " | growth |", "|---|" + "---|" * (len(sizes) + 1)]
    for stage, by_size in found.items():
        for name in by_size[sizes[0]]["seconds"]:
            values = [by_size[size]["seconds"][name] for size in sizes]
            shown = " | ".join(f"{value:.2f} s" if value < 10 else f"{value:.0f} s" for value in values)
            lines.append(f"| {stage}: {name} | {shown} | {exponent(values, sizes)} |")
        peaks = [by_size[size]["peak"] for size in sizes]
        shown = " | ".join(f"**{value:.1f} GiB**" for value in peaks)
        lines.append(f"| {stage}: peak memory | {shown} | {exponent(peaks, sizes)} |")
        for name in by_size[sizes[0]]["found"]:
            shown = " | ".join(f"{by_size[size]['found'][name]:.4g}" for size in sizes)
            lines.append(f"| {stage}: {name} | {shown} | |")
    return "\n".join(lines)


def exponent(values: list[float], sizes: list[int]) -> str:
    """Between the smallest and the largest size; empty where there is one size, or nothing was measured."""
    if len(sizes) < 2 or values[0] <= 0:
        return ""
    return f"{math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0]):.2f}"


def main() -> None:
    """Run every stage at every size; print the table and, with --output, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_annotators", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    for name, default in {
        "n_each": 10, "n_items": 100_000, "dim": 32, "n_epochs": 2, "n_resamples": 1000,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", help="a JSON file of all figures")
    parser.add_argument("--child", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        logging.disable(logging.WARNING)
        clock = Clock()
        STAGES[options.child](options, clock)
        print(json.dumps({"seconds": clock.seconds, "found": clock.found, "peak": peak()}))
        return
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for stage in options.stages:
        found[stage] = {size: run_child(size, stage, sys.argv[1:]) for size in options.n_annotators}
        print(as_table({stage: found[stage]}, options.n_annotators), flush=True)
        if options.output:
            Path(options.output).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
