"""Fitting people on a head that stays as it is: rows → their weights on the simplex."""

import torch
from torch import Tensor

from palign.functional.losses import plackett_luce
from palign.functional.simplex_fit import WeightFit, map_weights, official_weights, posterior_weights
from palign.models.heads import PointHead
from palign.models.people import AnnotatorWeights
from palign.models.row_batch import RowTensors

__all__ = ["FIT_METHODS", "fit_people", "linear_scores", "support_log_likelihoods"]

FIT_METHODS = ("posterior", "map", "official")
CHUNK = 4096  # rows at once
PRIOR_ANSWERS = 1.0  # that the Dirichlet prior of `map` is worth


@torch.no_grad()
def support_log_likelihoods(head: PointHead, data: RowTensors, support: Tensor) -> Tensor:
    """(rows, n_support) nats: log p(answer | w) of every row for every w of the support (n_support, n_prototypes)."""
    parts = []
    linear = linear_scores(head, data) if head.margin_is_linear else None
    for start in range(0, len(data), CHUNK):
        rows = slice(start, start + CHUNK)
        if linear is None:
            scores = head.scores_for_all(*_moved(head, data, rows, support))
        else:
            scores = linear[rows] @ support.T
        parts.append(-plackett_luce(scores.transpose(1, 2), data.ranks[rows, None].to(scores.device)))
    return torch.cat(parts) if parts else support.new_zeros(0, len(support))


@torch.no_grad()
def linear_scores(head: PointHead, data: RowTensors) -> Tensor:
    """(rows, max_items, n_prototypes) scores of which a margin is linear in w: those of the prototypes."""
    corners = torch.eye(head.n_prototypes)
    if data.prompt_states is None and data.item_indices.numel() > len(data.item_states):
        states = data.item_states.float()
        parts = [head.scores_for_all(part[:, None], corners)[:, 0] for part in states.split(4 * CHUNK)]
        return torch.cat(parts)[data.item_indices]
    parts = [
        head.scores_for_all(*_moved(head, data, slice(start, start + CHUNK), corners))
        for start in range(0, len(data), CHUNK)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, data.ranks.shape[1], head.n_prototypes)


def fit_people(
    head: PointHead, people: AnnotatorWeights, data: RowTensors, n_people: int, *, method: str, seed: int = 0
) -> WeightFit:
    """Fit `n_people`, whose rows `data.annotator_index` numbers; `method` is one of `FIT_METHODS`."""
    if method == "posterior":
        likelihoods = support_log_likelihoods(head, data, people.support)
        return posterior_weights(
            likelihoods, data.annotator_index, people.support, people.log_prior, n_annotators=n_people
        )
    if not head.margin_is_linear:
        raise ValueError(
            f"method {method!r} needs a margin that is linear in the weights (squared distance, mixing 'latent' or "
            "'projected', or the prompt variant with squared distance). This head is not; take method='posterior'."
        )
    scores = linear_scores(head, data)
    if method == "map":
        mean = people.mean.clamp_min(1e-3)
        return map_weights(
            scores, data.ranks, data.annotator_index, n_annotators=n_people, prior_mean=mean / mean.sum(),
            concentration=PRIOR_ANSWERS,
        )  # fmt: skip
    if data.ranks.shape[1] != 2:
        raise ValueError("method 'official' fits pairs only; these rows rank more than two items.")
    generator = torch.Generator().manual_seed(seed)
    margins = scores[:, 0] - scores[:, 1]
    with torch.enable_grad():
        return official_weights(margins, data.annotator_index, n_annotators=n_people, generator=generator)


def _moved(head: PointHead, data: RowTensors, rows: slice, weights: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    items, prompts = data.states(rows)
    return items, weights, prompts
