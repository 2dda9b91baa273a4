"""How many prototypes? As many as strangers need: K is chosen on annotators who were not trained on.

A part of the annotators is held out; the head is fitted on the others with each K. Each person held out is placed by
one half of their answers and judged by the log-likelihood of the other half. The smallest K within one standard error
of the best is taken; the error is that of the paired differences between people (Breiman et al. 1984, one-SE rule).
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

__all__ = ["PrototypeChoice", "choose_n_prototypes", "fit_fresh_head"]

CANDIDATES = (1, 2, 3, 4, 5, 6, 8)
HELD_OUT = 0.25
TEMPERATURES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25)
MIN_HELD_OUT = 4


@dataclass(frozen=True)
class PrototypeChoice:
    """`n_prototypes`; `table`: a dict for each K with n_prototypes, log_likelihood (nats an answer, mean over people),
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
    eligible = torch.where(counts >= 2)[0].numpy()
    n_held_out = int(len(eligible) * HELD_OUT)
    if n_held_out < MIN_HELD_OUT:
        raise ValueError(
            f"n_prototypes is 'auto', and only {len(eligible)} annotators have two answers or more; K is chosen on a "
            f"quarter of them who are held out, at least {MIN_HELD_OUT}. Give a number, as --n_prototypes 2."
        )
    rng = np.random.default_rng(seed)
    held_out = torch.zeros(len(counts), dtype=torch.bool)
    held_out[torch.from_numpy(rng.choice(eligible, size=n_held_out, replace=False))] = True
    is_out = held_out[data.annotator_index]
    train, rest = data.select(torch.where(~is_out)[0]), data.select(torch.where(is_out)[0])
    place, judge = _halves(rest, rng)
    allowed = [k for k in candidates if k <= int((~held_out & (counts > 0)).sum())]
    table, per_person = [], []
    for k in tqdm(allowed, desc="choosing K", disable=not show_progress):
        head, people, _ = fit_fresh_head(replace(config, n_prototypes=k), train, len(counts), options, seed=seed)
        likelihoods, accuracy, temperature = _judged(head, people, place, judge, held_out)
        per_person.append(likelihoods)
        table.append({"n_prototypes": k, "accuracy": accuracy, "temperature": temperature})
    return _one_standard_error(table, per_person)


def _one_standard_error(table: list[dict[str, float]], per_person: list[Tensor]) -> PrototypeChoice:
    best = max(per_person, key=lambda likelihoods: float(likelihoods.mean()))
    chosen = None
    for row, likelihoods in zip(table, per_person, strict=True):
        gap = best - likelihoods
        error = float(gap.std() / len(gap) ** 0.5)
        row |= {"log_likelihood": float(likelihoods.mean()), "standard_error": error}
        if chosen is None and float(gap.mean()) <= error:
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
    """Mean log-likelihood of every person held out (n_held_out,), accuracy of the first item, temperature."""
    fit = fit_people(head, people, place, len(held_out), method="posterior")
    parts = []
    for start in range(0, len(judge), 4096):
        rows = slice(start, start + 4096)
        items, prompts = judge.states(rows)
        parts.append(head(items, fit.weights[judge.annotator_index[rows]], prompts))
    scores = torch.cat(parts)
    totals = {t: -plackett_luce(t * scores, judge.ranks) for t in TEMPERATURES}
    temperature = max(totals, key=lambda t: float(totals[t].mean()))
    sums = torch.zeros(len(held_out)).index_add_(0, judge.annotator_index, totals[temperature])
    counts = torch.bincount(judge.annotator_index, minlength=len(held_out))
    right = scores.masked_fill(judge.ranks < 0, float("-inf")).argmax(1) == 0
    return (sums / counts.clamp_min(1))[held_out & (counts > 0)], float(right.float().mean()), temperature
