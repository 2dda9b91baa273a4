"""Fit the linear head: EM over types of people, on vectors that stay as they are (`palign.functional.mixture_linear`).

Directions are shrunk towards one pooled direction, and that towards zero, in one of two metrics: of the vectors as
they are, or of the vectors made of like size in every direction they take (`whiten`), under which items that recur
are told apart by identity however alike their vectors are. Both end as directions among the states.
"""

from dataclasses import dataclass

import torch

from palign.functional.evidence.votes import Votes
from palign.functional.mixture_linear import fit_linear_mixture
from palign.functional.people_deviations import principal_basis
from palign.models.heads import LinearHead
from palign.models.people_weights import AnnotatorWeights
from palign.models.row_tensors import RowTensors

__all__ = ["RECURS", "TEXTS_RECUR", "LinearFitOptions", "fit_linear_head", "items_recur"]

WIDTH = 512  # principal directions that are fitted on
SAMPLE = 8192  # vectors that they are taken from
RECURS = 3  # people who met the median item, from which on items are known by what many people say of them
TEXTS_RECUR = (
    10  # the same for texts: a reward of texts is asked about texts that nobody has judged, but for a list of them
)


@dataclass(frozen=True)
class LinearFitOptions:
    """How the directions are shrunk, and how hard EM tries.

    Attributes:
        whiten: the metric, see above.
        ridge: of types towards the pooled direction.
        pooled_ridge: of the pooled direction towards zero.
        n_restarts, max_steps, tolerance: as in `fit_linear_mixture`.
    """

    whiten: bool = False
    ridge: float = 8.0
    pooled_ridge: float = 8.0
    n_restarts: int = 4
    max_steps: int = 200
    tolerance: float = 1e-6


def items_recur(data: RowTensors, least: int = RECURS) -> bool:
    """Whether the median item that rows name was met by `least` people or more, as in votes on a list of items."""
    present = data.ranks >= 0
    people = data.annotator_index[:, None].expand_as(data.ranks)[present]
    met = torch.unique(torch.stack([data.item_indices[present], people]), dim=1)[0]
    counts = torch.unique(met, return_counts=True)[1]
    return len(counts) > 0 and int(counts.median()) >= least


def fit_linear_head(
    head: LinearHead, people: AnnotatorWeights, data: RowTensors, options: LinearFitOptions, *, seed: int
) -> float:
    """Set directions, centre and everybody's weights; returns the mean loss (nats a row, as much as rows count for).

    Raises:
        ValueError: more prototypes than people with rows, or no row that prefers anything.
    """
    n_people = people.logits.num_embeddings
    used, items = torch.unique(data.item_indices, return_inverse=True)
    vectors = data.item_vectors(used)
    center, basis = principal_basis(vectors[:: max(1, len(vectors) // SAMPLE)], WIDTH, whiten=options.whiten)
    fit = fit_linear_mixture(
        (vectors - center) @ basis, Votes(items, data.ranks, data.annotator_index, n_people), people.n_prototypes,
        row_weights=data.evidence, ridge=options.ridge, pooled_ridge=options.pooled_ridge,
        n_restarts=options.n_restarts, max_steps=options.max_steps, tolerance=options.tolerance, seed=seed,
    )  # fmt: skip
    head.standardize.center.copy_(center)
    head.standardize.scale.fill_(1.0)
    with torch.no_grad():
        head.prototypes.weight.copy_(fit.theta.float() @ basis.T)
    people.store(fit.responsibilities)
    head.eval(), people.eval()
    total = (fit.responsibilities * fit.log_likelihoods).sum()
    counted = len(data) if data.evidence is None else float(data.evidence.sum())
    return -float(total) / max(counted, 1e-12)
