"""What each type thinks of each completion: log-probabilities under K adapters, implicit rewards, evidence of rows."""

from collections.abc import Iterator

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from palign.data.preferences import Preferences
from palign.functional.losses import implicit_reward, plackett_luce
from palign.models.adapters import TypePolicies
from palign.models.completions import TokenizedItems, tokens_at_once
from palign.parallel.sharded import forwards, turns

__all__ = ["gathered", "implicit_rewards", "merged", "row_log_likelihoods", "type_logps"]

ROWS_AT_ONCE = 65_536


@torch.no_grad()
def type_logps(
    policies: TypePolicies,
    items: TokenizedItems,
    wanted: np.ndarray,
    *,
    batch_size: int = 32,
    rank: int = 0,
    n_ranks: int = 1,
    show_progress: bool = False,
    label: str = "E-step",
) -> np.ndarray:
    """Log-probabilities of completions under the types, each computed once.

    Args:
        policies: the K adapters on their base.
        items: unique completions.
        wanted: (n_items, n_types) bool: which are asked for.
        batch_size: completions in a forward pass.
        rank, n_ranks: this process takes every n_ranks-th batch; the others' cells stay NaN.
        label: of the progress bar.

    Returns:
        (n_items, n_types) float64 nats, NaN where nothing was asked for or computed here.
    """
    device = next(policies.parameters()).device
    item_logps = np.full(wanted.shape, np.nan)
    was_training = policies.training
    policies.eval()
    chosen, room = np.flatnonzero(wanted.any(1)), tokens_at_once(device)
    batches = list(items.batches_by_length(chosen, batch_size, max_tokens=room))[rank::n_ranks]
    try:
        with forwards(policies):
            batch_turns = turns(batches, np.zeros(1, dtype=np.int64), policies)
            for numbers, is_own in tqdm(batch_turns, total=len(batches), desc=label, disable=not show_progress):
                cells = torch.from_numpy(wanted[numbers] & is_own)
                batch = {name: tensor.to(device) for name, tensor in items.collate(numbers).items()}
                logps = policies(**batch, needs_grad=cells.to(device)).double().cpu().numpy()
                if is_own:
                    item_logps[numbers] = np.where(wanted[numbers], logps, np.nan)
    finally:
        policies.train(was_training)
    return item_logps


def gathered(part: np.ndarray) -> np.ndarray:
    """What all processes computed together: arrays of one shape, each cell known to one of them at most."""
    return part if PartialState().num_processes == 1 else merged(gather_object([part]))


def merged(parts: list[np.ndarray]) -> np.ndarray:
    """Arrays of one shape in which each cell is known to one process at most, NaN elsewhere."""
    whole = parts[0].copy()
    for part in parts[1:]:
        np.copyto(whole, part, where=np.isnan(whole))
    return whole


def implicit_rewards(prefs: Preferences, logps: np.ndarray, reference: np.ndarray, *, beta: float) -> Tensor:
    """β·h_k of every item of every row: (rows, max_items, n_types) float64, 0 at padding.

    h_k = log π_k(y|x) − log π_ref(y|x), in nats, summed over completion tokens (Rafailov et al. 2023, eq. 5).

    Args:
        logps: (n_items, n_types).
        reference: (n_items,).
    """
    rewards = implicit_reward(logps, reference[:, None], beta)
    present = prefs.item_indices >= 0
    item_indices = np.where(present, prefs.item_indices, prefs.item_indices[:, :1])
    return torch.from_numpy(rewards[item_indices] * present[..., None])


def row_log_likelihoods(rewards: Tensor, ranks: np.ndarray) -> Tensor:
    """(rows, max_items, n_types) rewards and (rows, max_items) ranks → (rows, n_types) nats, by stages."""
    parts = [
        -plackett_luce(rewards[rows].movedim(-1, 0), torch.from_numpy(ranks[rows].astype(np.int64))).T
        for rows in _slices(len(rewards))
    ]
    return torch.cat(parts) if parts else rewards.new_zeros(0, rewards.shape[2])


def _slices(n_rows: int) -> Iterator[slice]:
    for start in range(0, n_rows, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)
