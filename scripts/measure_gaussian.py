"""Recovery of known types from vectors (the Gaussian tables of docs/pal_reward_trainer.md).

    python scripts/measure_gaussian.py --seeds 0 1 2 3 4

Ten dimensions, 100 items, 50 people of known types, 300 comparisons each to train on and 200 to test, no noise, a
linear f; then 50 newcomers placed by 2, 5, 20 and 100 answers.
"""

import argparse

import numpy as np
import torch

from palign.data.preferences import Preferences
from palign.data.synthetic import GaussianPopulation, make_gaussian_population
from palign.models.pal import PALRewardModel
from palign.pipelines.reward import first_rows
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.pal_reward_trainer import PALRewardTrainer

COUNTS = (1, 2, 3, 5, 8)
ANSWERS = (2, 5, 20, 100)
OPTIONS = {"head_epochs": 60, "head_learning_rate": 1e-2, "head_weight_decay": 1e-3, "annotator_prior": 0.1}


def train(people: GaussianPopulation, k: int, seed: int, output_dir: str) -> PALRewardTrainer:
    """K prototypes on a population's comparisons."""
    rows = people.comparisons(300, seed=seed + 1)
    torch.manual_seed(seed)
    model = PALRewardModel.from_embeddings(
        hidden_size=10, n_prototypes=k, annotators=rows.annotators(), n_layers=1, preference_dim=10
    )
    args = PALRewardConfig(output_dir=output_dir, seed=seed, report_to="none", disable_tqdm=True, **OPTIONS)
    trainer = PALRewardTrainer(model, args, rows, embeddings=people.items)
    trainer.train()
    return trainer


def accuracy(trainer: PALRewardTrainer, rows: Preferences, weights: torch.Tensor | None = None) -> float:
    """Share of pairs in the right order."""
    scores = trainer.predict_scores(rows, weights=weights)
    return float((scores[:, 0] > scores[:, 1]).float().mean())


def newcomers(trainer: PALRewardTrainer, people: GaussianPopulation, seed: int, method: str) -> list[float]:
    """Accuracy of newcomers after 2, 5, 20 and 100 answers."""
    new = people.newcomers(50, seed=seed + 3)
    answers, test = new.comparisons(100, seed=seed + 4), new.comparisons(200, seed=seed + 5)
    found = []
    for n in ANSWERS:
        fit = trainer.model.fit_annotators(first_rows(answers, n), embeddings=people.items, method=method, seed=seed)
        row_of = {name: row for row, name in enumerate(fit.ids)}
        found.append(accuracy(trainer, test, fit.weights[[row_of[name] for name in test.annotator_ids]]))
    return found


def recover(true_k: int, seeds: list[int], output_dir: str) -> tuple[list[float], dict[str, list[float]]]:
    """Mean test accuracy for each K, and of newcomers at the true K for each method, over populations."""
    accuracies, placed = [], {method: [] for method in ("official", "map", "posterior")}
    for seed in seeds:
        people = make_gaussian_population(n_types=true_k, seed=seed)
        trainers = {k: train(people, k, seed, output_dir) for k in COUNTS}
        test = people.comparisons(200, seed=seed + 2)
        accuracies.append([accuracy(trainer, test) for trainer in trainers.values()])
        for method, found in placed.items():
            found.append(newcomers(trainers[true_k], people, seed, method))
    means = {method: np.mean(found, axis=0).tolist() for method, found in placed.items()}
    return np.mean(accuracies, axis=0).tolist(), means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output_dir", default="outputs/measure_gaussian")
    options = parser.parse_args()
    lines = []
    print("| true K | " + " | ".join(f"K = {k}" for k in COUNTS) + " |\n" + "|---" * (len(COUNTS) + 1) + "|")
    for true_k in (2, 3, 5):
        accuracies, placed = recover(true_k, options.seeds, options.output_dir)
        print(f"| {true_k} | {' | '.join(f'{value:.3f}' for value in accuracies)} |", flush=True)
        for method, found in placed.items():
            lines.append(f"| {true_k} | {method} | " + " | ".join(f"{value:.3f}" for value in found) + " |")
    print("\n| true K | method | " + " | ".join(f"{n} answers" for n in ANSWERS) + " |\n" + "|---" * 6 + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
