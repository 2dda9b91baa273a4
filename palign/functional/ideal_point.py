"""PAL's ideal points: a person is a mixture of prototypes, and likes what lies close to it.

Source: Chen et al., *PAL: Sample-Efficient Personalized Reward Modeling for Pluralistic Alignment* (ICLR 2025;
arXiv 2406.08469), sections 3.1 (fixed ideal point, PAL-A) and 3.2 (ideal point as a function of the prompt, PAL-B).
"""

from enum import StrEnum

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Similarity", "ideal_point_scores", "mix_prototypes"]

MAX_SCALE = 100.0  # of a cosine, as in CLIP and in PAL-B


class Similarity(StrEnum):
    """What "close" means."""

    SQUARED_DISTANCE = "squared_distance"
    DISTANCE = "distance"
    COSINE = "cosine"
    INNER_PRODUCT = "inner_product"


def mix_prototypes(weights: Tensor, prototypes: Tensor) -> Tensor:
    """z = Σ_k w_k p_k.

    Args:
        weights: (..., n_prototypes) on the simplex.
        prototypes: (n_prototypes, preference_dim), or (..., n_prototypes, preference_dim) where they depend on the
            row.

    Returns:
        (..., preference_dim).
    """
    if prototypes.dim() == 2:
        return weights @ prototypes
    return (weights[..., None] * prototypes).sum(-2)


def ideal_point_scores(
    points: Tensor, ideal_points: Tensor, *, similarity: Similarity | str, log_scale: Tensor | None = None
) -> Tensor:
    """Reward of points for ideal points, (..., preference_dim) each, broadcast → (...).

    −‖x − z‖² (`squared_distance`), −‖x − z‖ (`distance`), min(exp(log_scale), 100) · cos(x, z) (`cosine`), or x · z
    (`inner_product`: half the squared distance without its terms in x alone and z alone).
    """
    similarity = Similarity(similarity)
    if similarity is Similarity.INNER_PRODUCT:
        return (points * ideal_points).sum(-1)
    if similarity is Similarity.COSINE:
        scale = 1.0 if log_scale is None else log_scale.exp().clamp(max=MAX_SCALE)
        return scale * F.cosine_similarity(points, ideal_points, dim=-1)
    squared = (points - ideal_points).square().sum(-1)
    if similarity is Similarity.SQUARED_DISTANCE:
        return -squared
    return -(squared + 1e-12).sqrt()  # the gradient stays finite where a point is ideal
