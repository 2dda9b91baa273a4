"""How strongly metric and people are held, by the likelihood of pairs held out.

Out of a coarse grid around the first guess, in steps of a factor of sixteen, the best is taken; from there a hill is
climbed in steps of four: first the people's strength, then the metric's, until no step helps.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from palign.functional.evidence.positions import position_within
from palign.functional.metric.comparisons import Comparisons, Loss, Parameters
from palign.functional.metric.fit import MetricFit, fit_metric
from palign.functional.metric.regularisers import Penalty

__all__ = ["Strengths", "best_temperature", "choose_strengths", "deal_rows", "held_out_log_likelihood"]

FACTOR = 4.0
COARSE = (1 / 16, 1.0, 16.0)
MOST_TRIALS = 28
LEAST_GAIN = 1e-4  # nats a pair
TEMPERATURES = torch.logspace(-1.5, 1.5, 25, dtype=torch.float64)
TOLERANCE = 1e-3  # of a trial's fit

Fitter = Callable[[Comparisons, tuple[float, ...], Parameters | None], MetricFit]


@dataclass(frozen=True)
class Strengths:
    """What held-out pairs chose.

    Attributes:
        strengths: as `palign.functional.metric.regularisers.Penalty.make` takes them.
        temperature: what margins are multiplied by to be logits; 1 where the loss is logistic.
        log_likelihood: nats a held-out pair.
        table: (strengths, nats a held-out pair) of every trial.
    """

    strengths: tuple[float, ...]
    temperature: float
    log_likelihood: float
    table: list[tuple[tuple[float, ...], float]]


def deal_rows(person: Tensor, row: Tensor, n_parts: int, *, seed: int) -> Tensor:
    """(n,) int64, which part each pair is in: a person's rows are dealt evenly, pairs of one row stay together."""
    rows, place = torch.unique(row, return_inverse=True)
    owner = torch.zeros(len(rows), dtype=torch.int64).scatter_(0, place, person)
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    order = drawn[torch.argsort(owner[drawn], stable=True)]
    counts = torch.bincount(owner)
    offset = torch.randint(n_parts, (len(counts),), generator=torch.Generator().manual_seed(seed + 1))
    part = torch.empty(len(rows), dtype=torch.int64)
    part[order] = (torch.from_numpy(position_within(counts.numpy())) + offset[owner[order]]) % n_parts
    return part[place]


def held_out_log_likelihood(pairs: Comparisons, at: Parameters, temperature: float = 1.0) -> float:
    """Weighted sum over pairs of log p(winner), nats."""
    return -float((pairs.weight * Loss.LOGISTIC.values(temperature * pairs.margins(at))).sum())


def best_temperature(margins: Tensor, weight: Tensor) -> float:
    """The factor on margins (n,) under which the pairs are likeliest, out of 25 between .03 and 32."""
    losses = (weight[:, None] * Loss.LOGISTIC.values(margins[:, None] * TEMPERATURES)).sum(0)
    return float(TEMPERATURES[int(losses.argmin())])


def choose_strengths(
    pairs: Comparisons,
    row: Tensor,
    *,
    loss: Loss | str = Loss.LOGISTIC,
    penalty: Penalty | str = Penalty.RIDGE,
    fitter: Fitter | None = None,
    start: tuple[float, ...] | None = None,
    n_parts: int = 3,
    seed: int = 0,
) -> Strengths:
    """Climb to the strengths under which pairs held out are likeliest.

    Args:
        row: (n,) which row of the data each pair is of; the pairs of a row are held out together.
        fitter: fits pairs under strengths, from a start or None; `fit_metric` if None.
        start: strengths to begin with; `Penalty.start` if None.
        n_parts: each is held out in turn.
        seed: of the parts.

    Raises:
        RuntimeError: under no strengths does a fit end.
    """
    loss, penalty = Loss(loss), Penalty(penalty)
    parts = deal_rows(pairs.person, row, n_parts, seed=seed)
    starts: list[Parameters | None] = [None] * n_parts
    tried: dict[tuple[float, ...], tuple[float, float]] = {}

    def plain(fitted: Comparisons, strengths: tuple[float, ...], start: Parameters | None) -> MetricFit:
        return fit_metric(fitted, loss=loss, penalty=penalty, strengths=strengths, start=start, tolerance=TOLERANCE)

    def judged(strengths: tuple[float, ...]) -> tuple[float, float]:
        margins, weights = [], []
        for part in range(n_parts):
            fit = (fitter or plain)(pairs.select(parts != part), strengths, starts[part])
            starts[part] = fit.parameters
            held = pairs.select(parts == part)
            margins.append(held.margins(fit.parameters))
            weights.append(held.weight)
        margin, weight = torch.cat(margins), torch.cat(weights)
        temperature = 1.0 if loss is Loss.LOGISTIC else best_temperature(margin, weight)
        nats = float((weight * Loss.LOGISTIC.values(temperature * margin)).sum() / weight.sum())
        return -nats, temperature

    def trial(strengths: tuple[float, ...]) -> float:
        if strengths not in tried:
            tried[strengths] = (-float("inf"), 1.0)  # of a fit that does not end, which is then not chosen
            with contextlib.suppress(RuntimeError):
                tried[strengths] = judged(strengths)
        return tried[strengths][0]

    best = _climb(trial, penalty.start if start is None else start, tried)
    if tried[best][0] == -float("inf"):
        raise RuntimeError(
            f"None of {len(tried)} strengths gives a fit that ends. Look at the vectors for outliers, or name "
            "strengths of your own."
        )
    table = [(strengths, nats) for strengths, (nats, _) in tried.items()]
    return Strengths(best, tried[best][1], tried[best][0], table)


def _climb(
    trial: Callable[[tuple[float, ...]], float], start: tuple[float, ...], tried: dict[tuple[float, ...], object]
) -> tuple[float, ...]:
    """From the best of a grid: one strength after the other, the last one first, each in the direction that helps;
    rests when none does.
    """
    around = product(*([s * factor for factor in COARSE] for s in start))
    best = max(around, key=trial)
    moves = True
    while moves and len(tried) < MOST_TRIALS:
        moves = False
        for place in reversed(range(len(start))):
            for factor in (1 / FACTOR, FACTOR):
                while len(tried) < MOST_TRIALS:
                    other = tuple(s * factor if i == place else s for i, s in enumerate(best))
                    if trial(other) <= trial(best) + LEAST_GAIN:
                        break
                    best, moves = other, True
    return best
