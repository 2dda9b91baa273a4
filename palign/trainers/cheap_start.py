"""EM on frozen embeddings, before any adapter exists: how many types, who belongs to which, are there types at all.

Each type is a linear reward over principal components of the reference's own hidden states. That is a poor reward and
a good divider: which of two people's tastes is opposed shows in seconds, where the language model would need hours.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from palign.data.preferences import Preferences
from palign.functional.linear_mixture import LinearMixture, fit_linear_mixture
from palign.functional.mixture_start import find_stages, spectral_start
from palign.functional.type_count import choose_n_types
from palign.trainers.mixture_dpo_config import MixtureDPOConfig, TypesFrom

__all__ = ["CheapStart", "cheap_start", "given_start", "reward_features"]

logger = logging.getLogger(__name__)
MAX_DIFFERENCES = 50_000  # rows that the principal components are taken from
ROWS_AT_ONCE = 4096


@dataclass
class CheapStart:
    """Where the language model's EM begins.

    Attributes:
        responsibilities: (n_annotators, n_types) float64.
        log_likelihoods: (n_annotators, n_types) float64 nats under the cheap head; None where there was no fit.
        choice: how K was chosen, a dict for each K; empty where it was given.
        checks: what the cheap head says of the types, as dicts with name, verdict, value and message.
    """

    responsibilities: Tensor
    log_likelihoods: Tensor | None = None
    choice: list[dict[str, float]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_types(self) -> int:
        """K."""
        return self.responsibilities.shape[1]


def given_start(responsibilities: Any, rows: Preferences, args: MixtureDPOConfig) -> CheapStart | None:
    """Responsibilities handed in by the user, checked; None where EM or clusters are to find them.

    Raises:
        ValueError: they are missing, not asked for, of another shape, or not a distribution over types.
    """
    if (responsibilities is not None) != (args.types_from == TypesFrom.GIVEN):
        raise ValueError(
            f"types_from is {args.types_from!r} and responsibilities are "
            f"{'missing' if responsibilities is None else 'given'}; types_from='given' needs them, and nothing else "
            "reads them."
        )
    if responsibilities is None:
        return None
    gamma = torch.as_tensor(responsibilities, dtype=torch.float64)
    n_annotators = len(rows.annotators())
    if gamma.ndim != 2 or len(gamma) != n_annotators:
        raise ValueError(
            f"responsibilities have shape {tuple(gamma.shape)}; ({n_annotators}, n_types) is needed, a row for each "
            "annotator in the order of train_dataset.annotators()."
        )
    if (
        not bool(torch.isfinite(gamma).all())
        or bool((gamma < 0).any())
        or bool(((gamma.sum(1) - 1).abs() > 1e-6).any())
    ):
        raise ValueError("responsibilities must be 0 or more and sum to 1 in every row.")
    return CheapStart(gamma)


def cheap_start(
    rows: Preferences, states: np.ndarray, annotator_index: Tensor, n_annotators: int, args: MixtureDPOConfig
) -> CheapStart:
    """Fit the cheap head; K is chosen where `args.n_types` is 'auto'. One process computes, all get the result.

    Args:
        rows: judgements of text.
        states: (n_items, hidden) pooled hidden states of every item under the reference.
        annotator_index: (rows,).
    """
    if args.n_types == "1":
        return CheapStart(torch.ones(n_annotators, 1, dtype=torch.float64))
    held: list[Any] = [None]
    if PartialState().is_main_process:
        held[0] = _fitted(rows, states, annotator_index, n_annotators, args)
    return broadcast_object_list(held)[0]


def _fitted(
    rows: Preferences, states: np.ndarray, annotator_index: Tensor, n_annotators: int, args: MixtureDPOConfig
) -> CheapStart:
    features = reward_features(rows, states, args.head_dim)
    own = torch.from_numpy(np.where(rows.item_indices < 0, rows.item_indices[:, :1], rows.item_indices))
    data = (features, own, torch.from_numpy(rows.ranks.astype(np.int64)), annotator_index, n_annotators)
    options = {"ridge": args.head_ridge, "temper_start": args.temper_start, "seed": args.seed}
    choice = None
    if args.n_types == "auto":
        choice = choose_n_types(*data, max_types=min(args.max_types, n_annotators), **options)
        logger.info("n_types=%d was chosen by held-out likelihood.", choice.n_types)
    n_types = choice.n_types if choice is not None else int(args.n_types)
    if n_types == 1:
        return CheapStart(torch.ones(n_annotators, 1, dtype=torch.float64), choice=choice.table if choice else [])
    fit = fit_linear_mixture(*data, n_types, n_restarts=args.n_restarts, **options)
    gamma = fit.responsibilities
    if args.types_from == TypesFrom.CLUSTER:
        # not fit.start, which is random where a random restart ended best
        clusters = spectral_start(features, find_stages(*data[1:]), n_types, seed=args.seed).argmax(1)
        gamma = torch.eye(n_types, dtype=torch.float64)[clusters]
    checks = _checks(fit, data, rows, args, options)
    return CheapStart(gamma, fit.log_likelihoods, choice.table if choice else [], checks)


def _checks(
    fit: LinearMixture, data: tuple[Any, ...], rows: Preferences, args: MixtureDPOConfig, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Would another start give the same people, would shuffled names, does length alone."""
    return []


def reward_features(rows: Preferences, states: np.ndarray, n_dims: int) -> Tensor:
    """Principal components of how items of one row differ, of unit variance each: (n_items, ≤ n_dims) float64.

    What items of a row share (the prompt, above all) cancels in every comparison and is not looked at.
    """
    states = torch.from_numpy(np.array(states, dtype=np.float32))
    step = max(1, len(rows) // MAX_DIFFERENCES)
    own, present = rows.item_indices[::step], rows.item_indices[::step] >= 0
    covariance = torch.zeros(states.shape[1], states.shape[1], dtype=torch.float64)
    for start in range(0, len(own), ROWS_AT_ONCE):  # rows × items × hidden would fill the memory
        part = slice(start, start + ROWS_AT_ONCE)
        there = torch.from_numpy(present[part])
        within = states[torch.from_numpy(np.where(present[part], own[part], own[part, :1]))].double()
        mean = (within * there[..., None]).sum(1, keepdim=True) / there.sum(1)[:, None, None]
        differences = (within - mean)[there]
        covariance += differences.T @ differences
    values, vectors = torch.linalg.eigh(covariance / int(present.sum()))
    values, vectors = values.flip(0)[:n_dims], vectors.flip(1)[:, :n_dims]
    kept = values > values[0] * 1e-10
    directions = vectors[:, kept] / values[kept].sqrt()
    return torch.cat([part.double() @ directions for part in states.split(ROWS_AT_ONCE)])
