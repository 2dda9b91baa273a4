"""Votes that were cast, as policies and reference see them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import PartialState
from torch import Tensor

from palign.data.preferences import Preferences
from palign.models.completions import TokenizedItems
from palign.models.mixture_policy import MixturePolicy
from palign.models.reference_logps import reference_pass
from palign.models.single_adapter import AdapterPolicies
from palign.models.type_scores import gathered, implicit_rewards, type_logps

__all__ = ["cached_reference", "vote_items", "vote_rewards"]


def vote_items(mixture: MixturePolicy, rows: Preferences) -> TokenizedItems:
    """Token ids of what was voted on, as the mixture's types read it."""
    return mixture.items_of(rows)


def vote_rewards(
    mixture: MixturePolicy, rows: Preferences, items: TokenizedItems, names: Sequence[str | None],
    reference: np.ndarray,
) -> Tensor:  # fmt: skip
    """(rows, max_items, n_names) β·h of judged completions under any adapters, by all processes together.

    `reference` is (n_items,) nats.
    """
    policies, state = AdapterPolicies(mixture.policies.policy, names), PartialState()
    wanted = np.ones((len(items), len(names)), dtype=bool)
    logps = gathered(type_logps(policies, items, wanted, rank=state.process_index, n_ranks=state.num_processes))
    return implicit_rewards(rows, logps, reference.astype(np.float64), beta=mixture.record.beta)


def cached_reference(mixture: MixturePolicy, items: TokenizedItems, output_dir: Path) -> np.ndarray:
    """(n_items,) float32 nats, kept in the output folder; all processes together, each computes its share."""
    state = PartialState()
    passed = reference_pass(
        mixture.policies.policy, items, cache_dir=output_dir / "reference_logps", show_progress=False,
        rank=state.process_index, n_ranks=state.num_processes,
    )  # fmt: skip
    return passed.logps.astype(np.float32)
