"""A million rows and somebody with 300,000 answers: whether everybody's weights stay on the simplex.

    python scripts/measure_load.py --n_rows 1000000 --n_answers 300000

Vectors of width 16, two prototypes, 10,000 people, of whom one has `--n_answers` of the rows; a newcomer with as many
is fitted and added, too. Prints the numbers of docs/hardening.md.
"""

import argparse
import tempfile
import time

import numpy as np

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.pal import PALRewardModel
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.pal_reward_trainer import PALRewardTrainer

WIDTH, N_ITEMS, N_PEOPLE = 16, 400, 10_000


def answers(people: np.ndarray, vectors: np.ndarray, rng: np.random.Generator) -> Preferences:
    """Pairs of items; half of the people like one direction, half another, with logistic noise."""
    first, second = rng.integers(N_ITEMS, size=(2, len(people)))
    second = np.where(first == second, (second + 1) % N_ITEMS, second)
    taste = np.where(people % 2 == 0, vectors[first, 0] - vectors[second, 0], vectors[first, 1] - vectors[second, 1])
    wins = rng.random(len(people)) < 1 / (1 + np.exp(-taste))
    ids = np.char.add("p", people.astype(str)).tolist()
    return Preferences.from_arrays(ids, np.where(wins, first, second), np.where(wins, second, first))


def main() -> None:
    """Train, place a newcomer, and say how far sums of weights are from 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n_rows", type=int, default=1_000_000)
    parser.add_argument("--n_answers", type=int, default=300_000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N_ITEMS, WIDTH)).astype(np.float32)
    others = rng.integers(1, N_PEOPLE, size=args.n_rows - args.n_answers)
    rows = answers(np.concatenate([np.zeros(args.n_answers, dtype=np.int64), others]), vectors, rng)
    people = AnnotatorIndex(f"p{i}" for i in range(N_PEOPLE))
    model = PALRewardModel.from_embeddings(hidden_size=WIDTH, annotators=people, n_prototypes=2)
    with tempfile.TemporaryDirectory() as folder:
        options = PALRewardConfig(output_dir=folder, head_epochs=1, use_cpu=True, report_to="none", disable_tqdm=True)
        start = time.monotonic()
        PALRewardTrainer(model, options, rows, embeddings=vectors).train()
        print(f"{len(rows):,} rows of {N_PEOPLE:,} people: {time.monotonic() - start:.0f} s of one thread")
        say("everybody", model.weights_for(people.ids))
        say(f"the one with {args.n_answers:,} answers", model.weights_for(["p0"]))
        start = time.monotonic()
        newcomer = answers(np.full(args.n_answers, N_PEOPLE), vectors, rng)
        fit = model.fit_annotators(newcomer, embeddings=vectors)
        say(f"a newcomer with {args.n_answers:,}", fit.weights)
        model.add_annotators(fit)
        print(f"fitted and added in {time.monotonic() - start:.0f} s")
        model.save_pretrained(folder)
        say("read again", PALRewardModel.from_pretrained(folder).weights_for([f"p{N_PEOPLE}"]))


def say(who: str, weights: object) -> None:
    """How far sums are from 1, and the least and largest weight."""
    values = np.asarray(weights.detach(), dtype=np.float64)
    print(
        f"{who}: |sum - 1| <= {np.abs(values.sum(1) - 1).max():.1e}, weights {values.min():.2g} to {values.max():.2g}"
    )


if __name__ == "__main__":
    main()
