"""How the stages of EM mixture-DPO grow with people, rows of a person, types and the length of prompts.

    OMP_NUM_THREADS=1 python scripts/bench_growth.py --output growth.json

One thing is made larger at a time, the others stay at the first value of each:

- people: 40, 80, 160, with eight rows each;
- rows of a person: 8, 16, 32;
- types (K): 2, 4, 8;
- words of a prompt: 60, 120, 240; completions have 60.

Processor seconds of one thread, the median of `--repeats`. Growth is the exponent between the smallest and the largest
size, log(time ratio) / log(size ratio): 1 is linear. Other work on the machine moves single figures.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_mixture_dpo import common, lora, make_rows
from bench_population import exponent

from palign.models.reference_logps import ReferencePass
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer

AXES = {
    "n_annotators": (40, 80, 160),
    "n_each": (8, 16, 32),
    "n_types": (2, 4, 8),
    "n_prompt_words": (60, 120, 240),
}
NAMES = {"n_annotators": "people", "n_each": "rows of a person", "n_types": "K", "n_prompt_words": "words of a prompt"}
STAGES = ("reference", "linear start", "training", "E-steps", "whole")


class TimedTrainer(MixtureDPOTrainer):
    """Adds up the processor seconds of its stages in `seconds`."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Processor seconds of what is done inside."""
        self.seconds = getattr(self, "seconds", dict.fromkeys(STAGES, 0.0))
        start = time.process_time()
        yield
        self.seconds[stage] += time.process_time() - start

    def prepare(self) -> None:
        if self._is_prepared:
            return
        with self.timed("linear start"):
            super().prepare()
        self.seconds["linear start"] -= self.seconds["reference"]  # which runs inside

    def _reference_pass(self, *arguments: Any) -> ReferencePass:
        with self.timed("reference"):
            return super()._reference_pass(*arguments)

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        with self.timed("training"):
            return super().training_step(*arguments, **options)

    def _e_step(self, temper: float) -> None:
        with self.timed("E-steps"):
            super()._e_step(temper)

    def train(self, *arguments: Any, **options: Any) -> Any:
        with self.timed("whole"):
            return super().train(*arguments, **options)


def measured(sizes: dict[str, int], args: argparse.Namespace) -> dict[str, float]:
    """Seconds of each stage at these sizes, two rounds in one epoch."""
    rows = make_rows(sizes["n_annotators"], sizes["n_each"], 60, seed=0, n_prompt_words=sizes["n_prompt_words"])
    tokenizer = make_tiny_tokenizer([text for row in rows for text in (row["prompt"], row["chosen"])])
    model = make_tiny_lm(tokenizer, hidden_size=args.hidden_size, n_layers=args.n_layers)
    options = {"n_types": sizes["n_types"], "n_permutations": 0, "n_rounds": 2, "num_train_epochs": 1}
    options |= {"e_step_tolerance": args.e_step_tolerance, "e_step_rows": args.e_step_rows}
    with tempfile.TemporaryDirectory() as output:
        settings = MixtureDPOConfig(**common(output, args, **options))
        trainer = TimedTrainer(model, settings, rows, processing_class=tokenizer, peft_config=lora(args))
        trainer.train()
    return trainer.seconds


def table(axis: str, runs: dict[int, dict[str, float]]) -> str:
    """Markdown: a line for each stage, a column for each size, and the exponent."""
    sizes = sorted(runs)
    lines = [f"| {NAMES[axis]} | " + " | ".join(map(str, sizes)) + " | growth |", "|---|" + "---|" * (len(sizes) + 1)]
    for stage in STAGES:
        seconds = [runs[size][stage] for size in sizes]
        lines.append(
            f"| {stage} | " + " | ".join(f"{value:.1f}" for value in seconds) + f" | {exponent(seconds, sizes)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure along every axis that is asked for; print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--output", type=Path, default=None, help="figures as JSON")
    for name, default in {"batch_size": 16, "lora_r": 16, "hidden_size": 64, "n_layers": 2, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--e_step_tolerance", type=float, default=0.1, help="0: every row under every trained type")
    parser.add_argument("--e_step_rows", type=int, default=8, help="0: of all rows in early rounds, too")
    args = parser.parse_args()
    args.bf16 = False
    first = {axis: sizes[0] for axis, sizes in AXES.items()} | {"n_types": 4}
    known: dict[tuple[int, ...], dict[str, float]] = {}
    measured(first, args)  # what is loaded once is not a run's
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for axis in args.axes:
        figures[axis] = {}
        for size in AXES[axis]:
            sizes = first | {axis: size}
            key = tuple(sizes.values())
            if key not in known:
                runs = [measured(sizes, args) for _ in range(args.repeats)]
                known[key] = {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}
            figures[axis][size] = known[key]
        print(f"\n{table(axis, figures[axis])}", flush=True)
    if args.output is not None:
        args.output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
