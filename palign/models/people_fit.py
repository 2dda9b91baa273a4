"""Fitting people on a head that stays as it is: rows → their weights on the simplex."""

from collections.abc import Iterator

import torch
from torch import Tensor

from palign.functional.ideal_point import Similarity
from palign.functional.losses import plackett_luce
from palign.functional.people_fit import (
    WeightFit,
    map_weights,
    official_weights,
    pair_log_likelihoods,
    posterior_weights,
)
from palign.models.heads import PointHead
from palign.models.people_deviations import PersonalDeviations
from palign.models.people_weights import AnnotatorWeights
from palign.models.row_tensors import RowTensors

__all__ = [
    "FIT_METHODS",
    "answers_on_support",
    "fit_people",
    "linear_scores",
    "log_likelihoods",
    "row_scores",
    "scores_of",
]

FIT_METHODS = ("posterior", "map", "official")
CHUNK = 4096  # rows at once
MAX_ENTRIES = 2**25  # elements of one intermediate table
PRIOR_ANSWERS = 1.0  # that the Dirichlet prior of `map` is worth


@torch.no_grad()
def log_likelihoods(head: PointHead, data: RowTensors, support: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """log p(answer | w) in nats of every row for every w of the support (n_support, n_prototypes), part by part.

    Yields:
        rows of the part, and (rows, n_support).
    """
    linear = linear_scores(head, data) if head.margin_is_linear else None
    is_pairs = data.ranks.shape[1] == 2 and bool((data.ranks[:, 0] == 0).all() & (data.ranks[:, 1] == 1).all())
    for rows in _parts(head, data, len(support), is_linear=linear is not None):
        if linear is not None and is_pairs:
            yield rows, pair_log_likelihoods(linear[rows, 0] - linear[rows, 1], support)
            continue
        if linear is None:
            items, prompts = data.states(rows)
            scores = head.scores_for_all(items, support, prompts)
        else:
            scores = linear[rows] @ support.T
        yield rows, -plackett_luce(scores.transpose(1, 2), data.ranks[rows, None])


@torch.no_grad()
def linear_scores(head: PointHead, data: RowTensors) -> Tensor:
    """(rows, max_items, n_prototypes) scores of which a margin is linear in w: those of the prototypes."""
    corners = torch.eye(head.n_prototypes, device=data.annotator_index.device)
    if data.prompt_states is None:  # an item has one score whoever meets it: compute each once
        named, inverse = torch.unique(data.item_indices, return_inverse=True)
        parts = [head.scores_for_all(data.item_vectors(part)[:, None], corners)[:, 0] for part in named.split(CHUNK)]
        return torch.cat(parts)[inverse] if parts else corners.new_zeros(*data.ranks.shape, head.n_prototypes)
    parts = []
    for rows in _parts(head, data, head.n_prototypes, is_linear=False):
        items, prompts = data.states(rows)
        parts.append(head.scores_for_all(items, corners, prompts))
    return torch.cat(parts) if parts else corners.new_zeros(*data.ranks.shape, head.n_prototypes)


@torch.no_grad()
def scores_of(head: PointHead, data: RowTensors, weights: Tensor) -> Tensor:
    """Rewards (rows, max_items) of every item for the person of its row, whose weights are in `weights` (n_people, K).

    `data.annotator_index` numbers the people. Rewards at padding mean nothing.
    """
    return row_scores(head, data, weights[data.annotator_index])


@torch.no_grad()
def row_scores(
    head: PointHead,
    data: RowTensors,
    weights: Tensor,
    *,
    deviations: PersonalDeviations | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Rewards (rows, max_items) of every item under the weights (rows, n_prototypes) of its row.

    Args:
        deviations, own: of a model whose people deviate from their mixture, the module and (rows, personal_dim);
            nothing is added where either is None.

    Rewards at padding mean nothing.
    """
    parts = []
    for start in range(0, len(data), CHUNK):
        rows = slice(start, start + CHUNK)
        items, prompts = data.states(rows)
        scores = head(items, weights[rows], prompts)
        if deviations is not None and own is not None:
            scores = scores + deviations.rewards(items, own[rows])
        parts.append(scores)
    return torch.cat(parts) if parts else weights.new_zeros(data.ranks.shape)


def fit_people(
    head: PointHead, people: AnnotatorWeights, data: RowTensors, n_people: int, *, method: str, seed: int = 0
) -> WeightFit:
    """Fit `n_people`, whose rows `data.annotator_index` numbers; `method` is one of `FIT_METHODS`."""
    if method == "posterior":
        return _posterior(head, people, data, n_people)
    if not head.margin_is_linear:
        raise ValueError(
            f"method {method!r} needs a margin that is linear in the weights (squared distance, mixing 'latent' or "
            "'projected', or the prompt variant with squared distance). This head is not; take method='posterior'."
        )
    scores = linear_scores(head, data)
    if method == "map":
        mean = people.mean.clamp_min(1e-3)
        return map_weights(
            scores,
            data.ranks,
            data.annotator_index,
            n_annotators=n_people,
            prior_mean=mean / mean.sum(),
            concentration=PRIOR_ANSWERS,
        )
    if not ((data.ranks >= 0).sum(1) == 2).all():
        raise ValueError("method 'official' fits pairs only; these rows rank more than two items.")
    generator = torch.Generator().manual_seed(seed)
    margins = (scores[:, 0] - scores[:, 1]).cpu()
    with torch.enable_grad():
        return official_weights(margins, data.annotator_index.cpu(), n_annotators=n_people, generator=generator)


@torch.no_grad()
def answers_on_support(head: PointHead, people: AnnotatorWeights, data: RowTensors, n_people: int) -> Tensor:
    """Log-likelihood (n_people, n_support) float64, nats, of a person's answers under each member of the support.

    Answers are added up person by person as they come, so that millions of them need no table.
    """
    total = people.support.new_zeros(n_people, len(people.support), dtype=torch.float64)
    for rows, likelihoods in log_likelihoods(head, data, people.support):
        if data.evidence is not None:
            likelihoods = likelihoods * data.evidence[rows, None]
        total.index_add_(0, data.annotator_index[rows], likelihoods.double())
    return total


def _posterior(head: PointHead, people: AnnotatorWeights, data: RowTensors, n_people: int) -> WeightFit:
    total = answers_on_support(head, people, data, n_people)
    everybody = torch.arange(n_people, device=total.device)
    fit = posterior_weights(total, everybody, people.support, people.log_prior, n_annotators=n_people)
    return WeightFit(*(part.to(people.support) for part in (fit.weights, fit.spread, fit.objective)))


def _parts(head: PointHead, data: RowTensors, n_weights: int, *, is_linear: bool) -> Iterator[slice]:
    """Rows in parts whose intermediate tables keep to `MAX_ENTRIES`."""
    n_items = data.ranks.shape[1]
    if is_linear:
        entries = n_items * n_items * n_weights
    else:
        rowwise = 1 if head.similarity is Similarity.COSINE else n_items
        entries = max(rowwise * n_weights * head.preference_dim, n_items * n_items * n_weights)
    at_once = max(1, min(CHUNK, MAX_ENTRIES // entries))
    for start in range(0, len(data), at_once):
        yield slice(start, start + at_once)
