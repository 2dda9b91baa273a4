"""Everybody's weights over the prototypes, and what is known of the population as a whole."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["AnnotatorWeights"]

logger = logging.getLogger(__name__)

MAX_SUPPORT = 256  # people who stand for the population when a newcomer is fitted
CORNER_MASS = 0.1  # of the prior: corners, edge middles and the centre, for somebody unlike all seen
SMALLEST = 1e-6  # a stored weight, so that its logarithm exists


class AnnotatorWeights(nn.Module):
    """w_i = softmax(ω_i), one row of an embedding for each person; and the population, frozen when training ends.

    The population (`mean`, `support`, `log_prior`) stays when people are added later, so that nobody's score moves.

    Args:
        n_annotators: rows.
        n_prototypes: columns.
        partition: at evaluation a person is their largest weight alone (one-hot); soft in training.
        sparse: gradients touch only the people of the batch; for populations of a hundred thousand and more.
    """

    def __init__(self, n_annotators: int, n_prototypes: int, *, partition: bool = False, sparse: bool = False):
        super().__init__()
        self.partition = partition
        self.logits = nn.Embedding(n_annotators, n_prototypes, sparse=sparse)
        nn.init.normal_(self.logits.weight, std=0.1)
        support, log_prior = _lattice(n_prototypes)
        self.register_buffer("mean", torch.full((n_prototypes,), 1 / n_prototypes))
        self.register_buffer("support", support)
        self.register_buffer("log_prior", log_prior)
        self._said_unknown = False

    @property
    def n_prototypes(self) -> int:
        """K."""
        return self.logits.embedding_dim

    def forward(self, annotator_index: Tensor) -> Tensor:
        """Weights (batch, n_prototypes) of people (batch,); −1 is somebody unknown and gets the population's mean."""
        if self.training:
            return self.logits(annotator_index).softmax(-1)
        unknown = annotator_index < 0
        rows = self.logits.weight[annotator_index.clamp_min(0)] if len(self.logits.weight) else self.mean.log()[None]
        weights = rows.softmax(-1)
        if self.partition:
            weights = nn.functional.one_hot(weights.argmax(-1), self.n_prototypes).to(weights.dtype)
        if unknown.any():
            self._say_unknown(int(unknown.sum()))
            weights = torch.where(unknown[:, None], self.mean, weights)
        return weights

    def all(self) -> Tensor:
        """Soft weights of everybody (n_annotators, n_prototypes)."""
        return self.logits.weight.softmax(-1)

    @torch.no_grad()
    def store(self, weights: Tensor, rows: Tensor | None = None) -> None:
        """Overwrite people's weights with (n, n_prototypes) on the simplex; everybody's if `rows` is None."""
        logits = weights.clamp_min(SMALLEST).log().to(self.logits.weight)
        self.logits.weight[slice(None) if rows is None else rows] = logits

    @torch.no_grad()
    def append(self, weights: Tensor) -> None:
        """Add people with weights (n, n_prototypes); every earlier row keeps its bits."""
        old = self.logits
        self.logits = nn.Embedding(old.num_embeddings + len(weights), self.n_prototypes, sparse=old.sparse)
        self.logits.to(old.weight)
        self.logits.weight[: old.num_embeddings] = old.weight
        self.store(weights, torch.arange(old.num_embeddings, self.logits.num_embeddings))

    @torch.no_grad()
    def freeze_population(self, counts: Tensor | None = None, *, seed: int = 0) -> None:
        """Take the population from the people here: its mean, and up to 256 people as the prior for newcomers.

        Args:
            counts: (n_annotators,) rows of each person; people with fewer than the median are not drawn, since
                their weights say more of the prior than of them.
            seed: of the draw.
        """
        known = torch.ones(len(self.logits.weight), dtype=torch.bool) if counts is None else counts > 0
        if not known.any():
            return
        self.mean.copy_(self.all()[known].mean(0))
        if counts is not None:
            known &= counts >= counts[known].median()
        people = torch.where(known)[0]
        chosen = people[torch.randperm(len(people), generator=torch.Generator().manual_seed(seed))[:MAX_SUPPORT]]
        corners, log_corners = _lattice(self.n_prototypes)
        people_mass = torch.full((len(chosen),), (1 - CORNER_MASS) / len(chosen)).log()
        corner_mass = log_corners + torch.tensor(CORNER_MASS).log()
        self.support = torch.cat([self.all()[chosen], corners.to(self.support)])
        self.log_prior = torch.cat([people_mass, corner_mass]).to(self.support)

    def _say_unknown(self, n: int) -> None:
        if not self._said_unknown:
            logger.warning(
                "%d rows are by people who are not in annotators.json; they are scored with the population's mean "
                "weights. Fit them with fit_annotators, or pass unknown='error'. (Said once.)",
                n,
            )
            self._said_unknown = True


def _lattice(n_prototypes: int) -> tuple[Tensor, Tensor]:
    """Corners, middles of edges and the centre of the simplex (n, K), and their log masses: a third each kind."""
    corners = torch.eye(n_prototypes)
    if n_prototypes == 1:
        return corners, torch.zeros(1)
    pairs = (
        torch.combinations(torch.arange(n_prototypes)) if n_prototypes <= 12 else torch.empty(0, 2, dtype=torch.long)
    )
    middles = (corners[pairs[:, 0]] + corners[pairs[:, 1]]) / 2
    kinds: Sequence[Tensor] = [part for part in (corners, middles, corners.mean(0, keepdim=True)) if len(part)]
    masses = [torch.full((len(part),), 1 / (len(kinds) * len(part))) for part in kinds]
    return torch.cat(list(kinds)), torch.cat(masses).log()
