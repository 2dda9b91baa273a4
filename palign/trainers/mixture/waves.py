"""Reading rows under the types in waves, until no further row could change who belongs where.

An E-step needs a person's log-likelihood under each type, and it is mostly known after a few rows. So the first wave
reads `FIRST_WAVE` rows of a person, and each further wave half as many as were read before. In between, a type is
left out for a person for whom it is too far behind to come back, and a person is left out whose responsibilities the
unread rows cannot move. What is unread is extrapolated from what was read, and judged by how rows of one person
scatter. Before anything is read it is judged by what training passes saw: young adapters may say too little to move
anybody.

This is group-sequential testing with a fixed number of standard errors (`SURE`), not an exact bound: log-likelihoods
of unread rows have none.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from palign.functional.evidence.positions import position_within
from palign.functional.mixture import sum_by_annotator

__all__ = ["FIRST_WAVE", "Evidence", "RowSums", "first_cells", "read_in_waves"]

FIRST_WAVE = 2  # rows of a person
SURE = 2.0  # standard errors that unread rows are granted


@dataclass(frozen=True)
class Evidence:
    """What an E-step makes of log-likelihoods under the adapters: `before + weight · log-likelihoods`.

    Attributes:
        before: (n_annotators, n_types) log prior and whatever else speaks beside the adapters, nats.
        weight: of their word, at least 0.
        tolerance: what a responsibility may be wrong by for unread rows; 0 reads all of them.
    """

    before: Tensor
    weight: float
    tolerance: float

    def open_cells(self, is_open: Tensor, totals: Tensor, errors: Callable[[Tensor], Tensor]) -> Tensor:
        """(n_annotators, n_types) bool: where unread rows may move a responsibility by more than the tolerance.

        Args:
            is_open: (n_annotators, n_types) bool, types that have not been left out yet.
            totals: (n_annotators, n_types) log-likelihoods, nats, as far as they are known.
            errors: (n_annotators, 1) the numbers of the likeliest types → (n_annotators, n_types) standard errors of
                a type's total less that of this one.
        """
        scores = self.before + self.weight * totals
        best = scores.argmax(1, keepdim=True)
        reach = (SURE * self.weight * errors(best)).nan_to_num(nan=0.0)  # 0 · infinity: no word, no reach
        behind = scores.gather(1, best) - scores
        moves = (reach - behind).sigmoid() - (-behind).sigmoid() > self.tolerance  # against the likeliest alone
        moves = (moves & is_open).scatter(1, best, False)
        return moves.scatter(1, best, moves.any(1, keepdim=True))


@dataclass(frozen=True)
class RowSums:
    """Log-likelihoods of people from some of their rows.

    Attributes:
        totals: (n_annotators, n_types) nats of all rows, those unread taken to be like those read.
        n_read: (n_annotators, n_types) rows that were read.
        n_rows: (n_annotators,) rows that there are.
        scatter: (n_types, n_types) nats², how what two types say of a row differs among the rows of one person.
        shares: (n_annotators,) what a row of theirs counts for in the mean.
    """

    totals: Tensor
    n_read: Tensor
    n_rows: Tensor
    scatter: Tensor
    shares: Tensor

    @classmethod
    def of(
        cls, by_row: Tensor, baseline: Tensor, annotator_index: Tensor, n_annotators: int, row_weights: Tensor
    ) -> "RowSums":
        """Sums of what is known.

        Args:
            by_row: (rows, n_types) nats; NaN where a row was not read under a type.
            baseline: (rows,) nats of each row under the reference: rows are compared by what they gain over it.
            annotator_index: (rows,).
            row_weights: (rows,) float64, what a row counts for.
        """
        known = ~torch.isnan(by_row)
        gains = torch.where(known, by_row - baseline[:, None], 0.0)
        weights = known * row_weights[:, None]
        n_read = sum_by_annotator(known.double(), annotator_index, n_annotators)
        mass = sum_by_annotator(weights, annotator_index, n_annotators)
        whole = sum_by_annotator(row_weights, annotator_index, n_annotators)
        mean = sum_by_annotator(gains * weights, annotator_index, n_annotators) / mass.clamp_min(1e-300)
        base = sum_by_annotator(baseline * row_weights, annotator_index, n_annotators)
        away = torch.where(known, gains - mean[annotator_index], 0.0)
        both = known.double().T @ known.double() - (n_read > 0).double().T @ (n_read > 0).double()
        moment = away.T @ away / both.clamp_min(1)
        scatter = moment.diag()[:, None] + moment.diag() - 2 * moment
        n_rows = torch.bincount(annotator_index, minlength=n_annotators).double()
        shares = whole / n_rows.clamp_min(1)
        return cls(base[:, None] + whole[:, None] * mean, n_read, n_rows, scatter.clamp_min(0), shares)

    def errors(self, other: Tensor) -> Tensor:
        """(n_annotators, n_types) standard errors, for the unread rows, of a type's total less that of another.

        Infinite where a type has read nothing and rows are left.

        Args:
            other: (n_annotators, 1) int64, the number of the other type.
        """
        n_read = torch.minimum(self.n_read, self.n_read.gather(1, other))
        unread = self.n_rows[:, None] - n_read
        variance = self.scatter[other[:, 0]] * unread * self.n_rows[:, None] / n_read
        errors = self.shares[:, None] * variance.nan_to_num(nan=math.inf, posinf=math.inf).sqrt()
        return torch.where(unread > 0, errors, 0.0)

    def open_cells(self, evidence: Evidence, is_open: Tensor) -> Tensor:
        """(n_annotators, n_types) bool: where further rows are asked for, of the types that `is_open` has left."""
        return (self.n_read < self.n_rows[:, None]) & evidence.open_cells(is_open, self.totals, self.errors)


def first_cells(
    evidence: Evidence, seen: Tensor, baseline: Tensor, annotator_index: Tensor, row_weights: Tensor
) -> Tensor:
    """(n_annotators, n_types) bool: where anything has to be read, by what training passes saw.

    All of a person's rows are granted to go the same way, each as far as rows commonly go.

    Args:
        seen: (rows, n_types) log-likelihoods of training passes, nats, NaN where there were none; a type without any
            is taken to be as loud as the loudest.
        baseline: (rows,) nats of each row under the reference.
        annotator_index: (rows,).
        row_weights: (rows,) what a row counts for.
    """
    n_annotators, everything = len(evidence.before), torch.ones_like(evidence.before, dtype=torch.bool)
    if evidence.tolerance == 0 or bool(torch.isnan(seen).all()):
        return everything
    moment = (seen - baseline[:, None]).square().nanmean(0)
    moment = moment.nan_to_num(nan=float(moment[~moment.isnan()].max()))
    whole = sum_by_annotator(row_weights, annotator_index, n_annotators)[:, None]
    totals = sum_by_annotator(baseline * row_weights, annotator_index, n_annotators)[:, None]
    totals = totals.expand_as(evidence.before)
    return evidence.open_cells(everything, totals, lambda best: whole * (moment[best] + moment).sqrt())


def read_in_waves(
    read: Callable[[Tensor], Tensor],
    known: Tensor,
    baseline: Tensor,
    annotator_index: Tensor,
    row_weights: Tensor,
    evidence: Evidence,
    *,
    seen: Tensor | None = None,
    n_most: int,
    seed: int,
) -> Tensor:
    """(rows, 2, n_types) log-likelihoods (nats) and margins, NaN where nothing was read.

    Args:
        read: (rows, n_types) bool, cells that are asked for → (rows, 2, n_types); what it gives elsewhere is not used.
        known: (rows, 2, n_types), what is known already; NaN elsewhere.
        baseline: (rows,) nats of each row under the reference.
        annotator_index: (rows,).
        row_weights: (rows,) what a row counts for.
        evidence: one for all people.
        seen: (rows, n_types) what training passes saw, as `first_cells` takes it; None asks everybody.
        n_most: rows of a person at most; 0 is all.
        seed: of the order in which a person's rows are read.
    """
    place = _places(annotator_index, seed)
    counts = torch.bincount(annotator_index, minlength=len(evidence.before))
    most = int(counts.max()) if n_most == 0 else min(n_most, int(counts.max()))
    seen = torch.full_like(known[:, 0], torch.nan) if seen is None else seen
    is_open = first_cells(evidence, seen, baseline, annotator_index, row_weights)
    upto = most if evidence.tolerance == 0 else FIRST_WAVE
    while True:
        asked = (place < upto)[:, None] & torch.isnan(known[:, 0]) & is_open[annotator_index]
        if bool(asked.any()):
            known = torch.where(asked[:, None], read(asked), known)
        if upto >= most:
            return known
        sums = RowSums.of(known[:, 0], baseline, annotator_index, len(evidence.before), row_weights)
        is_open = sums.open_cells(evidence, is_open)
        if not bool(is_open.any()):
            return known
        upto = min(upto + (upto + 1) // 2, most)


def _places(annotator_index: Tensor, seed: int) -> Tensor:
    """(rows,) int64: when a row's turn comes among its person's, drawn."""
    order = torch.randperm(len(annotator_index), generator=torch.Generator().manual_seed(seed))
    order = order[annotator_index[order].argsort(stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.from_numpy(position_within(torch.bincount(annotator_index).numpy()))
    return place
