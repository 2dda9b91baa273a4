"""The E-step of a round: whose word counts how much, and what to look at afterwards."""

import logging
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from palign.data.preferences import Preferences
from palign.functional.mixture import responsibilities
from palign.functional.mixture_checks import (
    dead_types,
    duplicate_types,
    frozen_assignment,
    row_margins,
    weak_adapters,
)
from palign.models.adapters import TypePolicies, untrained_types
from palign.models.completions import TokenizedItems
from palign.models.type_scores import gathered, implicit_rewards, row_log_likelihoods, type_logps
from palign.trainers.mixture.start import LinearStart
from palign.trainers.mixture.state import MixtureState

__all__ = ["checks_of_round", "likelihoods_of_rows", "posterior_of_round", "reference_likelihoods", "words_beside"]

logger = logging.getLogger(__name__)


def likelihoods_of_rows(
    policies: TypePolicies,
    items: TokenizedItems,
    prefs: Preferences,
    reference_logps: np.ndarray,
    asked: Tensor,
    *,
    beta: float,
    batch_size: int,
    show_progress: bool = False,
) -> Tensor:
    """(rows, 2, n_types): log-likelihoods (nats) and margins (`row_margins`) of the cells asked for, and maybe others.

    All processes call this, and each computes its share. An adapter that was never trained is the reference, and is
    not run.

    Args:
        reference_logps: (n_items,) nats.
        asked: (rows, n_types) bool.
    """
    is_new = untrained_types(policies)
    wanted = np.zeros((len(items), policies.n_types), dtype=bool)
    present = prefs.item_indices >= 0
    row_of, _ = present.nonzero()
    np.logical_or.at(wanted, prefs.item_indices[present], (asked.numpy() & ~is_new)[row_of])
    state = PartialState()
    share = type_logps(
        policies, items, wanted, batch_size=batch_size, rank=state.process_index, n_ranks=state.num_processes,
        show_progress=show_progress,
    )  # fmt: skip
    logps = np.where(is_new, reference_logps[:, None], gathered(share))
    rewards = implicit_rewards(prefs, logps, reference_logps.astype(np.float64), beta=beta)
    margins = row_margins(rewards, torch.from_numpy(prefs.ranks))
    return torch.stack([row_log_likelihoods(rewards, prefs.ranks), margins], 1)


def reference_likelihoods(prefs: Preferences) -> Tensor:
    """(rows,) float64 nats of every ranking under a reward that prefers nothing."""
    rewards = torch.zeros(*prefs.ranks.shape, 1, dtype=torch.float64)
    return row_log_likelihoods(rewards, prefs.ranks)[:, 0]


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
    evidence = share * temper * state.log_likelihoods + words_beside(start, share)
    posterior = responsibilities(evidence, state.mixing_weights)
    check = weak_adapters(posterior, state.responsibilities)
    if check.verdict != "ok":
        logger.warning("%s: %s", check.name, check.message)
        posterior = state.responsibilities
    return posterior, asdict(check)


def words_beside(start: LinearStart, share: float) -> Tensor | float:
    """(n_annotators, n_types) nats of the linear head, as far as the adapters' share leaves it a word; else 0."""
    return (1 - share) * start.log_likelihoods if start.log_likelihoods is not None and share < 1 else 0.0


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
