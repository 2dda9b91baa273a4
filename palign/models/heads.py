"""PAL's heads: pooled states and a person's weights in, rewards out.

`FixedPointHead` is PAL-A: a person's ideal point does not depend on the prompt. `PromptPointHead` is PAL-B: it is a
mixture of K functions of the prompt. Source: Chen et al. (ICLR 2025; arXiv 2406.08469), sections 3.1 and 3.2.
`MetricHead` is PAL-A with one linear map: a Mahalanobis metric that all share (Canal et al., arXiv 2207.03609).
`LinearHead` is the plainest: prototypes are directions, fitted by EM (`palign.functional.mixture_linear`). Where a
set of items recurs in many people's rows, it learns what each item is worth and no network learns items by heart.

Where we differ: (1) states are centred and scaled before `f`, by numbers taken from the training items and saved with
the head, so that one learning rate serves every backbone; (2) points are initialised small, so that training starts
from nearly one pooled reward.
"""

from enum import StrEnum
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palign.functional.ideal_point import MAX_SCALE, Similarity, ideal_point_scores, mix_prototypes

__all__ = ["FixedPointHead", "LinearHead", "MetricHead", "Mixing", "PromptPointHead", "Scaling", "Standardize"]

STANDARD_SCALE = 0.5  # of one standardised coordinate
MAX_STANDARDISE = 100_000  # items that centre and scale are taken from
LOG_SCALE = 2.659260036932778  # ln(1 / 0.07), where the cosine's scale starts (PAL-B, after CLIP)


class Mixing(StrEnum):
    """Where a person's weights mix the prototypes of the `fixed` variant."""

    LATENT = "latent"  # z = w P, P in the preference space
    PROJECTED = "projected"  # z = w f(P), P among the states
    INPUT = "input"  # z = f(w P), P among the states


class Scaling(StrEnum):
    """What a head does to states, after their centre is taken off."""

    COMMON = "common"  # one scale for all
    UNIT = "unit"  # every state to the same length, so that its direction alone counts (SimpleShot, arXiv 1911.04623)


class ByteDropout(nn.Module):
    """Dropout that spends one byte of randomness on an element: on a CPU half of a head's step goes into the 64 bits
    that `nn.Dropout` draws for each. The rate is rounded to 1/256, and the scale is exact for the rounded rate.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.n_kept = max(1, 256 - round(256 * rate))

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or self.n_kept == 256:
            return inputs
        random_bits = torch.empty(-(-inputs.numel() // 8), dtype=torch.int64, device=inputs.device).random_(
            -(2**63), None
        )
        kept = random_bits.view(torch.uint8)[: inputs.numel()].view(inputs.shape) < self.n_kept
        return inputs * (kept * (256 / self.n_kept))


class Standardize(nn.Module):
    """(x − centre) · scale: (..., hidden) → (..., hidden); under `Scaling.UNIT` over the length of x − centre, too."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.scaling = Scaling.COMMON
        self.register_buffer("center", torch.zeros(hidden_size))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Take centre and one common scale from vectors (n, hidden), evenly sampled where there are many."""
        sample = vectors[:: max(1, len(vectors) // MAX_STANDARDISE)].float()
        self.center.copy_(sample.mean(0))
        if self.scaling is Scaling.UNIT:
            self.scale.fill_(STANDARD_SCALE * vectors.shape[-1] ** 0.5)
            return
        deviation = (sample - self.center).square().mean().sqrt()
        self.scale.copy_(STANDARD_SCALE / deviation if deviation > 1e-8 else torch.ones_like(deviation))

    def then(self, network: nn.Sequential, vectors: Tensor) -> Tensor:
        """network((x − centre) · scale): (..., hidden) → (..., out).

        Centre and scale are folded into the first linear map, which spares two passes over the vectors in every step.
        """
        if self.scaling is Scaling.UNIT:
            directions = F.normalize(vectors.to(self.center.dtype) - self.center, dim=-1)
            return network(directions * self.scale)
        first = network[0]
        weight = first.weight * self.scale
        inner = nn.functional.linear(vectors.to(weight.dtype), weight, first.bias - weight @ self.center)
        for layer in list(network)[1:]:  # a slice would be made into a module in every step
            inner = layer(inner)
        return inner


def mlp(hidden_size: int, inner_size: int, preference_dim: int, n_layers: int, dropout: float) -> nn.Sequential:
    """`n_layers` linear maps hidden → inner → … → preference_dim, GELU and dropout between them."""
    widths = [hidden_size, *[inner_size] * (n_layers - 1), preference_dim]
    layers: list[nn.Module] = []
    for position, (width_in, width_out) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [nn.GELU(), ByteDropout(dropout)] if position else []
        layers.append(nn.Linear(width_in, width_out))
    return nn.Sequential(*layers)


class PointHead(nn.Module):
    """What both variants share: f, the similarity, and scores from points and ideal points.

    Attributes:
        default_similarity: where `PALConfig.similarity` is None.
        reads_prompts: whether `prompt_states` are needed.
        temperature: what every reward is multiplied by, fitted on people held out: the head is as sure as it is right
            there.
    """

    default_similarity: ClassVar[Similarity] = Similarity.SQUARED_DISTANCE
    reads_prompts: ClassVar[bool] = False

    def __init__(
        self,
        hidden_size: int,
        *,
        n_prototypes: int,
        preference_dim: int = 32,
        inner_size: int = 64,
        n_layers: int = 2,
        dropout: float = 0.4,
        similarity: Similarity | str = Similarity.SQUARED_DISTANCE,
    ):
        super().__init__()
        self.n_prototypes = n_prototypes
        self.preference_dim = preference_dim
        self.similarity = Similarity(similarity)
        self.temperature = 1.0
        self.standardize = Standardize(hidden_size)
        self.f = mlp(hidden_size, inner_size, preference_dim, n_layers, dropout)
        is_cosine = self.similarity is Similarity.COSINE
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE)) if is_cosine else None

    def points(self, states: Tensor) -> Tensor:
        """f(x): (..., hidden) → (..., preference_dim)."""
        return self.standardize.then(self.f, states)

    def ideal_points(self, weights: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        """z: weights (..., n_prototypes) and prompts (..., hidden) → (..., preference_dim)."""
        raise NotImplementedError

    def forward(self, states: Tensor, weights: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        """Rewards.

        Args:
            states: (batch, hidden) or (batch, n_items, hidden).
            weights: (batch, n_prototypes) on the simplex.
            prompt_states: (batch, hidden); only PAL-B reads them.

        Returns:
            (batch,) or (batch, n_items).
        """
        return self.score_points(self.points(states), self.ideal_points(weights, prompt_states))

    def score_points(self, points: Tensor, ideal_points: Tensor) -> Tensor:
        """Points (batch, [n_items,] preference_dim) for ideal points (batch, preference_dim)."""
        if points.dim() > ideal_points.dim():
            ideal_points = ideal_points.unsqueeze(-2)
        scores = ideal_point_scores(points, ideal_points, similarity=self.similarity, log_scale=self.log_scale)
        return scores if self.temperature == 1 else self.temperature * scores

    def scores_for_all(self, states: Tensor, weights: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        """Every item for every one of a set of weights.

        Args:
            states: (batch, n_items, hidden).
            weights: (n_weights, n_prototypes).
            prompt_states: (batch, hidden) or None.

        Returns:
            (batch, n_items, n_weights).
        """
        points, ideal = self.points(states), self.ideal_points_for_all(weights, prompt_states)
        if self.similarity is Similarity.COSINE:  # a product of matrices, not a table of differences
            scale = self.log_scale.exp().clamp(max=MAX_SCALE) * self.temperature
            return scale * (F.normalize(points, dim=-1) @ F.normalize(ideal, dim=-1).mT)
        if self.similarity is Similarity.INNER_PRODUCT:
            return self.temperature * (points @ ideal.mT)
        scores = ideal_point_scores(points[:, :, None], ideal[:, None], similarity=self.similarity)
        return scores if self.temperature == 1 else self.temperature * scores

    def ideal_points_for_all(self, weights: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        """z of every row for every one of a set of weights (n_weights, n_prototypes): (batch or 1, n_weights, d)."""
        return self.ideal_points(weights)[None]

    def prototype_scores(self, states: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        """Reward of every prototype: (batch, hidden) → (batch, n_prototypes)."""
        corners = torch.eye(self.n_prototypes, device=self.standardize.center.device)
        return self.scores_for_all(states[:, None], corners, prompt_states)[:, 0]

    @property
    def margin_is_linear(self) -> bool:
        """Whether a margin is linear in the weights, so that fitting a person is a convex problem."""
        return self.similarity in (Similarity.SQUARED_DISTANCE, Similarity.INNER_PRODUCT)


class FixedPointHead(PointHead):
    """PAL-A: the ideal point is a mixture of K points, mixed where `mixing` says."""

    def __init__(self, hidden_size: int, *, mixing: Mixing | str = Mixing.LATENT, **options: object):
        super().__init__(hidden_size, **options)
        self.mixing = Mixing(mixing)
        width = self.f[-1].out_features if self.mixing is Mixing.LATENT else hidden_size
        self.prototypes = nn.Embedding(self.n_prototypes, width)
        nn.init.normal_(self.prototypes.weight, std=STANDARD_SCALE)

    def ideal_points(self, weights: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        prototypes = self.prototypes.weight
        if self.mixing is Mixing.PROJECTED:
            prototypes = self.f(prototypes)
        mixed = mix_prototypes(weights, prototypes)
        return self.f(mixed) if self.mixing is Mixing.INPUT else mixed

    @property
    def margin_is_linear(self) -> bool:
        return super().margin_is_linear and self.mixing is not Mixing.INPUT


class MetricHead(FixedPointHead):
    """−(x − u)ᵀ M (x − u): one metric M for all and ideal points u = centre + w P / scale among the states.

    `FixedPointHead` with a single linear map W as f and its mixing among states: M = scale² WᵀW, of rank
    `preference_dim` at most, positive semidefinite by its making (Canal et al., NeurIPS 2022; arXiv 2207.03609). Here
    M and the points are learned by gradient steps; `palign.functional.metric` has the convex problem, with a point of
    everybody's own.
    """

    def __init__(self, hidden_size: int, **options: object):
        super().__init__(hidden_size, **(options | {"n_layers": 1, "mixing": Mixing.PROJECTED}))

    @property
    def metric(self) -> Tensor:
        """M among the states, (hidden, hidden), where all states are on one scale."""
        root = self.f[0].weight * self.standardize.scale
        return root.T @ root


class PromptPointHead(PointHead):
    """PAL-B: the ideal point is a mixture of K functions g_k of the prompt."""

    default_similarity = Similarity.COSINE
    reads_prompts = True

    def __init__(self, hidden_size: int, *, similarity: Similarity | str = Similarity.COSINE, **options: object):
        super().__init__(hidden_size, similarity=similarity, **options)
        shape = {
            name: options[name] for name in ("preference_dim", "inner_size", "n_layers", "dropout") if name in options
        }
        defaults = {"preference_dim": 32, "inner_size": 64, "n_layers": 2, "dropout": 0.4}
        self.standardize_prompt = Standardize(hidden_size)
        self.g = nn.ModuleList(mlp(hidden_size, **(defaults | shape)) for _ in range(self.n_prototypes))

    def ideal_points(self, weights: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        return mix_prototypes(weights, self.prototypes_of(prompt_states))

    def ideal_points_for_all(self, weights: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        return weights @ self.prototypes_of(prompt_states)

    def prototypes_of(self, prompt_states: Tensor | None) -> Tensor:
        """g_k(c): (..., hidden) → (..., n_prototypes, preference_dim)."""
        if prompt_states is None:
            raise ValueError(
                "The `prompt` variant needs the states of the prompts, and none were given. Give prompts to `score`, "
                "prompt_lengths to `score_tokens`, prompt_index in rows of vectors; or build the model with "
                "variant='fixed'."
            )
        return torch.stack([self.standardize_prompt.then(g, prompt_states) for g in self.g], dim=-2)


class LinearHead(PointHead):
    """r_k(x) = θ_k · (x − centre) · scale: the prototypes are directions θ among the states, and there is no network.

    Fitted by EM, not by gradient steps: see `palign.trainers.reward.linear_fit`. `preference_dim`, `inner_size`,
    `n_layers` and `dropout` are not read.
    """

    default_similarity = Similarity.INNER_PRODUCT

    def __init__(self, hidden_size: int, *, n_prototypes: int, similarity: Similarity | str, **_: object):
        if Similarity(similarity) is not Similarity.INNER_PRODUCT:
            raise ValueError(
                f"similarity is {str(similarity)!r}, and the linear head knows 'inner_product' alone. Leave it out."
            )
        super().__init__(
            hidden_size,
            n_prototypes=n_prototypes,
            preference_dim=1,
            inner_size=1,
            n_layers=1,
            dropout=0.0,
            similarity=similarity,
        )
        self.preference_dim = hidden_size
        self.f = nn.Sequential()
        self.prototypes = nn.Embedding(n_prototypes, hidden_size)
        nn.init.zeros_(self.prototypes.weight)

    def points(self, states: Tensor) -> Tensor:
        return (states.to(self.prototypes.weight.dtype) - self.standardize.center) * self.standardize.scale

    def ideal_points(self, weights: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        return mix_prototypes(weights, self.prototypes.weight)
