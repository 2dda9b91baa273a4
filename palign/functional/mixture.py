"""EM over annotators, in log space: who is of which type, and what that says about every row.

Annotator i has a hidden type with prior η. All of a person's rows speak together: the posterior is
γ_i = softmax_k(log η_k + Σ_rows log p_k), and η_k = mean_i γ_ik, a person counting once however many rows they gave
(Chidambaram, Seetharaman and Syrgkanis 2024, arXiv 2405.15065). Everything is float64; −inf says "impossible".
"""

import math

import torch
from torch import Tensor

__all__ = [
    "assign_rows",
    "elbo",
    "entropy",
    "log_evidence",
    "mixing_weights",
    "responsibilities",
    "row_weights",
    "sum_by_annotator",
    "temper_schedule",
]

NEGLIGIBLE = 1e-9  # of a row: shares below it are not worth a draw


def sum_by_annotator(values: Tensor, annotator_index: Tensor, n_annotators: int) -> Tensor:
    """(rows, ...) values, (rows,) owners in [0, n_annotators) → (n_annotators, ...) float64 sums; 0 without rows."""
    index = _checked_index(annotator_index, n_annotators)
    if len(values) != len(index):
        raise ValueError(
            f"{len(values)} rows of values and {len(index)} owners of rows were given; every row has one annotator."
        )
    values = values.double()
    return values.new_zeros(n_annotators, *values.shape[1:]).index_add_(0, index, values)


def responsibilities(log_likelihoods: Tensor, mixing_weights: Tensor, *, temper: float = 1.0) -> Tensor:
    """E-step: γ = softmax_k(log η_k + temper · L_ik), a row of probabilities for each annotator.

    Args:
        log_likelihoods: (n_annotators, n_types) nats, summed over a person's rows; 0 for a person without rows.
        mixing_weights: (n_types,) not negative, sums to one.
        temper: in (0, 1]; below 1 the votes count for less, which keeps flexible policies from believing themselves.

    Returns:
        (n_annotators, n_types) float64.

    Raises:
        ValueError: a NaN or +inf (names annotator and type); a person impossible under every type that lives.
    """
    if not 0 < temper <= 1:
        raise ValueError(f"temper is {temper}; it multiplies the log-likelihoods: above 0 and at most 1.")
    joint = _joint(log_likelihoods, mixing_weights, temper)
    impossible = torch.isneginf(joint).all(1)
    if bool(impossible.any()):
        raise ValueError(
            f"annotator {int(impossible.nonzero()[0])} has probability zero under every type with a mixing weight; "
            "there is no posterior. Look for −inf among the log-probabilities of that person's rows."
        )
    return joint.softmax(1)


def mixing_weights(responsibilities: Tensor, has_rows: Tensor | None = None) -> Tensor:
    """M-step of η: the mean of γ over annotators, over those with rows if `has_rows` (n_annotators,) bool is given.

    Returns:
        (n_types,) float64; uniform when nobody has rows.
    """
    gamma = responsibilities.double()
    if has_rows is not None:
        gamma = gamma[has_rows]
    if len(gamma) == 0:
        return gamma.new_full((gamma.shape[1],), 1 / gamma.shape[1])
    weights = gamma.mean(0)
    return weights / weights.sum()


def log_evidence(log_likelihoods: Tensor, mixing_weights: Tensor) -> Tensor:
    """log Σ_k η_k exp L_ik: (n_annotators, n_types), (n_types,) → (n_annotators,) nats."""
    return _joint(log_likelihoods, mixing_weights).logsumexp(1)


def elbo(log_likelihoods: Tensor, mixing_weights: Tensor, responsibilities: Tensor) -> Tensor:
    """Σ_i Σ_k γ_ik (log η_k + L_ik − log γ_ik), nats; the evidence if γ is the posterior, less otherwise.

    A share of zero adds nothing, even where its type is impossible.
    """
    gamma = responsibilities.double()
    joint = _joint(log_likelihoods, mixing_weights)
    return (gamma * joint).masked_fill(gamma == 0, 0.0).sum() + entropy(gamma).sum()


def entropy(responsibilities: Tensor) -> Tensor:
    """−Σ_k γ_ik log γ_ik: (n_annotators, n_types) → (n_annotators,) nats; 0 is certainty, log n_types ignorance."""
    gamma = responsibilities.double()
    return -torch.xlogy(gamma, gamma).sum(1)


def row_weights(responsibilities: Tensor, annotator_index: Tensor) -> Tensor:
    """M-step weight of each row for each type: its annotator's γ, each column divided by its mean over rows.

    So a small type's gradient is not smaller for being small. A column that no row has any share in stays 0.

    Args:
        responsibilities: (n_annotators, n_types).
        annotator_index: (rows,) int64.

    Returns:
        (rows, n_types) float64, every live column of mean 1.
    """
    gamma = responsibilities.double()
    weights = gamma[_checked_index(annotator_index, len(gamma))]
    mean = weights.mean(0) if len(weights) else weights.new_zeros(gamma.shape[1])
    return torch.where(mean > 0, weights / mean.where(mean > 0, torch.ones_like(mean)), 0.0)


def temper_schedule(n_rounds: int, start: float = 0.2) -> list[float]:
    """`temper` of each round, rising geometrically from `start`; the last one is exactly 1, of five or more two."""
    if n_rounds < 1:
        raise ValueError(f"n_rounds is {n_rounds}; a schedule has at least one round.")
    if not 0 < start <= 1:
        raise ValueError(f"start is {start}; it multiplies the log-likelihoods: above 0 and at most 1.")
    n_full = 1 if n_rounds < 5 else 2
    n_rising = n_rounds - n_full
    return [start ** (1 - step / n_rising) for step in range(n_rising)] + [1.0] * n_full


def assign_rows(responsibilities: Tensor, annotator_index: Tensor, generator: torch.Generator) -> Tensor:
    """One type for each row, drawn from its annotator's γ, so that an M-step costs one pass and not n_types.

    Stratified: Pr(row has type k) = γ_ik, and both the count of a type and its count among one person's rows differ
    from their expectations by less than one (controlled rounding, Cox 1987, JASA 82).

    Args:
        responsibilities: (n_annotators, n_types), rows sum to one.
        annotator_index: (rows,) int64.
        generator: where the draws come from.

    Returns:
        (rows,) int64.
    """
    gamma = responsibilities.detach().double().cpu()
    index = _checked_index(annotator_index, len(gamma)).cpu()
    counts = torch.bincount(index, minlength=len(gamma))
    expected = gamma * (counts[:, None] / gamma.sum(1, keepdim=True))
    whole = (expected + NEGLIGIBLE).floor()
    share = _whole_sums((expected - whole).clamp_min(0), counts - whole.sum(1))
    drawn = whole.long() + _rounded(share, generator)
    types = torch.arange(gamma.shape[1]).repeat(len(gamma)).repeat_interleave(drawn.flatten())
    shuffle = torch.randperm(len(index), generator=generator)
    order = shuffle[index[shuffle].argsort(stable=True)]
    return torch.empty_like(index).scatter_(0, order, types).to(annotator_index.device)


def _whole_sums(share: Tensor, sums: Tensor) -> Tensor:
    """Shares in [0, 1) without the negligible ones, each row again of its whole sum."""
    share = share.masked_fill(share < NEGLIGIBLE, 0.0)
    largest = share.argmax(1, keepdim=True)
    return share.scatter_add_(1, largest, (sums - share.sum(1))[:, None])


def _rounded(table: Tensor, generator: torch.Generator) -> Tensor:
    """Entries in [0, 1] → 0 or 1 with that expectation; sums of rows (whole) are kept, of columns up to one.

    Mass is moved around cycles of fractional entries, up or down at random, till none is left. Rows whose entries
    form no cycle wait; there are fewer of them than columns. A last row makes the sums of columns whole.
    """
    n_types = table.shape[1]
    closing = (-table.sum(0)).remainder(1.0)
    closing = torch.where(closing > 1 - NEGLIGIBLE, 0.0, closing)
    everything = torch.cat([table, _whole_sums(closing[None], closing.sum().round()[None])])
    order = torch.randperm(len(table), generator=generator).tolist() + [len(table)]
    draws = iter(torch.rand(everything.numel() + n_types, generator=generator, dtype=torch.float64).tolist())
    rows, waiting = everything.tolist(), []
    for number in order:
        row = rows[number]
        while (cycle := _cycle(row, waiting)) is not None:
            _move(cycle, next(draws))
            waiting = [other for other in waiting if any(map(_is_fractional, other))]
        if any(map(_is_fractional, row)):
            waiting.append(row)
    return torch.tensor(rows[:-1], dtype=torch.float64).reshape(-1, n_types).round().long()


def _is_fractional(share: float) -> bool:
    return NEGLIGIBLE / 10 < share < 1 - NEGLIGIBLE / 10


def _cycle(row: list[float], waiting: list[list[float]]) -> list[tuple[list[float], int, int]] | None:
    """A cycle (row, column, sign of the move) through `row` and rows that wait; None if there is none."""
    columns = [k for k, share in enumerate(row) if _is_fractional(share)]
    for start in columns:
        paths = {start: [(row, start, 1)]}
        frontier = [start]
        while frontier:
            here = frontier.pop()
            for other in waiting:
                if not _is_fractional(other[here]) or any(other is used for used, _, _ in paths[here]):
                    continue
                for there, share in enumerate(other):
                    if there in paths or not _is_fractional(share):
                        continue
                    paths[there] = [*paths[here], (other, here, -1), (other, there, 1)]
                    if there in columns:
                        return [*paths[there], (row, there, -1)]
                    frontier.append(there)
    return None


def _move(cycle: list[tuple[list[float], int, int]], draw: float) -> None:
    """Move mass around the cycle till an entry is whole, this way or that, so that the expectation stays."""
    up = min(1 - row[k] if sign > 0 else row[k] for row, k, sign in cycle)
    down = min(row[k] if sign > 0 else 1 - row[k] for row, k, sign in cycle)
    step = up if draw * (up + down) < down else -down
    for row, k, sign in cycle:
        row[k] += sign * step


def _joint(log_likelihoods: Tensor, weights: Tensor, temper: float = 1.0) -> Tensor:
    """log η_k + temper · L_ik, checked."""
    values, weights = log_likelihoods.double(), weights.double()
    if values.ndim != 2 or weights.shape != values.shape[1:]:
        raise ValueError(
            f"log_likelihoods have shape {tuple(values.shape)} and mixing_weights {tuple(weights.shape)}; they are "
            "(n_annotators, n_types) and (n_types,)."
        )
    wrong = values.isnan() | torch.isposinf(values)
    if bool(wrong.any()):
        annotator, kind = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"the log-likelihood of annotator {annotator} under type {kind} is {float(values[annotator, kind])}; it "
            "must be a number or −inf. Look at that person's rows and at that type's policy, which may have diverged."
        )
    if not bool((weights >= 0).all()) or not math.isclose(float(weights.sum()), 1, abs_tol=1e-6):
        raise ValueError(f"mixing_weights are {weights.tolist()}; they must not be negative and sum to one.")
    return weights.log() + temper * values


def _checked_index(annotator_index: Tensor, n_annotators: int) -> Tensor:
    index = annotator_index.long()
    if len(index) and not (0 <= int(index.min()) and int(index.max()) < n_annotators):
        raise ValueError(
            f"annotator_index runs from {int(index.min())} to {int(index.max())}; it must lie in "
            f"0…{n_annotators - 1}, one number for each annotator."
        )
    return index
