"""How many types? As many as strangers need: K is chosen on annotators who were not fitted on.

Annotators are dealt into folds. A head is fitted on the others; each person held out is placed by one half of their
rows and judged by the log-likelihood of the other half. The smallest K within one standard error of the best is taken,
the error being that of the paired differences between people (Breiman et al. 1984, one-SE rule).

Two things keep an over-confident head from asking for more types than there are:
1. each K is given the temperature of the scores that suits it best, so K is chosen by what it knows and not by how
   loudly it says it;
2. another type must bring at least `WORTH` of the log-likelihood, for the error does not hold the luck of a fit.

Whoever has a single row is fitted on and never judged. Of more than `N_DRAWN` annotators so many are drawn, half of
them at least of two rows or more if there are such, and K is chosen on them: a type of less than a hundredth of the
people is not found that way; give K to look for it.

The Bayesian information criterion, with n = annotators, stands in the same table for comparison.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palign.functional.linear_mixture import fit_linear_mixture, linear_log_likelihoods
from palign.functional.mixture import log_evidence, responsibilities
from palign.functional.people_drawn import draw_people

__all__ = ["TypeChoice", "choose_n_types"]

N_FOLDS = 3
COARSE = {"tolerance": 1e-5, "max_steps": 60}  # EM stops early: what is judged moves no more
PATIENCE = 2  # numbers of types in a row that are worse than the best, after which no larger ones are tried
WORTH = 0.003  # of the log-likelihood
TEMPERATURES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
LEAST_ANNOTATORS = 8
N_DRAWN = 4000


@dataclass(frozen=True)
class TypeChoice:
    """The choice.

    Attributes:
        n_types: the number chosen.
        table: for each K a dict: n_types, log_likelihood (nats a held-out row), standard_error (of its difference to
            the best), temperature (of the scores) and bic (nats: −2 log-likelihood + parameters · log n_annotators).
    """

    n_types: int
    table: list[dict[str, float]]


def choose_n_types(
    features: Tensor,
    item_indices: Tensor,
    ranks: Tensor,
    annotator_index: Tensor,
    n_annotators: int,
    *,
    max_types: int = 6,
    candidates: Sequence[int] | None = None,
    ridge: float = 1.0,
    n_restarts: int = 3,
    temper_start: float = 0.2,
    n_folds: int = N_FOLDS,
    seed: int = 0,
) -> TypeChoice:
    """Choose K on the cheap head; rows as in `fit_linear_mixture`.

    Args:
        max_types: candidates are 1…max_types, as far as there are annotators to fit them on, and till two in a row
            are worse than the best.
        candidates: other numbers to try, instead.
        n_folds: every annotator of two rows or more is held out once.

    Raises:
        ValueError: fewer than 8 annotators with two rows or more, too few to hold any out; no candidate that those
            left to fit on can bear.
    """
    data = (item_indices, ranks, annotator_index)
    if n_annotators > N_DRAWN:
        people, keep, annotator_index = draw_people(annotator_index, n_annotators, N_DRAWN, least_rows=2, seed=seed)
        data, n_annotators = (item_indices[keep], ranks[keep], annotator_index), len(people)
    counts = torch.bincount(annotator_index, minlength=n_annotators)
    eligible = torch.where(counts >= 2)[0]
    n_folds = min(n_folds, len(eligible))
    if len(eligible) < LEAST_ANNOTATORS or n_folds < 2:
        raise ValueError(
            f"only {len(eligible)} annotators have two rows or more and n_folds is {n_folds}; K is chosen on people "
            f"held out, at least {LEAST_ANNOTATORS} in 2 folds. Give the number of types yourself."
        )
    generator = torch.Generator().manual_seed(seed)
    folds = eligible[torch.randperm(len(eligible), generator=generator)].tensor_split(n_folds)
    is_first_half = _first_half(annotator_index, generator)
    n_fitted = int((counts > 0).sum())
    tried = sorted(set(candidates if candidates is not None else range(1, max_types + 1)))
    most = n_fitted - max(map(len, folds))
    if not any(1 <= k <= most for k in tried):
        raise ValueError(
            f"none of the numbers of types {tried} lies in 1…{most}, the annotators that are left to fit on when one "
            f"of {n_folds} folds is held out. Try fewer types, or use more folds."
        )
    tried = [k for k in tried if 1 <= k <= most]
    options = {"ridge": ridge, "temper_start": temper_start, "n_restarts": n_restarts, "seed": seed} | COARSE
    table, judged = [], []
    for k in tried:
        by_temperature = torch.zeros(len(TEMPERATURES), n_annotators, dtype=torch.float64)
        for people in folds:
            is_out = torch.zeros(n_annotators, dtype=torch.bool)
            is_out[people] = True
            _judge(by_temperature, features, data, is_out, is_first_half, k, options)
        best = int(by_temperature.sum(1).argmax())
        judged.append(by_temperature[best][eligible])
        fit = fit_linear_mixture(features, *data, n_annotators, k, **options)
        n_parameters = k * features.shape[1] + k - 1
        evidence = float(log_evidence(fit.log_likelihoods, fit.mixing_weights).sum())
        bic = -2 * evidence + n_parameters * math.log(n_fitted)
        table.append({"n_types": k, "temperature": TEMPERATURES[best], "bic": bic})
        totals = [float(values.sum()) for values in judged]
        if len(totals) - 1 - totals.index(max(totals)) >= PATIENCE:
            break
    n_rows = (counts[eligible] // 2).double()
    return _one_standard_error(table, judged, n_rows)


def _judge(
    by_temperature: Tensor,
    features: Tensor,
    data: tuple[Tensor, Tensor, Tensor],
    is_out: Tensor,
    is_first_half: Tensor,
    n_types: int,
    options: dict[str, float],
) -> None:
    """Fill in the log-likelihoods (n_temperatures, n_annotators) of the second halves of people held out."""
    held_out = is_out[data[2]]
    fit = fit_linear_mixture(features, *(part[~held_out] for part in data), len(is_out), n_types, **options)
    place, judge = (tuple(part[held_out & half] for part in data) for half in (is_first_half, ~is_first_half))
    for row, temperature in enumerate(TEMPERATURES):
        theta = fit.theta * temperature
        placed = linear_log_likelihoods(theta, features, *place, len(is_out))
        posterior = responsibilities(placed, fit.mixing_weights)[is_out]
        said = linear_log_likelihoods(theta, features, *judge, len(is_out))[is_out]
        by_temperature[row, is_out] = (posterior.log() + said).logsumexp(1)


def _first_half(annotator_index: Tensor, generator: torch.Generator) -> Tensor:
    """(rows,) bool: every other row of each person after a shuffle, the larger half if their number is odd."""
    order = torch.randperm(len(annotator_index), generator=generator)
    order = order[annotator_index[order].argsort(stable=True)]
    index = annotator_index[order]
    counts = torch.bincount(index)
    position = torch.arange(len(order)) - (counts.cumsum(0) - counts)[index]
    is_first = torch.empty(len(order), dtype=torch.bool)
    is_first[order] = position % 2 == 0
    return is_first


def _one_standard_error(table: list[dict[str, float]], judged: list[Tensor], n_rows: Tensor) -> TypeChoice:
    """The smallest K whose gap to the best is within its error, or not worth a type."""
    best = max(judged, key=lambda values: float(values.sum()))
    chosen, n_people = None, len(best)
    for row, values in zip(table, judged, strict=True):
        gap = float((best - values).sum() / n_rows.sum())
        residual = best - values - gap * n_rows
        error = float((residual.square().sum() * n_people / (n_people - 1)).sqrt() / n_rows.sum())
        row |= {"log_likelihood": float(values.sum() / n_rows.sum()), "standard_error": error}
        worth = WORTH * abs(float(best.sum() / n_rows.sum()))
        if chosen is None and gap <= max(error, worth):
            chosen = int(row["n_types"])
    return TypeChoice(chosen, table)
