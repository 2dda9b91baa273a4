"""Coordinates that a metric is fitted in, and the subspaces that items lie in."""

import numpy as np
import torch
from torch import Tensor

from palign.functional.metric.comparisons import Comparisons
from palign.functional.metric.subspaces import Subspaces, find_subspaces, stitching_rank, subspaces_of
from palign.pipelines.arguments.metric import MetricArguments

__all__ = ["item_subspaces", "pair_scale", "principal_coordinates"]

SAMPLE = 8192  # vectors that principal directions are taken from
LEAST_SHARE = 1e-3  # of the largest singular value: directions below it are noise


def principal_coordinates(vectors: Tensor, script: MetricArguments) -> tuple[Tensor, Tensor, str | None]:
    """Centre (hidden,), basis (hidden, dim) and a sentence where directions were left out.

    Subspaces go through the origin: there the centre is zero.
    """
    vectors = vectors[:: max(1, len(vectors) // SAMPLE)].double()
    center = vectors.mean(0) if script.estimator == "general" else torch.zeros(vectors.shape[1], dtype=torch.float64)
    _, values, directions = torch.linalg.svd(vectors - center, full_matrices=False)
    n_real = int((values > LEAST_SHARE * values[:1].clamp_min(1e-300)).sum())
    n = max(1, min(script.max_dim, n_real))
    if n == n_real and n_real == vectors.shape[1]:
        return center, torch.eye(n, dtype=torch.float64), None
    share = float(values[:n].square().sum() / values.square().sum().clamp_min(1e-300))
    note = (
        f"The metric is of {n} principal directions of the {vectors.shape[1]} numbers of a vector, which hold "
        f"{share:.0%} of their variance (--max_dim)."
    )
    return center, directions[:n].T.contiguous(), note


def pair_scale(pairs: Comparisons) -> float:
    """Root mean square length of the differences of pairs: strengths are in its units."""
    return float(pairs.differences.square().sum(1).mean().sqrt()) or 1.0


def item_subspaces(pairs: Comparisons, script: MetricArguments, used: Tensor) -> tuple[Subspaces, str]:
    """Those named in the file, or those that the items lie in; and a sentence."""
    if script.subspaces_path is not None:
        named = np.load(script.subspaces_path, allow_pickle=False)
        if named.ndim != 1 or named.dtype.kind not in "iu" or len(named) <= int(used.max()):
            raise ValueError(
                f"{script.subspaces_path} must hold one whole number for each vector, the subspace it lies in (-1: "
                f"none); it has shape {named.shape} of {named.dtype}, and rows name vector {int(used.max())}."
            )
        spaces = subspaces_of(pairs.items, torch.from_numpy(named.astype(np.int64))[used])
    else:
        spaces = find_subspaces(pairs.items, seed=script.seed)
    if spaces is None:
        raise ValueError(
            f"The {len(pairs.items):,} items lie in no few subspaces of up to four of {pairs.dim} dimensions, so a "
            "metric cannot be put together from subspaces. Name them by --subspaces_path, or give --estimator general."
        )
    known, unknown = stitching_rank(spaces.bases), pairs.dim * (pairs.dim + 1) // 2
    note = (
        f"The items lie in {len(spaces.bases)} subspaces, which determine {known} of the {unknown} numbers of a "
        f"metric of {pairs.dim} dimensions together"
    )
    rest = "." if known == unknown else ": between subspaces distances are not known, and the least metric is taken."
    return spaces, note + rest
