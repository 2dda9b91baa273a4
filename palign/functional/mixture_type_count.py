"""How many types? As many as strangers need: K is chosen on annotators who were not fitted on.

Annotators are dealt into folds. A head is fitted on the others; each person held out is placed by one part of their
rows and judged by the other part, row by row. The parts share no item (`palign.functional.evidence.parts`): else types
would be credited for what nearly follows, as a > d does from a > b and c > d. Rows are dealt `N_DEALINGS` times over,
which costs next to nothing beside the fits. The smallest K within one standard error of the best is taken, K = 1
within 1.28, the error being that of the paired differences between people (Breiman et al. 1984, one-SE rule).

Three things keep an over-confident head from asking for more types than there are:
1. evidence is counted once (`palign.functional.evidence.components`), in fitting and in placing;
2. each K is given the temperature of the scores that suits it best, so K is chosen by what it knows and not by how
   loudly it says it; the temperature is returned, to place people with;
3. another type must bring at least `WORTH` of the log-likelihood, for the error does not hold the luck of a fit.

A choice that is clearly less accurate than one type on the same rows is one type.

Strengths of the shrinkage may be left open: that of the pooled fit is chosen at K = 1, that of types at K = 2.

Whoever has nothing in one of the parts is fitted on and never judged. Of more than `N_DRAWN` annotators so many are
drawn, half of them at least of two rows or more if there are such, and K is chosen on them: a type of less than a
hundredth of the people is overlooked that way; give K to look for it.

The Bayesian information criterion, with n = annotators, stands in the same table for comparison.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palign.functional.evidence.parts import RowTable, part_rows
from palign.functional.evidence.votes import Votes
from palign.functional.losses import pair_order, plackett_luce
from palign.functional.mixture import log_evidence, responsibilities, sum_by_annotator
from palign.functional.mixture_linear import POOLED_RIDGE, LinearMixture, fit_linear_mixture
from palign.functional.mixture_start import find_stages, spectral_start
from palign.functional.people_sample import draw_people

__all__ = [
    "TypeChoice",
    "choose_n_types",
    "held_out_log_likelihood",
    "levels_off",
    "one_standard_error",
    "paired_gain",
]

N_FOLDS = 3
MORE_FOLDS, FEW_PEOPLE = 8, 400  # near the limit of what can be seen every person fitted on counts
N_DEALINGS = 6
JUDGED = 0.3  # of a person's rows, or items, in each dealing
COARSE = {"tolerance": 1e-4, "max_steps": 30}  # EM stops early: what is judged moves no more
PATIENCE = 2  # numbers of types in a row that are not better than those before by more than their error
WORTH = 0.003  # of the log-likelihood
LEAVING_ONE = 1.28  # errors that the gain over one type must have: by chance one in ten does
TEMPERATURES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 2.5)
RIDGES = (3.0, 15.0)  # of types, where it is left open
POOLED_RIDGES = (1e-2, 3.0, 30.0)
LEAST_ANNOTATORS = 8
N_DRAWN = 4000
CELLS_AT_ONCE = 2**18  # scores times temperatures that are worked on together: they stay in the cache


@dataclass(frozen=True)
class TypeChoice:
    """The choice.

    Attributes:
        n_types: the number chosen.
        table: for each K a dict: n_types, log_likelihood (nats a held-out row), standard_error (of its difference to
            the best), accuracy (of held-out pairs), gain and gain_error (nats a row over K = 1, and its standard
            error), temperature (of the scores) and bic (nats: −2 log-likelihood + parameters · log n_annotators).
        ridge, pooled_ridge: of the fits, given or chosen.
        n_people_by_item: annotators whose rows hang together, so that their items were dealt; others' rows were.
    """

    n_types: int
    table: list[dict[str, float]]
    ridge: float = 1.0
    pooled_ridge: float = POOLED_RIDGE
    n_people_by_item: int = 0

    @property
    def temperature(self) -> float:
        """Of the scores at the chosen K: what people are placed and rows are judged with."""
        return self.temperature_of(self.n_types)

    def temperature_of(self, n_types: int) -> float:
        """The same of any K in the table."""
        return next(row["temperature"] for row in self.table if row["n_types"] == n_types)


@dataclass(frozen=True)
class _Judged:
    """People held out under the best temperature: (n_annotators,) sums of nats and of right pairs."""

    log_likelihood: Tensor
    right: Tensor
    temperature: float


def choose_n_types(
    features: Tensor,
    votes: Votes,
    *,
    max_types: int = 6,
    candidates: Sequence[int] | None = None,
    ridge: float | None = 1.0,
    pooled_ridge: float | None = POOLED_RIDGE,
    n_restarts: int = 3,
    temper_start: float = 0.2,
    n_folds: int | None = None,
    seed: int = 0,
) -> TypeChoice:
    """Choose K on the linear head; features and votes as in `fit_linear_mixture`.

    Args:
        max_types: candidates are 1…max_types, as far as there are annotators to fit them on, and till two in a row
            are worse than the best.
        candidates: other numbers to try, instead.
        ridge, pooled_ridge: as in `fit_linear_mixture`; None chooses them on the people held out.
        n_folds: every annotator who can be placed and judged is held out once; 3 if None, 8 below 400 annotators.

    Raises:
        ValueError: fewer than 8 annotators who can be both placed and judged, too few to hold any out; no candidate
            that those left to fit on can bear.
    """
    trial = _Trial(features, votes, n_folds, seed, temper_start=temper_start, n_restarts=n_restarts)
    tried = trial.allowed(sorted(set(candidates if candidates is not None else range(1, max_types + 1))))
    ridge, pooled_ridge = trial.choose_strengths(tried, ridge, pooled_ridge)
    table, judged = [], []
    for k in tried:
        judged.append(trial.judge(k))
        table.append({"n_types": k, "temperature": judged[-1].temperature, "bic": trial.bic(k)})
        if levels_off([part.log_likelihood[trial.eligible] for part in judged], trial.n_judged[trial.eligible]):
            break
    choice = _one_standard_error(
        table,
        [part.log_likelihood[trial.eligible] for part in judged],
        [part.right[trial.eligible] for part in judged],
        trial.n_judged[trial.eligible],
    )
    return replace(choice, ridge=ridge, pooled_ridge=pooled_ridge, n_people_by_item=trial.n_people_by_item)


def held_out_log_likelihood(
    features: Tensor,
    votes: Votes,
    n_types: int,
    *,
    ridge: float | None = 1.0,
    pooled_ridge: float | None = POOLED_RIDGE,
    n_restarts: int = 3,
    temper_start: float = 0.2,
    n_folds: int | None = None,
    seed: int = 0,
) -> float:
    """Nats a row of people held out under K types: what features are compared by; arguments as `choose_n_types`.

    Raises:
        ValueError: as there.
    """
    trial = _Trial(features, votes, n_folds, seed, temper_start=temper_start, n_restarts=n_restarts)
    trial.choose_strengths(trial.allowed([n_types]), ridge, pooled_ridge)
    return float(trial.judge(n_types).log_likelihood[trial.eligible].sum() / trial.n_judged[trial.eligible].sum())


class _Trial:
    """The folds, and the rows by which people held out are placed and judged."""

    def __init__(
        self, features: Tensor, votes: Votes, n_folds: int | None, seed: int, *, temper_start: float, n_restarts: int
    ) -> None:
        if votes.n_annotators > N_DRAWN:
            people, keep, numbers = draw_people(
                votes.annotator_index, votes.n_annotators, N_DRAWN, least_rows=2, seed=seed
            )
            votes = votes.of_rows(keep).said_by(numbers, len(people))
        n_folds = n_folds or (MORE_FOLDS if votes.n_annotators < FEW_PEOPLE else N_FOLDS)
        self.features, self.votes, self.n_annotators = features, votes, votes.n_annotators
        self.options: dict[str, Any] = {"temper_start": temper_start, "n_restarts": n_restarts, "seed": seed} | COARSE
        self.evidence = votes.evidence()
        self.dealings = [_Dealing(votes, np.random.default_rng((seed, i))) for i in range(N_DEALINGS)]
        self.n_people_by_item = self.dealings[0].n_people_by_item
        counts = torch.bincount(votes.annotator_index, minlength=votes.n_annotators)
        self.n_judged = torch.stack([dealing.n_judged for dealing in self.dealings]).sum(0)
        self.eligible = torch.where(self.n_judged > 0)[0]
        n_folds = min(n_folds, len(self.eligible))
        if len(self.eligible) < LEAST_ANNOTATORS or n_folds < 2:
            raise ValueError(
                f"only {len(self.eligible)} annotators have two rows or more to be placed and judged by, and n_folds "
                f"is {n_folds}; K is chosen on people held out, at least {LEAST_ANNOTATORS} in 2 folds. Give the "
                "number of types yourself."
            )
        generator = torch.Generator().manual_seed(seed)
        shuffled = self.eligible[torch.randperm(len(self.eligible), generator=generator)]
        self.folds = shuffled.tensor_split(n_folds)
        self.n_fitted = int((counts > 0).sum())
        self.judged: dict[tuple, tuple[Tensor, Tensor, Tensor]] = {}
        self.pooled: dict[tuple, Tensor] = {}
        self.starts: dict[tuple, Tensor] = {}

    def allowed(self, tried: list[int]) -> list[int]:
        """The candidates that those left to fit on can bear."""
        most = self.n_fitted - max(map(len, self.folds))
        if not any(1 <= k <= most for k in tried):
            raise ValueError(
                f"none of the numbers of types {tried} lies in 1…{most}, the annotators that are left to fit on when "
                f"one of {len(self.folds)} folds is held out. Try fewer types, or use more folds."
            )
        return [k for k in tried if 1 <= k <= most]

    def choose_strengths(
        self, tried: list[int], ridge: float | None, pooled_ridge: float | None
    ) -> tuple[float, float]:
        """Both, given or the best on people held out; fits have them from here on."""
        if pooled_ridge is None:
            pooled_ridge = self.best_option(1, "pooled_ridge", POOLED_RIDGES)
        self.options["pooled_ridge"] = pooled_ridge
        if ridge is None:
            k = min((k for k in tried if k > 1), default=1)
            ridge = self.best_option(k, "ridge", RIDGES) if k > 1 else 1.0
        self.options["ridge"] = ridge
        return ridge, pooled_ridge

    def best_option(self, n_types: int, name: str, values: Sequence[float]) -> float:
        """The value of a strength under which people held out are most likely at that K."""
        totals = []
        for value in values:
            self.options[name] = value
            totals.append(float(self.judge(n_types, n_folds=2).log_likelihood.sum()))
        return values[totals.index(max(totals))]

    def judge(self, n_types: int, n_folds: int | None = None) -> _Judged:
        """Everybody who is held out once, under heads fitted on the others; of the first `n_folds` folds only."""
        shape = (len(TEMPERATURES), self.n_annotators)
        likelihoods, right = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        for number, people in enumerate(self.folds[:n_folds]):
            key = (number, n_types, *sorted(self.options.items()))
            if key not in self.judged:  # a strength that was chosen is judged on the same folds again
                is_out = torch.zeros(self.n_annotators, dtype=torch.bool)
                is_out[people] = True
                self.judged[key] = is_out, *self._judge_fold(number, is_out, n_types)
            held_out, nats, correct = self.judged[key]
            likelihoods[:, held_out], right[:, held_out] = nats, correct
        best = int(likelihoods.sum(1).argmax())
        return _Judged(likelihoods[best], right[best], TEMPERATURES[best])

    def _judge_fold(self, number: int, is_out: Tensor, n_types: int) -> tuple[Tensor, Tensor]:
        """Nats and right pairs of the people held out, (n_temperatures, n_held_out) each."""
        shape = (len(TEMPERATURES), self.n_annotators)
        likelihoods, right = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        kept = ~is_out[self.votes.annotator_index]
        fit = self._fit(number, self.votes.of_rows(kept), n_types, self.evidence[kept])
        items = torch.cat([part.double() @ fit.theta.T for part in self.features.split(8192)])
        for dealing in self.dealings:
            dealing.judge(items, fit.mixing_weights, is_out, likelihoods, right)
        return likelihoods[:, is_out], right[:, is_out]

    def _fit(self, fold: int, votes: Votes, n_types: int, evidence: Tensor) -> LinearMixture:
        """A fit to a fold, −1 to everybody; what several fits to it share is found once."""
        pooled, start = (fold, self.options.get("pooled_ridge")), (fold, n_types)
        if start not in self.starts:
            seed = self.options["seed"]
            self.starts[start] = spectral_start(self.features, find_stages(votes, evidence), n_types, seed=seed)
        fit = fit_linear_mixture(
            self.features, votes, n_types, row_weights=evidence, start=self.starts[start],
            pooled_theta=self.pooled.get(pooled), **self.options,
        )  # fmt: skip
        self.pooled[pooled] = fit.pooled_theta
        return fit

    def bic(self, n_types: int) -> float:
        """Of a fit on everybody."""
        fit = self._fit(-1, self.votes, n_types, self.evidence)
        n_parameters = n_types * self.features.shape[1] + n_types - 1
        evidence = float(log_evidence(fit.log_likelihoods, fit.mixing_weights).sum())
        return -2 * evidence + n_parameters * math.log(self.n_fitted)


class _Dealing:
    """Everybody's rows in two parts without a shared item: to place, and to judge.

    People of whom one part is empty are in neither. `n_judged`: (n_annotators,) rows they are judged by, each as much
    as it counts for.
    """

    def __init__(self, votes: Votes, rng: np.random.Generator) -> None:
        arrays = (part.numpy() for part in (votes.item_indices, votes.ranks, votes.annotator_index))
        parts = part_rows(*arrays, fraction=JUDGED, item_share=JUDGED, rng=rng)
        self.n_people_by_item, self.n_annotators = parts.n_people_by_item, votes.n_annotators
        dealt = [_votes_of(part, votes) for part in (parts.first, parts.second)]
        counts = [torch.bincount(part.annotator_index, minlength=votes.n_annotators) for part in dealt]
        both = (counts[0] > 0) & (counts[1] > 0)
        self.place, self.judged = (part.of_rows(both[part.annotator_index]) for part in dealt)
        self.place_weights, self.weights = self.place.evidence(), self.judged.evidence()
        self.n_judged = sum_by_annotator(self.weights, self.judged.annotator_index, votes.n_annotators)

    def judge(self, items: Tensor, mixing_weights: Tensor, is_out: Tensor, likelihoods: Tensor, right: Tensor) -> None:
        """Add nats and right pairs (n_temperatures, n_annotators) of people held out; `items` (n_items, n_types)."""
        is_placed, is_judged = is_out[self.place.annotator_index], is_out[self.judged.annotator_index]
        place, judged = self.place.of_rows(is_placed), self.judged.of_rows(is_judged)
        place_scores, scores = items[place.item_indices], items[judged.item_indices]
        ranks, owner, weights = judged.ranks, judged.annotator_index, self.weights[is_judged]
        at_once = max(1, CELLS_AT_ONCE // max(1, place_scores.numel()))
        for some in torch.arange(len(TEMPERATURES)).split(at_once):
            scale = torch.tensor(TEMPERATURES, dtype=torch.float64)[some][:, None, None, None]
            each = _row_likelihoods(place_scores * scale, place.ranks) * self.place_weights[is_placed, None]
            total = sum_by_annotator(each.movedim(1, 0), place.annotator_index, self.n_annotators)
            share = responsibilities(total.flatten(0, 1), mixing_weights).view_as(total)[owner].movedim(1, 0)
            nats = (share.log() + _row_likelihoods(scores * scale, ranks)).logsumexp(2) * weights
            likelihoods[some] += sum_by_annotator(nats.T, owner, self.n_annotators).T
            correct, n_pairs = pair_order((scores * share[:, :, None]).sum(3), ranks)
            right[some] += sum_by_annotator((correct / n_pairs * weights).T, owner, self.n_annotators).T


def _votes_of(table: RowTable, votes: Votes) -> Votes:
    """A part as votes of the same people: a valid index at padding."""
    items = np.where(table.item_indices < 0, table.item_indices[:, :1], table.item_indices)
    rows = torch.from_numpy(table.rows)
    ranks, people = torch.from_numpy(table.ranks.astype(np.int64)), votes.annotator_index[rows]
    return Votes(torch.from_numpy(items), ranks, people, votes.n_annotators)


def _row_likelihoods(scores: Tensor, ranks: Tensor) -> Tensor:
    """(..., rows, max_items, n_types) → (..., rows, n_types) nats."""
    return -plackett_luce(scores.transpose(-1, -2), ranks[:, None])


def levels_off(judged: list[Tensor], n_rows: Tensor) -> bool:
    """Whether the last `PATIENCE` of (n_people,) sums are no better than the best before by more than the error."""
    if len(judged) <= PATIENCE:
        return False
    before = max(judged[:-PATIENCE], key=lambda values: float(values.sum()))
    gains = [paired_gain(values, before, n_rows) for values in judged[-PATIENCE:]]
    return all(gain <= error for gain, error in gains)


def _one_standard_error(
    table: list[dict[str, float]], judged: list[Tensor], right: list[Tensor], n_rows: Tensor
) -> TypeChoice:
    return TypeChoice(one_standard_error(table, "n_types", judged, right, n_rows, (WORTH, WORTH)), table)


def one_standard_error(
    table: list[dict[str, float]],
    name: str,
    judged: Sequence[Tensor],
    right: Sequence[Tensor],
    n_rows: Tensor,
    worth: tuple[float, float],
) -> int:
    """The smallest K whose gap to the best is within its error, or not worth a type; never one that is less accurate
    than one type by more than the error of that. That there are types at all is the larger claim, and the best of
    several K is compared: K = 1 stays within `LEAVING_ONE` errors.

    Args:
        table: a row for each K, which gets `gain`, `gain_error`, `log_likelihood`, `standard_error` and `accuracy`.
        name: of K in the table.
        judged, right: for each K (n_people,) sums of nats and of right pairs.
        n_rows: (n_people,) rows that they are sums over, each as much as it counts for.
        worth: shares of the log-likelihood that leaving K = 1, and any other K, must bring.
    """
    best = max(judged, key=lambda values: float(values.sum()))
    mean, chosen = float(best.sum() / n_rows.sum()), None
    for row, values, correct in zip(table, judged, right, strict=True):
        gap, error = paired_gain(best, values, n_rows)
        row["gain"], row["gain_error"] = paired_gain(values, judged[0], n_rows)
        row |= {
            "log_likelihood": float(values.sum() / n_rows.sum()),
            "standard_error": error,
            "accuracy": float(correct.sum() / n_rows.sum()),
        }
        errors, least = (LEAVING_ONE, worth[0]) if row[name] == 1 else (1.0, worth[1])
        if chosen is None and gap <= max(errors * error, least * abs(mean)):
            loss, loss_error = paired_gain(right[0], correct, n_rows)
            chosen = int(row[name] if loss <= loss_error else table[0][name])
    return chosen


def paired_gain(first: Tensor, second: Tensor, n_rows: Tensor) -> tuple[float, float]:
    """Mean difference a row of two sums (n_people,), and its standard error; rows of a person hang together."""
    n_people = len(first)
    gain = float((first - second).sum() / n_rows.sum())
    residual = first - second - gain * n_rows
    return gain, float((residual.square().sum() * n_people / max(n_people - 1, 1)).sqrt() / n_rows.sum())
