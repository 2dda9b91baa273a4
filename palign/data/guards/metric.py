"""Is there anything to learn a metric from: more answers of a person than dimensions, or items in few subspaces?"""

import numpy as np

from palign.data.guards.finding import Finding
from palign.data.preferences import Preferences
from palign.functional.metric.evidence import MetricEvidence, effective_basis, metric_evidence

__all__ = ["check_metric", "count_metric_evidence"]


def count_metric_evidence(rows: Preferences, vectors: np.ndarray, *, seed: int = 0) -> MetricEvidence:
    """The equations that rows hold about a metric; a row of several items counts as its chain of ordered pairs.

    Args:
        vectors: (n_vectors, hidden) that `rows.item_indices` number.
    """
    used, place = np.unique(rows.filled_item_indices, return_inverse=True)
    place = place.reshape(rows.item_indices.shape)
    items = np.asarray(vectors[used], dtype=np.float64)
    items = items @ effective_basis(items)
    follows = (rows.ranks[:, 1:] > rows.ranks[:, :-1]) & (rows.ranks[:, :-1] >= 0)
    row, column = np.nonzero(follows)
    people = rows.annotators().indices(rows.annotator_ids)
    return metric_evidence(items, place[row, column], place[row, column + 1], people[row], seed=seed)


def check_metric(rows: Preferences, vectors: np.ndarray, *, split: str = "", seed: int = 0) -> Finding:
    """Which case a data set is in: can a metric of all be told from these answers, a part of it, or nothing?

    With no more answers of a person than dimensions nothing about a general metric can be learned (Wang, So and
    Vinayak, UAI 2024), unless items lie in few subspaces; `MetricEvidence.rank` counts what can.
    """
    evidence = count_metric_evidence(rows, vectors, seed=seed)
    share = evidence.rank / max(evidence.n_unknown, 1)
    asked = f"the median annotator answered {evidence.median_answers:g} times about items of {evidence.dim} dimensions"
    if evidence.case == "general":
        return Finding.of("metric", "ok", share, f"a metric can be told: {asked}.", (), split)
    if evidence.case == "nothing" and evidence.median_answers <= 1:
        message = (
            f"{asked}, and one answer says nothing of how distances are measured; what can be known is how many "
            "people stand where (palign population)."
        )
        return Finding.of("metric", "stop", share, message, (), split)
    if evidence.case == "nothing":
        message = (
            f"{asked}: no more answers than dimensions, and everybody's ideal point takes them all up, so nothing of "
            "a general metric can be known. What comes out is what the regularisation assumes (few directions matter, "
            "people are alike), and held-out answers say whether that holds. To know more ask each person more often "
            "than the items have dimensions, or about items of few subspaces."
        )
        return Finding.of("metric", "look", share, message, (), split)
    known = f"{evidence.rank:,} of the {evidence.n_unknown:,} numbers of a metric can be told ({asked})"
    if evidence.case == "subspaces" and share >= 1:
        message = f"{known}, since items lie in few subspaces: --estimator subspaces learns in each of them, too."
        return Finding.of("metric", "ok", share, message, (), split)
    why = ", by pairs within few subspaces" if evidence.case == "subspaces" else ""
    message = f"{known}{why}; along the others it is what the regularisation makes of it."
    return Finding.of("metric", "look", share, message, (), split)
