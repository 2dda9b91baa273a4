"""Is a fitted mixture to be believed? Each check looks at one way in which a fit shows types that are not there.

A check says "ok", "look" (the types may be an artefact; here is where to look) or "stop" (the data give no reason to
speak of types), with the number it went by and a sentence.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palign.functional.evidence.components import item_components
from palign.functional.evidence.votes import Votes
from palign.functional.losses import strictly_below
from palign.functional.mixture_linear import POOLED_RIDGE, fit_linear_mixture
from palign.functional.mixture_start import kmeans
from palign.functional.partitions import adjusted_rand_index
from palign.functional.people_sample import draw_people

__all__ = [
    "Check",
    "dead_types",
    "duplicate_types",
    "frozen_assignment",
    "length_confounder",
    "longer_wins_rate",
    "permutation_test",
    "restart_stability",
    "row_margins",
    "weak_adapters",
]

STABLE = 0.8  # adjusted Rand index between restarts
RIVAL = 0.95  # of the best gain over one type: below, a local optimum that nobody would take
SIGNIFICANT = 0.05
N_DRAWN = 4000  # people that the permutation test is put to
DUPLICATE = 0.98  # correlation of margins
CONFIDENT = 0.95  # mean of the largest responsibility
MOVED = 0.25  # share of people who changed type since the start; of a random start, two thirds should (three types)
SURE = 0.9  # responsibility from which on a person is placed
LENGTH_EXPLAINS = 0.6  # adjusted Rand index between types and a split by length


@dataclass(frozen=True)
class Check:
    """`name`; `verdict`: "ok", "look" or "stop"; `value`: the number it went by, None where there was nothing to look
    at; `message`: a sentence.
    """

    name: str
    verdict: str
    value: float | None
    message: str


def restart_stability(restart_types: Tensor, gains: Tensor | None = None) -> Check:
    """Do other starts find the same people together?

    Args:
        restart_types: (n_restarts, n_annotators) int64, the best restart first (`LinearMixture.restart_types`).
        gains: (n_restarts,) nats that each fits better than one type for all does. A restart with less than .95 of
            the best one's gain ended badly and is no rival: it is left out. None lets all of them speak.

    The value is the median, over the others, of the adjusted Rand index with the best; None where there is no rival.
    """
    if len(restart_types) < 2:
        return Check("restart_stability", "ok", None, "a single start was made; stability was not looked at.")
    rivals = restart_types[1:]
    if gains is not None:
        rivals = rivals[gains[1:] >= RIVAL * gains[0]]
    if not len(rivals):
        sentence = f"none of {len(restart_types) - 1} other restarts fits nearly as well as the best"
        return Check("restart_stability", "ok", None, f"{sentence}.")
    value = float(np.median([adjusted_rand_index(restart_types[0], other) for other in rivals]))
    sentence = (
        f"the median agreement (adjusted Rand index) of {len(rivals)} other restarts that fit about as well with the "
        f"best is {value:.2f}"
    )
    if value >= STABLE:
        return Check("restart_stability", "ok", value, f"{sentence}.")
    return Check(
        "restart_stability", "look", value, f"{sentence}, below {STABLE}: types depend on the start. Try fewer."
    )


def permutation_test(
    features: Tensor,
    votes: Votes,
    n_types: int,
    *,
    n_permutations: int = 19,
    row_weights: Tensor | None = None,
    ridge: float = 1.0,
    pooled_ridge: float = POOLED_RIDGE,
    temper_start: float = 0.2,
    n_restarts: int = 1,
    max_steps: int = 30,
    seed: int = 0,
) -> Check:
    """Do types fit better than when annotator ids are shuffled over the rows? On the linear head.

    Rows that are joined by shared items keep one id, for they are of one mind whoever that is. Not asked (value None)
    where most people have a single row or group of rows: a shuffle then only renames them. A shuffle also takes
    from people the topics they were asked about: where everybody judged different topics, tastes that all share but
    that differ by topic pass for types.

    One type fits the same however ids are shuffled, so the penalised log-likelihood of `n_types` is compared itself.
    Votes and options are those of `fit_linear_mixture`; of more than `N_DRAWN` people so many are drawn. The value is
    p = (1 + shuffles as good) / (1 + n_permutations).
    """
    if n_types == 1:
        return Check("permutation_test", "ok", 1.0, "there is one type; nothing to test.")
    if n_permutations < 1:
        raise ValueError(f"n_permutations is {n_permutations}; at least 1, and 19 to speak at the level of .05.")
    arrays = (part.numpy() for part in (votes.item_indices, votes.ranks, votes.annotator_index))
    units = torch.from_numpy(np.unique(item_components(*arrays), return_inverse=True)[1])
    first = torch.zeros(int(units.max()) + 1, dtype=torch.int64).scatter_(0, units, torch.arange(len(units)))
    counts = torch.bincount(votes.annotator_index[first])
    if int(counts[counts > 0].median()) < 2:
        sentence = (
            "most annotators have one row, or rows that hang together by shared items, and to shuffle ids then only "
            "renames people; nothing was tested."
        )
        return Check("permutation_test", "ok", None, sentence)
    if votes.n_annotators > N_DRAWN:
        people, keep, numbers = draw_people(votes.annotator_index, votes.n_annotators, N_DRAWN, seed=seed)
        votes = votes.of_rows(keep).said_by(numbers, len(people))
        units = torch.unique(units[keep], return_inverse=True)[1]
        row_weights = None if row_weights is None else row_weights[keep]
        first = torch.zeros(int(units.max()) + 1, dtype=torch.int64).scatter_(0, units, torch.arange(len(units)))
    generator = torch.Generator().manual_seed(seed)
    owner_of_unit = votes.annotator_index[first]
    owners = [votes.annotator_index]
    owners += [
        owner_of_unit[torch.randperm(len(owner_of_unit), generator=generator)][units] for _ in range(n_permutations)
    ]
    options = {
        "ridge": ridge,
        "pooled_ridge": pooled_ridge,
        "temper_start": temper_start,
        "n_restarts": n_restarts,
        "max_steps": max_steps,
        "row_weights": row_weights,
    }
    fitted = [
        fit_linear_mixture(features, votes.said_by(index), n_types, seed=seed, tolerance=1e-5, **options).objective
        for index in owners
    ]
    as_good = sum(value >= fitted[0] for value in fitted[1:])
    p = (1 + as_good) / (1 + n_permutations)
    sentence = f"{as_good} of {n_permutations} shuffles of annotator ids fit as well as the data (p = {p:.3f})"
    if p <= max(SIGNIFICANT, 1 / (1 + n_permutations)):
        return Check("permutation_test", "ok", p, f"{sentence}.")
    return Check("permutation_test", "stop", p, f"{sentence}: who said what tells nothing. Use one type.")


def dead_types(responsibilities: Tensor) -> Check:
    """Types with less than one person: (n_annotators, n_types), of annotators with rows; the value is their number."""
    people = responsibilities.double().sum(0)
    dead = torch.where(people < 1)[0].tolist()
    if not dead:
        return Check("dead_types", "ok", 0.0, f"the smallest type has {float(people.min()):.1f} people.")
    named = ", ".join(str(kind) for kind in dead)
    return Check("dead_types", "look", float(len(dead)), f"types {named} have less than one person. Use fewer types.")


def duplicate_types(margins: Tensor) -> Check:
    """Two types that want the same: margins (rows, n_types) of the same rows; the value is the largest correlation."""
    if margins.shape[1] == 1 or len(margins) < 2:
        return Check("duplicate_types", "ok", 0.0, "there is one type, or hardly a row; nothing to compare.")
    centred = margins.double() - margins.double().mean(0)
    norm = centred.norm(dim=0)
    centred = torch.where(norm > 0, centred / norm.where(norm > 0, torch.ones_like(norm)), 0.0)
    correlation = (centred.T @ centred).fill_diagonal_(-math.inf)
    value = float(correlation.max())
    a, b = sorted(divmod(int(correlation.argmax()), margins.shape[1]))
    sentence = f"the margins of types {a} and {b}, the most alike, correlate at {value:.3f}"
    if value <= DUPLICATE:
        return Check("duplicate_types", "ok", value, f"{sentence}.")
    return Check("duplicate_types", "look", value, f"{sentence}, above {DUPLICATE}: they are one. Use fewer types.")


def frozen_assignment(responsibilities: Tensor, start: Tensor, *, agreement: float | None = None) -> Check:
    """Does everybody sit, with certainty, where they were put? Flexible policies believe the votes they learn from.

    Args:
        responsibilities: (n_annotators, n_types) at the end.
        start: (n_annotators, n_types) at the beginning.
        agreement: of restarts (`restart_stability(...).value`). People who do not move because the start was right are
            placed alike by other starts: at .8 or more nothing is frozen. None if no other start fits as well.

    The value is the share of people who changed type.
    """
    certain = float(responsibilities.max(1).values.mean())
    moved = float((responsibilities.argmax(1) != start.argmax(1)).double().mean())
    sentence = f"mean largest responsibility {certain:.3f}, and {moved:.0%} of people changed type since the start"
    explained = agreement is not None and agreement >= STABLE
    if responsibilities.shape[1] == 1 or certain <= CONFIDENT or moved >= MOVED or explained:
        return Check("frozen_assignment", "ok", moved, f"{sentence}.")
    advice = (
        "policies may have learnt who was put where. Temper the E-step from a spectral start, and compare restarts."
    )
    return Check("frozen_assignment", "look", moved, f"{sentence}: {advice}")


def weak_adapters(responsibilities: Tensor, before: Tensor) -> Check:
    """Do policies place at least half as many people surely as were placed before: (n_annotators, n_types) each?

    The value is the number of people they place.
    """
    n_sure, n_were = (int((gamma.max(1).values > SURE).sum()) for gamma in (responsibilities, before))
    sentence = f"the adapters place {n_sure} {'person' if n_sure == 1 else 'people'} surely, {n_were} were before"
    if n_sure >= n_were / 2:
        return Check("weak_adapters", "ok", float(n_sure), f"{sentence}.")
    return Check(
        "weak_adapters",
        "look",
        float(n_sure),
        f"{sentence}: they are trained too little to tell types, and responsibilities stay as they were. Train longer "
        "(num_train_epochs), or raise learning_rate.",
    )


def longer_wins_rate(lengths: Tensor, ranks: Tensor, annotator_index: Tensor, n_annotators: int) -> Tensor:
    """How often a person prefers the longer completion, in [0, 1]; NaN for people without a strict pair.

    Args:
        lengths: (rows, max_items), in any unit.
        ranks: (rows, max_items), −1 is padding.
        annotator_index: (rows,).

    Returns:
        (n_annotators,) float64: of all pairs (winner, beaten), the share in which the winner is longer, ties a half.
    """
    beaten = strictly_below(ranks).double()
    longer = (lengths[:, :, None] > lengths[:, None, :]).double()
    equal = (lengths[:, :, None] == lengths[:, None, :]).double()
    wins = (beaten * (longer + equal / 2)).sum((1, 2))
    sums = torch.zeros(n_annotators, 2, dtype=torch.float64)
    sums.index_add_(0, annotator_index, torch.stack([wins, beaten.sum((1, 2))], 1))
    return sums[:, 0] / sums[:, 1]


def length_confounder(responsibilities: Tensor, longer_wins: Tensor) -> Check:
    """Are types only tastes for length? Compares them with the same number of clusters of `longer_wins_rate`.

    Args:
        responsibilities: (n_annotators, n_types).
        longer_wins: (n_annotators,) rates; people whose rate is NaN are left out.

    The value is the adjusted Rand index.
    """
    known = ~longer_wins.isnan()
    n_types, rates = responsibilities.shape[1], longer_wins[known].double()
    if n_types == 1 or len(rates.unique()) < n_types:
        return Check("length_confounder", "ok", 0.0, "one type, or everybody likes length alike; nothing to compare.")
    types = responsibilities[known].argmax(1)
    split = kmeans(rates[:, None], torch.ones_like(rates), n_types, np.random.default_rng(0), 10)
    value = adjusted_rand_index(types, split)
    means = ", ".join(f"{float(rates[types == k].mean()):.2f}" for k in range(n_types) if bool((types == k).any()))
    sentence = f"types prefer the longer completion in shares of {means}; a split by that alone agrees at {value:.2f}"
    if value < LENGTH_EXPLAINS:
        return Check("length_confounder", "ok", value, f"{sentence}.")
    return Check("length_confounder", "look", value, f"{sentence}: length alone explains the types.")


def row_margins(scores: Tensor, ranks: Tensor) -> Tensor:
    """Best item less the mean of the others, for `duplicate_types`: (rows, max_items, n_types) → (rows, n_types).

    Rows in which all items tie give 0; what stands at padding is not read.
    """
    present = (ranks >= 0).double()[..., None]
    best = ((ranks == 0).double() / (ranks == 0).sum(1, keepdim=True).clamp_min(1))[..., None]
    others = ((ranks > 0).double() / (ranks > 0).sum(1, keepdim=True).clamp_min(1))[..., None]
    values = torch.where(present > 0, scores.double(), 0.0)
    return ((best - others) * values).sum(1) * (ranks > 0).any(1, keepdim=True)
