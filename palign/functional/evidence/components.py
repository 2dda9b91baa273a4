"""How much a row says: rows of one person that share items are not independent witnesses.

Votes, ratings and rankings often arrive as pairs. Ten yes and six no votes make sixty pairs, and who said a > b and
c > d has nearly said a > d; added up as if the pairs were independent, they place people far too surely.
The items that one person's rows join form components (items are nodes, rows are edges). What a component may count
for is what its items can tell, in comparisons of two items:

- items less one, the rank of its graph of comparisons, in general;
- 2yz/(y + z) where y items only win and z only lose. That is the Fisher information of "these y of y + z were
  chosen", the law of votes given their number, over that of a pair (both at equal scores): a component of one pair
  counts for one, best of M as in Plackett and Luce;
- 2P/n for a row of n items in tiers of which P pairs are ordered, which is both of the above: n − 1 for a ranking.

A row of M items without ties counts for its stages. Where the different rows of a component count for more together,
each is scaled by one factor. So a set of rows in which no person meets an item twice is left as it is, to the bit. A
judgement that is repeated, the same items in the same order, is the person's word again, and counts again.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from palign.functional.evidence.positions import position_within

__all__ = [
    "INDEPENDENT",
    "evidence_of_rows",
    "independent_people",
    "item_components",
    "ties_as_pairs",
    "votes_of_pairs",
]

INDEPENDENT = 0.6  # mean evidence of a row, from which on a person's rows pass for independent judgements
MOST_PAIRS = 4  # for each item of a row with ties


def item_components(item_indices: np.ndarray, ranks: np.ndarray, annotator_index: np.ndarray) -> np.ndarray:
    """(rows,) int64, the component of each row: two rows of a person that are joined by shared items have one number.

    Args:
        item_indices: (rows, max_items) integers, what stands at padding is not read.
        ranks: (rows, max_items) integers, −1 is padding.
        annotator_index: (rows,) integers; people share no component.
    """
    nodes = _nodes(item_indices, ranks, annotator_index)
    return _components(nodes, ranks)[nodes[:, 0]]


def evidence_of_rows(
    item_indices: np.ndarray, ranks: np.ndarray, annotator_index: np.ndarray, base: np.ndarray | None = None
) -> np.ndarray:
    """(rows,) float64 in (0, 1]: what one row counts for beside the person's other rows.

    Args:
        item_indices: (rows, max_items) integers, what stands at padding is not read.
        ranks: (rows, max_items) integers, 0 is best, equal ranks tie, −1 is padding.
        annotator_index: (rows,) integers.
        base: (rows,) what a row counts for by itself, as `ties_as_pairs` gives; 1 if None.
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
    base = np.ones(len(ranks)) if base is None else base
    n_stages = np.bincount(of_row[first], (base * (below > 0).sum(1))[first], n_components)
    counted = np.bincount(of_row[first], (base * (2 * below / (below + 1)).sum(1))[first], n_components)
    winners = np.bincount(component, wins, n_components)
    is_mixed = np.bincount(component, wins & loses, n_components) > 0
    losers = np.bincount(component, loses, n_components)
    with np.errstate(divide="ignore", invalid="ignore"):
        two_tiers = 2 * winners * losers / (winners + losers) / counted
        general = (n_items - 1) / n_stages
    scale = np.where(is_mixed, general, two_tiers)
    scale = np.where(np.isfinite(scale), scale, 1.0)
    return base * np.minimum(scale, 1.0)[of_row]


def independent_people(evidence: np.ndarray, annotator_index: np.ndarray) -> np.ndarray:
    """(n_people,) bool: whose rows are independent judgements, not made of votes or rankings.

    Args:
        evidence: (rows,) what `evidence_of_rows` gives; annotator_index: (rows,) integers from 0 on.
    """
    counts = np.bincount(annotator_index)
    return np.bincount(annotator_index, evidence) >= INDEPENDENT * counts


def ties_as_pairs(
    item_indices: np.ndarray, ranks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Rows as pairs where some have ties above their last tier, as votes have them; None where no row has.

    The likelihood of stages lets a winner meet everything below it at once, and who ties with it is not asked: of
    votes it is no likelihood. Pairs of a yes and a no are: p(yes, no | one of the two) = σ(difference of log-odds).
    Where one row is read so, all are: one likelihood for all, and tensors two items wide. A row of n items gives at
    most `MOST_PAIRS` · n of its pairs, spread evenly over its winners and losers.

    Args:
        item_indices: (rows, max_items) integers; what stands at padding is not read.
        ranks: (rows, max_items) integers, 0 is best, equal ranks tie, −1 is padding; a row's items stand best first.

    Returns:
        rows (n,) int64, which of the given rows each was; item_indices (n, 2) and ranks (n, 2), the better item first;
        base (n,) what each counts for by itself.
    """
    present = ranks >= 0
    ties = present[:, 1:] & (ranks[:, 1:] == ranks[:, :-1]) & (ranks[:, 1:] < ranks.max(1, keepdims=True))
    if not ties.any():
        return None
    rows, items, base = [], [], []
    for row, n in enumerate(present.sum(1)):
        better, worse = np.nonzero(ranks[row, :n, None] < ranks[row, None, :n])
        n_ordered = len(better)
        if n_ordered > MOST_PAIRS * n:
            # by how far a pair lies from the diagonal, so that every item keeps about as many of its pairs
            turn = (better * 7919 + worse * 104729) % n_ordered
            chosen = np.sort(np.argsort(turn, kind="stable")[: MOST_PAIRS * n])
            better, worse = better[chosen], worse[chosen]
        rows.append(np.full(len(better), row))
        items.append(item_indices[row][np.stack([better, worse], axis=1)].astype(np.int64))
        base.append(np.full(len(better), 2 * n_ordered / (n * max(len(better), 1))))
    pairs = np.concatenate(items)
    return np.concatenate(rows), pairs, np.broadcast_to(np.array([0, 1]), pairs.shape).copy(), np.concatenate(base)


def votes_of_pairs(
    item_indices: np.ndarray, ranks: np.ndarray, annotator_index: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pairs that can only come of votes put together again, a row of two tiers each; None where there are none.

    Where a person's pairs form a component with as many pairs as items or more, in which every item either always wins
    or always loses, they are yes over no, and the pairs that were not drawn say the same. Repeated pairs, and those
    that stand in several groups, are left as they are.

    Args:
        item_indices: (rows, 2) integers, the better item first; ranks: (rows, 2), 0 and 1. Of any other table: None.
        annotator_index: (rows,) integers.
        groups: (rows,) integers; only rows of one group are put together, such as those of one prompt.

    Returns:
        rows (n,) int64, of the given rows the first of each new one; item_indices (n, max_items) and ranks
        (n, max_items), −1 is padding.
    """
    if len(ranks) == 0 or ranks.shape[1] != 2 or not (ranks == [0, 1]).all():
        return None
    nodes = _nodes(item_indices, ranks, annotator_index)
    component = _components(nodes, ranks)
    of_row, n = component[nodes[:, 0]], int(component.max()) + 1
    wins, loses = (np.bincount(nodes[:, side], minlength=len(component)) > 0 for side in (0, 1))
    winners, losers = (np.bincount(component[side], minlength=n) for side in (wins, loses))
    n_rows, first = np.bincount(of_row, minlength=n), np.unique(of_row, return_index=True)[1]
    is_votes = (winners >= 2) & (losers >= 2) & (n_rows >= winners + losers) & (n_rows < winners * losers)
    is_votes &= np.bincount(component, wins & loses, n) == 0
    some = np.flatnonzero(is_votes[of_row])
    is_votes[of_row[some][groups[some] != groups[first[of_row[some]]]]] = False
    is_votes &= np.bincount(component[np.unique(nodes[some], axis=0)[:, 0]], minlength=n) == n_rows  # none is repeated
    if not is_votes.any():
        return None
    kept = np.flatnonzero(~is_votes[of_row])
    item = np.empty(len(component), dtype=np.int64)
    item[nodes] = item_indices
    order = np.lexsort((loses, component))
    order = order[is_votes[component[order]]]
    sizes = (winners + losers)[is_votes]
    row_of, place, width = np.repeat(np.arange(len(sizes)), sizes), position_within(sizes), int(sizes.max())
    items = np.full((len(sizes), width), -1, dtype=np.int64)
    tiers = items.copy()
    items[row_of, place], tiers[row_of, place] = item[order], loses[order]
    pairs = np.full((len(kept), width), -1, dtype=np.int64)
    pair_ranks = pairs.copy()
    pairs[:, :2], pair_ranks[:, :2] = item_indices[kept], ranks[kept]
    return (
        np.concatenate([kept, first[is_votes]]),
        np.concatenate([pairs, items]),
        np.concatenate([pair_ranks, tiers]),
    )


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
