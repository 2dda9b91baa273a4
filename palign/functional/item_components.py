"""How much a row says: rows of one person that share items are not independent witnesses.

Votes, ratings and rankings often arrive as pairs. Ten yes and six no votes make sixty pairs, and who said a > b and
c > d has nearly said a > d; added up as if each pair were a judgement of its own they place people far too surely.
The items that one person's rows join form components (items are nodes, rows are edges). What a component may count
for is what its items can tell, in comparisons of two items:

- items less one, the rank of its graph of comparisons, in general;
- 2yz/(y + z) where y items only win and z only lose. That is the Fisher information of "these y of y + z were
  chosen", the law of votes given their number, over that of a pair (both at equal scores): a component of one pair
  counts for one, best of M as in Plackett and Luce.

A row of M items without ties counts for its stages. Where the different rows of a component count for more together,
each is scaled by one factor. So a set of rows in which no person meets an item twice is left as it is, to the bit. A
judgement that is repeated, the same items in the same order, is the person's word again, and counts again.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["evidence_of_rows", "item_components"]


def item_components(item_indices: np.ndarray, ranks: np.ndarray, annotator_index: np.ndarray) -> np.ndarray:
    """(rows,) int64, the component of each row: two rows of a person that are joined by shared items have one number.

    Args:
        item_indices: (rows, max_items) integers, what stands at padding is not read.
        ranks: (rows, max_items) integers, −1 is padding.
        annotator_index: (rows,) integers; people share no component.
    """
    nodes = _nodes(item_indices, ranks, annotator_index)
    return _components(nodes, ranks)[nodes[:, 0]]


def evidence_of_rows(item_indices: np.ndarray, ranks: np.ndarray, annotator_index: np.ndarray) -> np.ndarray:
    """(rows,) float64 in (0, 1]: what one row counts for beside the person's other rows.

    Args:
        item_indices: (rows, max_items) integers, what stands at padding is not read.
        ranks: (rows, max_items) integers, 0 is best, equal ranks tie, −1 is padding.
        annotator_index: (rows,) integers.
    """
    if len(ranks) == 0:
        return np.ones(0)
    place = ranks.astype(np.int64)
    nodes = _nodes(item_indices, place, annotator_index)
    component = _components(nodes, place)
    n_components = int(component.max()) + 1
    n_items = np.bincount(component, minlength=n_components)
    present = place >= 0
    below = ((place[:, None, :] > place[:, :, None]) & present[:, :, None] & present[:, None, :]).sum(2)
    wins = np.zeros(len(component), dtype=bool)
    loses = np.zeros(len(component), dtype=bool)
    wins[nodes[(below > 0) & present]] = True
    above = ((place[:, None, :] < place[:, :, None]) & present[:, :, None] & present[:, None, :]).any(2)
    loses[nodes[above]] = True
    of_row = component[nodes[:, 0]]
    first = np.unique(_row_keys(nodes, place), return_index=True)[1]  # of repeated judgements one
    n_stages = np.bincount(of_row[first], (below > 0).sum(1)[first], n_components)
    counted = np.bincount(of_row[first], (2 * below / (below + 1)).sum(1)[first], n_components)
    winners = np.bincount(component, wins, n_components)
    is_mixed = np.bincount(component, wins & loses, n_components) > 0
    losers = np.bincount(component, loses, n_components)
    with np.errstate(divide="ignore", invalid="ignore"):
        two_tiers = 2 * winners * losers / (winners + losers) / counted
        general = (n_items - 1) / n_stages
    scale = np.where(is_mixed, general, two_tiers)
    scale = np.where(np.isfinite(scale), scale, 1.0)
    return np.minimum(scale, 1.0)[of_row]


def _row_keys(nodes: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """(rows,) uint64, a hash of which items a row names and in which order."""
    factors = np.random.default_rng(0).integers(1, 2**63, size=(2, nodes.shape[1]), dtype=np.uint64) * 2 + 1
    values = nodes.astype(np.uint64) + np.uint64(1)
    with np.errstate(over="ignore"):
        return (values * factors[0] * (values + factors[1] * (ranks + 2).astype(np.uint64))).sum(1)


def _nodes(item_indices: np.ndarray, ranks: np.ndarray, annotator_index: np.ndarray) -> np.ndarray:
    """(rows, max_items) int64: a number for each item of each person; at padding that of the row's first item."""
    items = np.where(ranks < 0, item_indices[:, :1], item_indices).astype(np.int64)
    keys = annotator_index.astype(np.int64)[:, None] * (int(items.max()) + 1) + items
    return np.unique(keys, return_inverse=True)[1].reshape(items.shape)


def _components(nodes: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """(n_nodes,) the component of each item of each person."""
    n = int(nodes.max()) + 1
    first = np.repeat(nodes[:, :1], nodes.shape[1] - 1, axis=1).ravel()
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, nodes[:, 1:].ravel())), shape=(n, n))
    return connected_components(graph, directed=False)[1]
