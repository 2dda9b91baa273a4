"""What is peculiar to a person: a linear deviation from the reward of their mixture, shrunk to zero.

A mixture of a few prototypes says where a person stands among others; with dozens of answers a person says more. The
deviation δ_i is the maximum a posteriori of a logistic (Plackett–Luce) regression on the person's rows with the
mixture's reward as the offset and a Gaussian prior of precision `ridge` around zero. Nobody's δ touches another's: the
problems are separate, and are solved side by side by gradient steps with memory (L-BFGS).

The precision is shared by all, and is chosen where a deviation is fitted on some rows of people held out and judged
on others (`palign.trainers.reward.prototype_count`).
"""

import torch
from torch import Tensor

from palign.functional.losses import plackett_luce
from palign.functional.optimizers.lbfgs import PlainLBFGS

__all__ = ["fit_deviations", "principal_basis"]

MAX_STEPS = 60
MEMORY = 10
CHUNK_ENTRIES = 2**25  # of items × width worked on at a time
LEAST_SHARE = 1e-3  # of the largest singular value: directions below it are noise of the vectors


def principal_basis(vectors: Tensor, width: int, *, whiten: bool = False) -> tuple[Tensor, Tensor]:
    """Centre (dim,) and basis (dim, min(width, dim)) of principal directions of vectors (n_vectors, dim); columns are
    zero where the vectors have fewer directions.

    (x − centre) @ basis has a mean square of one over the vectors, summed over its columns and divided by `dim` where
    `whiten` is false (coordinates keep their shape); each column has a mean square of 1/4 where it is true, so that
    items that differ in any direction are told apart alike: with as many directions as items, items by identity.
    """
    vectors = vectors.double()
    center = vectors.mean(0)
    _, values, directions = torch.linalg.svd(vectors - center, full_matrices=False)
    n = max(1, min(width, int((values > LEAST_SHARE * values[0]).sum())))
    values, directions = values[:n], directions[:n]
    root = values / len(vectors) ** 0.5  # root mean square along each direction
    if whiten:
        columns = directions / (2 * root[:, None]).clamp_min(1e-12)
    else:
        columns = directions * (0.5 / (root.square().sum() / vectors.shape[1]).sqrt().clamp_min(1e-12))
    n_missing = min(width, vectors.shape[1]) - n
    return center.float(), torch.cat([columns, columns.new_zeros(n_missing, vectors.shape[1])]).T.float().contiguous()


def fit_deviations(
    features: Tensor,
    item_indices: Tensor,
    ranks: Tensor,
    annotator_index: Tensor,
    offsets: Tensor,
    n_annotators: int,
    *,
    ridge: float,
    row_weights: Tensor | None = None,
) -> Tensor:
    """argmin over δ of Σ_rows w · −log p(row | offset + features · δ_person) + ridge/2 Σ_i ‖δ_i‖².

    Args:
        features: (n_item_vectors, dim).
        item_indices: (rows, max_items) int64 into them; any valid index at padding.
        ranks: (rows, max_items), −1 is padding.
        annotator_index: (rows,) int64 in [0, n_annotators).
        offsets: (rows, max_items) reward of each item for the person of its row without δ.
        ridge: positive.
        row_weights: (rows,) what a row counts for; 1 if None.

    Returns:
        (n_annotators, dim) float32; zero for people without rows.
    """
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge}; it must be positive, or a person of few rows has no finite optimum.")
    deltas = features.new_zeros(n_annotators, features.shape[1]).requires_grad_()
    if len(ranks) == 0:
        return deltas.detach()
    optimizer = PlainLBFGS(
        [deltas],
        max_iter=MAX_STEPS,
        history_size=MEMORY,
        tolerance_grad=1e-4,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )
    at_once = max(1, CHUNK_ENTRIES // (ranks.shape[1] * features.shape[1]))

    def objective() -> Tensor:
        deltas.grad = None
        total = ridge / 2 * deltas.square().sum()
        total.backward()
        for start in range(0, len(ranks), at_once):
            part = slice(start, start + at_once)
            deviations = (features[item_indices[part]] * deltas[annotator_index[part], None]).sum(-1)
            losses = plackett_luce(offsets[part] + deviations, ranks[part])
            loss = losses.sum() if row_weights is None else (losses * row_weights[part]).sum()
            loss.backward()
            total = total.detach() + loss.detach()
        return total

    with torch.enable_grad():
        optimizer.step(objective)
    return deltas.detach()
