"""How many chosen questions tell as much as how many random ones: the table of docs/ask.md.

    python scripts/measure_ask.py --model_path outputs/pal_pure_0 --embeddings persona.npy \
        --pool pure_0/new_annotators_adapt.jsonl --test pure_0/new_annotators_test.jsonl

Newcomers' answers to all questions of their pool are known. Each is asked n of their own pool, placed by the answers,
and judged on the test rows: random questions (mean of --n_draws orders), the same number chosen one by one (`ask`
again after every answer), and the same number chosen at once. The model was trained on none of these people.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from palign.data.loading import load_embeddings, load_preferences
from palign.data.preferences import Preferences
from palign.functional.evidence.questions import choose_questions
from palign.functional.losses import pair_order
from palign.models.pal import PALRewardModel
from palign.models.people_fit import log_likelihoods, scores_of
from palign.models.row_tensors import RowTensors
from palign.models.states.evaluating import evaluating

Chooser = Callable[[Tensor, int], Tensor]  # likelihoods (n_rows, n_support) of a person's pool, n → rows to ask


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, nargs="+", required=True)
    parser.add_argument("--pool", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 1, 2, 3, 4, 6, 8, 12, 20])
    parser.add_argument("--n_draws", type=int, default=10)
    args = parser.parse_args()
    vectors = load_embeddings(args.embeddings)
    print(
        "| model | questions | "
        + " | ".join(map(str, args.counts))
        + " |\n|---"
        + "|---" * (len(args.counts) + 1)
        + "|"
    )
    for path, pool_path, test_path in zip(args.model_path, args.pool, args.test, strict=True):
        model = PALRewardModel.from_pretrained(path)
        pool, test = (load_preferences(name, n_embeddings=len(vectors)) for name in (pool_path, test_path))
        with evaluating(model), torch.no_grad():
            newcomers = Newcomers(model, pool, test, vectors)
        draws = [newcomers.accuracies(random_order(seed), args.counts) for seed in range(args.n_draws)]
        ways = {
            "random": torch.tensor(draws).mean(0).tolist(),
            "chosen one by one": newcomers.accuracies(newcomers.one_by_one, args.counts),
            "chosen at once": newcomers.accuracies(newcomers.at_once, args.counts),
        }
        for name, accuracies in ways.items():
            print(f"| {path.name} | {name} | " + " | ".join(f"{value:.3f}" for value in accuracies) + " |", flush=True)


class Newcomers:
    """People whose answers to every question of their pool are known.

    Args:
        model: knows the population.
        pool: (n_rows) what each may be asked, with the answer.
        test: what each is judged on.
        vectors: (n, hidden) of the items.
    """

    def __init__(self, model: PALRewardModel, pool: Preferences, test: Preferences, vectors: object) -> None:
        self.model, index = model, pool.annotators()
        self.test = model.row_tensors(test, vectors, annotator_index=index.indices(test.annotator_ids))
        of_pool = model.row_tensors(pool, vectors, annotator_index=index.indices(pool.annotator_ids))
        self.log_likelihoods = _under_support(model, of_pool)
        self.log_prior = model.people.log_prior.double().log_softmax(0)
        self.rows = [torch.where(of_pool.annotator_index == person)[0] for person in range(len(index))]

    def accuracies(self, choose: Chooser, counts: list[int]) -> list[float]:
        """Mean accuracy on the test rows after so many answers of each person."""
        most = max(counts)
        orders = [rows[choose(self.log_likelihoods[rows], min(most, len(rows)))] for rows in self.rows]
        accuracies = []
        for n in counts:
            totals = torch.stack([self.log_likelihoods[order[:n]].sum(0) for order in orders])
            posterior = (self.log_prior + totals).softmax(1)
            weights = (posterior @ self.model.people.support.double()).float()
            with evaluating(self.model):
                right, n_pairs = pair_order(scores_of(self.model.head, self.test, weights), self.test.ranks)
            accuracies.append(float((right / n_pairs).mean()))
        return accuracies

    def one_by_one(self, likelihoods: Tensor, n: int) -> Tensor:
        """Every answer is known before the next question is chosen."""
        posterior, order = self.log_prior.softmax(0), []
        for _ in range(n):
            left = torch.tensor([row for row in range(len(likelihoods)) if row not in order])
            best = choose_questions(likelihoods[left].exp(), posterior[None], 1, generator=torch.Generator())
            order.append(int(left[best.indices[0]]))
            posterior = (posterior.log() + likelihoods[order[-1]]).softmax(0)
        return torch.tensor(order)

    def at_once(self, likelihoods: Tensor, n: int) -> Tensor:
        """No answer is known before all questions are chosen; those for n are the first n of those for more."""
        generator = torch.Generator().manual_seed(0)
        return choose_questions(likelihoods.exp(), self.log_prior.softmax(0)[None], n, generator=generator).indices


def random_order(seed: int) -> Chooser:
    """Questions in an order of chance."""
    generator = torch.Generator().manual_seed(seed)
    return lambda likelihoods, n: torch.randperm(len(likelihoods), generator=generator)[:n]


def _under_support(model: PALRewardModel, data: RowTensors) -> Tensor:
    """(n_rows, n_support) nats, float64: every answer under each member of the population."""
    parts = [part.clamp_max(0) for _, part in log_likelihoods(model.head, data, model.people.support)]
    return torch.cat(parts).double()


if __name__ == "__main__":
    main()
