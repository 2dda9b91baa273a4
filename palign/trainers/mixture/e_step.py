"""The E-step of a round: whose word counts how much, and what to look at afterwards."""

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from palign.data.preferences import Preferences
from palign.functional.evidence.positions import position_within
from palign.functional.mixture import responsibilities, sum_by_annotator
from palign.functional.mixture_checks import (
    dead_types,
    duplicate_types,
    frozen_assignment,
    row_margins,
    weak_adapters,
)
from palign.models.adapters import TypePolicies
from palign.models.completions import TokenizedItems
from palign.models.type_scores import gathered, implicit_rewards, row_log_likelihoods, type_logps
from palign.trainers.mixture.start import LinearStart
from palign.trainers.mixture.state import MixtureState

__all__ = ["checks_of_round", "likelihoods_of_rows", "posterior_of_round", "rows_to_ask", "scaled_sums"]

logger = logging.getLogger(__name__)


def likelihoods_of_rows(
    policies: TypePolicies,
    items: TokenizedItems,
    prefs: Preferences,
    reference_logps: np.ndarray,
    recorded: Tensor,
    asked: Tensor | None = None,
    *,
    beta: float,
    batch_size: int,
    show_progress: bool = False,
) -> Tensor:
    """(rows, 2, n_types): log-likelihoods (nats) and margins (`row_margins`) recorded in the round's passes; of
    the others those asked for are computed now.

    All processes call this, and each computes its share. What is neither recorded nor asked for is NaN.

    Args:
        reference_logps: (n_items,) nats.
        recorded: (rows, 2, n_types), NaN where this process recorded nothing.
        asked: (rows,) bool; None is all.
    """
    recorded = torch.from_numpy(gathered(recorded.numpy()))
    missing = torch.isnan(recorded[:, 0]).numpy()
    if asked is not None:
        missing &= asked.numpy()[:, None]
    wanted = np.zeros((len(items), policies.n_types), dtype=bool)
    present = prefs.item_indices >= 0
    row_of, _ = present.nonzero()
    np.logical_or.at(wanted, prefs.item_indices[present], missing[row_of])
    state = PartialState()
    share = type_logps(
        policies, items, wanted, batch_size=batch_size, rank=state.process_index, n_ranks=state.num_processes,
        show_progress=show_progress,
    )  # fmt: skip
    rewards = implicit_rewards(prefs, gathered(share), reference_logps.astype(np.float64), beta=beta)
    margins = row_margins(rewards, torch.from_numpy(prefs.ranks))
    computed = torch.stack([row_log_likelihoods(rewards, prefs.ranks), margins], 1)
    return torch.where(torch.isnan(recorded), computed, recorded)


def posterior_of_round(
    state: MixtureState, start: LinearStart, *, share: float, temper: float
) -> tuple[Tensor, dict[str, Any]]:
    """(n_annotators, n_types): Bayes under the adapters, in early rounds with the linear head's word beside theirs;
    and the check `weak_adapters`.

    Young adapters say little, and a posterior from nothing is the prior: everybody would fall to the largest type. So
    the two log-likelihoods are averaged. Where less than half as many people are sure of their type as before, the
    adapters were trained too little to judge, and responsibilities stay.

    Args:
        state: with the log-likelihoods under the adapters.
        start: the linear head's.
        share: of the adapters' word in the average; 1 in the last round.
        temper: of their log-likelihoods.
    """
    evidence = share * temper * state.log_likelihoods
    if start.log_likelihoods is not None and share < 1:
        evidence = evidence + (1 - share) * start.log_likelihoods
    posterior = responsibilities(evidence, state.mixing_weights)
    check = weak_adapters(posterior, state.responsibilities)
    if check.verdict != "ok":
        logger.warning("%s: %s", check.name, check.message)
        posterior = state.responsibilities
    return posterior, asdict(check)


def rows_to_ask(annotator_index: Tensor, n_each: int, *, seed: int) -> Tensor:
    """(rows,) bool: at most `n_each` rows of each annotator, drawn; all of them if it is 0."""
    n_rows = len(annotator_index)
    if n_each == 0:
        return torch.ones(n_rows, dtype=torch.bool)
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    order = order[annotator_index[order].argsort(stable=True)]
    position = torch.from_numpy(position_within(torch.bincount(annotator_index).numpy()))
    asked = torch.zeros(n_rows, dtype=torch.bool)
    asked[order[position < n_each]] = True
    return asked


def scaled_sums(
    by_row: Tensor, annotator_index: Tensor, n_annotators: int, row_weights: Tensor | None = None
) -> Tensor:
    """(n_annotators, n_types): log-likelihoods of the rows that are known, times all rows over known rows of a person.

    Args:
        by_row: (rows, n_types) nats; a row with a NaN is not known. Everybody has a known row.
        annotator_index: (rows,).
        row_weights: (rows,) float64, what a row counts for (`palign.functional.evidence.rows`); 1 if None.
    """
    known = ~torch.isnan(by_row).any(1)
    weights = torch.ones(len(by_row), dtype=torch.float64) if row_weights is None else row_weights
    counts = sum_by_annotator(weights, annotator_index, n_annotators)
    n_known = sum_by_annotator(weights[known], annotator_index[known], n_annotators)
    sums = sum_by_annotator(by_row[known] * weights[known, None], annotator_index[known], n_annotators)
    return sums * (counts / n_known)[:, None]


def checks_of_round(state: MixtureState, start: LinearStart, margins: Tensor) -> list[dict[str, Any]]:
    """Dead, duplicate and frozen types, of (rows, n_types) margins under the adapters."""
    agreement = next((check["value"] for check in start.checks if check["name"] == "restart_stability"), None)
    checks = [
        dead_types(state.responsibilities),
        duplicate_types(margins[~torch.isnan(margins).any(1)]),
        frozen_assignment(state.responsibilities, start.responsibilities, agreement=agreement),
    ]
    for check in checks:
        if check.verdict != "ok":
            logger.warning("%s: %s", check.name, check.message)
    return [asdict(check) for check in checks]
