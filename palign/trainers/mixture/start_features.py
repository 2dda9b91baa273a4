"""What the linear head reads of a completion: principal components of hidden states, and of the tokens themselves.

A large model's states say what a completion means. Those of a small one hardly do, and there the tokens it holds tell
more. Both are taken as differences between the items of one row: what these share, the prompt above all, cancels in
every comparison.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import svds
from torch import Tensor

from palign.data.preferences import Preferences
from palign.functional.evidence.positions import position_within
from palign.models.completions import TokenizedItems

__all__ = ["ItemFeatures", "state_projection", "token_projection"]

MAX_ROWS = 50_000  # that principal components are taken from
ROWS_AT_ONCE = 4096
NEGLIGIBLE = 1e-10  # of the largest variance


@dataclass(frozen=True, eq=False)
class StateProjection:
    """Principal directions of hidden states.

    Attributes:
        directions: (hidden, dim) float64.
    """

    directions: Tensor

    def __call__(self, states: np.ndarray) -> Tensor:
        """(n_items, dim) float64 of states (n_items, hidden)."""
        parts = torch.from_numpy(np.array(states, dtype=np.float32)).split(ROWS_AT_ONCE)
        return torch.cat([part.double() @ self.directions for part in parts])


@dataclass(frozen=True, eq=False)
class TokenProjection:
    """Principal directions of the sets of tokens.

    Attributes:
        weights: (n_tokens,) float64, rare tokens weigh more; an id from n_tokens on counts for nothing.
        directions: (n_tokens, dim) float64.
    """

    weights: np.ndarray
    directions: np.ndarray

    def __call__(self, items: TokenizedItems) -> Tensor:
        """(n_items, dim) float64."""
        return torch.from_numpy(np.ascontiguousarray(_token_table(items, self.weights) @ self.directions))


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """What the linear start reads of an item: states, tokens or both, side by side."""

    states: StateProjection | None = None
    tokens: TokenProjection | None = None

    def __call__(self, states: np.ndarray, items: TokenizedItems | None) -> Tensor:
        """(n_items, dim) float64.

        Args:
            states: (n_items, hidden) pooled hidden states under the reference.
            items: token ids of the same items; None where tokens are not read.
        """
        parts = [] if self.states is None else [self.states(states)]
        parts += [] if self.tokens is None else [self.tokens(items)]
        return torch.cat(parts, 1)


def state_projection(rows: Preferences, states: np.ndarray, n_dims: int) -> StateProjection:
    """Principal components of hidden states, of unit variance each within the rows.

    Args:
        rows: which items are compared with which.
        states: (n_items, hidden).
        n_dims: components at most.

    Raises:
        ValueError: all items of every row have one and the same state.
    """
    states = torch.from_numpy(np.array(states, dtype=np.float32))
    indices, present = _spread_rows(rows)
    covariance = torch.zeros(states.shape[1], states.shape[1], dtype=torch.float64)
    for start in range(0, len(indices), ROWS_AT_ONCE):  # rows × items × hidden would fill the memory
        part = slice(start, start + ROWS_AT_ONCE)
        there = torch.from_numpy(present[part])
        within = states[torch.from_numpy(indices[part])].double()
        mean = (within * there[..., None]).sum(1, keepdim=True) / there.sum(1)[:, None, None]
        differences = (within - mean)[there]
        covariance += differences.T @ differences
    if float(covariance.diagonal().max()) == 0.0:
        raise ValueError(
            "the completions of every row have the same hidden state, and tell nothing of what people prefer. Look at "
            "the rows (are completions cut off by max_length?), or give n_types=1."
        )
    values, vectors = torch.linalg.eigh(covariance / int(present.sum()))
    values, vectors = values.flip(0)[:n_dims], vectors.flip(1)[:, :n_dims]
    if not float(values[0]) > 0:
        raise ValueError(
            "all completions of a row have the same hidden state, in every row: nothing tells them apart. Raise "
            "max_length if they are cut where they begin to differ, or look at the model's weights."
        )
    kept = values > values[0] * NEGLIGIBLE
    return StateProjection(vectors[:, kept] / values[kept].sqrt())


def token_projection(rows: Preferences, items: TokenizedItems, n_dims: int) -> TokenProjection:
    """The same of the set of tokens in a completion, rare ones weighted up (tf–idf, length one).

    Args:
        rows: which items are compared with which.
        items: token ids of `rows.items`.
        n_dims: components at most.
    """
    weights = _token_weights(items)
    table = _token_table(items, weights)
    indices, present = _spread_rows(rows)
    shares = present / present.sum(1, keepdims=True)
    n_rows, width = indices.shape
    slots = np.flatnonzero(present.ravel())
    pick = sparse.csr_array(
        (np.ones(len(slots)), (np.arange(len(slots)), indices.ravel()[slots])), (len(slots), len(items))
    )
    row_of = np.repeat(np.arange(n_rows), width)[slots]
    mean = sparse.csr_array(
        (shares.ravel(), (np.repeat(np.arange(n_rows), width), indices.ravel())), (n_rows, len(items))
    )
    differences = pick @ table - (mean @ table)[row_of]
    n_dims = min(n_dims, min(differences.shape) - 1)
    start = np.random.default_rng(0).normal(size=min(differences.shape))
    _, values, vectors = svds(differences, k=n_dims, v0=start, solver="arpack")
    kept = values > values.max() * NEGLIGIBLE**0.5
    return TokenProjection(weights, vectors[kept][::-1].T * (len(slots) ** 0.5 / values[kept][::-1]))


def _distinct_tokens(items: TokenizedItems) -> np.ndarray:
    """(n, 2) int64: the number of an item and an id that its completion holds, each once."""
    position = position_within(items.lengths)
    owner = np.repeat(np.arange(len(items)), items.lengths)
    is_completion = position >= np.repeat(items.prompt_lengths, items.lengths)
    return np.unique(np.stack([owner[is_completion], items.ids[is_completion]], 1), axis=0)


def _token_weights(items: TokenizedItems) -> np.ndarray:
    """(largest id + 1,) log of the inverse share of completions that hold a token."""
    counts = np.bincount(_distinct_tokens(items)[:, 1], minlength=int(items.ids.max()) + 1)
    return np.log(len(items) / np.maximum(counts, 1))


def _token_table(items: TokenizedItems, weights: np.ndarray) -> sparse.csr_array:
    """(n_items, n_tokens) weights of the distinct tokens of each completion, rows of length one."""
    pairs = _distinct_tokens(items)
    pairs = pairs[pairs[:, 1] < len(weights)]
    table = sparse.csr_array((weights[pairs[:, 1]], (pairs[:, 0], pairs[:, 1])), (len(items), len(weights)))
    length = np.sqrt(table.multiply(table).sum(axis=1))
    return sparse.diags_array(1 / np.maximum(length, 1e-12)) @ table


def _spread_rows(rows: Preferences) -> tuple[np.ndarray, np.ndarray]:
    """Item indices (n, max_items), a row's first at padding, and which are there, of rows spread over all."""
    chosen = rows.item_indices[:: max(1, len(rows) // MAX_ROWS)]
    return np.where(chosen < 0, chosen[:, :1], chosen), chosen >= 0
