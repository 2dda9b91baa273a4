"""How many prototypes? As many as strangers need: K is chosen on annotators who were not trained on.

Twice a quarter of the annotators is held out and the head is fitted on the others. Each person held out is placed by
one half of their answers and judged by the log-likelihood of the other half. The smallest K within one standard error
of the best is taken; the error is that of the paired differences between people (Breiman et al. 1984, one-SE rule).
That error does not hold the luck of a fit: a gain below three per cent (five, to leave K = 1) does not count either.
Heads trained to the end are over-confident by different amounts, so each K is first given the temperature that suits
it best: K is chosen by what it knows, not by how loudly it says it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from palign.functional.losses import plackett_luce
from palign.models.heads import PointHead
from palign.models.pal_config import PALConfig
from palign.models.people import AnnotatorWeights
from palign.models.person_fit import fit_people
from palign.models.row_batch import RowTensors
from palign.trainers.head_fit import HeadFitOptions, fit_head
from palign.trainers.mixture_metrics import pair_order

__all__ = ["PrototypeChoice", "choose_n_prototypes", "fit_fresh_head", "require_people"]

CANDIDATES = (1, 2, 3, 4, 5, 6, 8)
HELD_OUT = 0.25
WORTH = 0.03  # of the log-likelihood: what another prototype must bring
DIFFER = 0.05  # the same for leaving K = 1: that people differ at all is the larger claim
N_FOLDS = 2  # one split of people and one fit a K leave the choice to chance
TEMPERATURES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0)
MIN_HELD_OUT = 4


@dataclass(frozen=True)
class PrototypeChoice:
    """`n_prototypes`; `table`: a dict for each K with n_prototypes, log_likelihood (nats an answer),
    standard_error of its difference to the best, accuracy (of held-out answers) and temperature.
    """

    n_prototypes: int
    table: list[dict[str, float]]


def fit_fresh_head(
    config: PALConfig, data: RowTensors, n_annotators: int, options: HeadFitOptions, *, seed: int
) -> tuple[PointHead, AnnotatorWeights, float]:
    """A head and people of that architecture fitted from scratch, and the last mean loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head, people = config.make_head(), AnnotatorWeights(n_annotators, config.n_prototypes)
        standardize(head, data)
        loss = fit_head(head, people, data, options, seed=seed)
    people.freeze_population(torch.bincount(data.annotator_index, minlength=n_annotators), seed=seed)
    return head, people, loss


def standardize(head: PointHead, data: RowTensors) -> None:
    """Take centre and scale of the states that rows name."""
    used = torch.unique(data.item_indices[data.ranks >= 0])
    used = used[:: max(1, len(used) // 100_000)]
    head.standardize.fit(data.item_vectors(used))
    if data.prompt_states is not None and hasattr(head, "standardize_prompt"):
        head.standardize_prompt.fit(data.prompt_vectors(torch.unique(data.prompt_indices)))


def choose_n_prototypes(
    data: RowTensors,
    config: PALConfig,
    options: HeadFitOptions,
    *,
    candidates: Sequence[int] = CANDIDATES,
    seed: int = 0,
    show_progress: bool = True,
) -> PrototypeChoice:
    """Choose K for rows whose annotators are all known (`data.annotator_index` ≥ 0).

    Raises:
        ValueError: fewer than 16 annotators with two answers or more, too few to hold any out.
    """
    counts = torch.bincount(data.annotator_index)
    eligible = require_people(data.annotator_index.numpy())
    n_held_out = int(len(eligible) * HELD_OUT)
    rng = np.random.default_rng(seed)
    dealt = rng.permutation(eligible)
    folds = [
        _fold(data, torch.from_numpy(dealt[number * n_held_out : (number + 1) * n_held_out]), len(counts), rng)
        for number in range(N_FOLDS)
    ]
    n_trained_on = min(int((counts > 0).sum()) - n_held_out, len(data))
    allowed = [k for k in candidates if k <= n_trained_on]
    table, per_person = [], []
    for k in tqdm(allowed, desc="choosing K", disable=not show_progress):
        judged = []
        for number, (train, place, judge, held_out) in enumerate(folds):
            architecture, fit_seed = replace(config, n_prototypes=k), seed + number
            head, people, _ = fit_fresh_head(architecture, train, len(counts), options, seed=fit_seed)
            judged.append(_judged(head, people, place, judge, held_out))
        per_person.append(torch.cat([likelihoods for likelihoods, *_ in judged]))
        accuracy, temperature = (float(np.mean(values)) for values in list(zip(*judged, strict=True))[1:])
        table.append({"n_prototypes": k, "accuracy": accuracy, "temperature": temperature})
    return _one_standard_error(table, per_person)


def require_people(annotator_index: np.ndarray) -> np.ndarray:
    """Those who can be held out, of whose row each is (n_rows,): annotators with two answers or more.

    Raises:
        ValueError: fewer than 16 of them.
    """
    eligible, needed = np.flatnonzero(np.bincount(annotator_index) >= 2), int(MIN_HELD_OUT / HELD_OUT)
    if len(eligible) < needed:
        raise ValueError(
            f"n_prototypes is 'auto', which needs {needed} annotators with two answers or more, and there are "
            f"{len(eligible)}: K is chosen on a quarter of them who are held out, at least {MIN_HELD_OUT}. Give a "
            "number, as --n_prototypes 2."
        )
    return eligible


def _fold(
    data: RowTensors, people: Tensor, n_annotators: int, rng: np.random.Generator
) -> tuple[RowTensors, RowTensors, RowTensors, Tensor]:
    """Rows to train on; rows of these people to place them by and to judge; who they are (n_annotators,) bool."""
    held_out = torch.zeros(n_annotators, dtype=torch.bool)
    held_out[people] = True
    is_out = held_out[data.annotator_index]
    place, judge = _halves(data.select(torch.where(is_out)[0]), rng)
    return data.select(torch.where(~is_out)[0]), place, judge, held_out


def _one_standard_error(table: list[dict[str, float]], per_person: list[Tensor]) -> PrototypeChoice:
    """The rule, from (n_people, 2) sums and numbers of answers for each K; answers of one person hang together."""
    n_answers = per_person[0][:, 1]
    sums = [likelihoods[:, 0] for likelihoods in per_person]
    best = max(sums, key=lambda values: float(values.sum()))
    mean, chosen = float(best.sum() / n_answers.sum()), None
    for row, values in zip(table, sums, strict=True):
        gap = float((best - values).sum() / n_answers.sum())
        residual = best - values - gap * n_answers
        n_people = len(residual)
        error = float((residual.square().sum() * n_people / (n_people - 1)).sqrt() / n_answers.sum())
        row |= {"log_likelihood": float(values.sum() / n_answers.sum()), "standard_error": error}
        least = (DIFFER if row["n_prototypes"] == 1 else WORTH) * abs(mean)
        if chosen is None and gap <= max(error, least):
            chosen = int(row["n_prototypes"])
    return PrototypeChoice(chosen, table)


def _halves(rows: RowTensors, rng: np.random.Generator) -> tuple[RowTensors, RowTensors]:
    """Every person's rows, dealt in turn after a shuffle: to place them, and to judge."""
    order = torch.from_numpy(rng.permutation(len(rows)))
    order = order[torch.argsort(rows.annotator_index[order], stable=True)]
    index = rows.annotator_index[order]
    counts = torch.bincount(index)
    position = torch.arange(len(order)) - (counts.cumsum(0) - counts)[index]
    return rows.select(order[position % 2 == 0]), rows.select(order[position % 2 == 1])


@torch.no_grad()
def _judged(
    head: PointHead, people: AnnotatorWeights, place: RowTensors, judge: RowTensors, held_out: Tensor
) -> tuple[Tensor, float, float]:
    """Log-likelihoods and numbers of answers of people held out (n_held_out, 2), accuracy, temperature."""
    fit = fit_people(head, people, place, len(held_out), method="posterior")
    parts = []
    for start in range(0, len(judge), 4096):
        rows = slice(start, start + 4096)
        items, prompts = judge.states(rows)
        parts.append(head(items, fit.weights[judge.annotator_index[rows]], prompts))
    scores = torch.cat(parts)
    totals = {t: -plackett_luce(t * scores, judge.ranks) for t in TEMPERATURES}
    temperature = max(totals, key=lambda t: float(totals[t].mean()))
    zeros = torch.zeros(len(held_out))
    sums = zeros.index_add(0, judge.annotator_index, totals[temperature])
    counts = torch.bincount(judge.annotator_index, minlength=len(held_out))
    right, n_pairs = pair_order(scores, judge.ranks)
    likelihoods = torch.stack([sums, counts.float()], 1)[held_out & (counts > 0)]
    return likelihoods, float((right / n_pairs).mean()), temperature
