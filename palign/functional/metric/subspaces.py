"""A metric from few answers a person, where items lie in few subspaces of few dimensions: learn it in each, then
stitch.

Within a subspace of basis B (dim, r) a pair tells of BᵀMB and of Bᵀv_k alone: r numbers of a person instead of dim.
The pieces are put together by least squares, M = argmin Σ_s ‖B_sᵀ M B_s − Q_s‖²_F, and brought to M ⪰ 0. M is
determined where the subspaces together span all quadratic forms. Source: Wang, So and Vinayak (UAI 2024; arXiv
2403.19629).

Where we differ: people are placed by all their answers once the metric is known, those across subspaces, too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from palign.functional.metric.comparisons import Comparisons, Loss, Parameters
from palign.functional.metric.fit import MetricFit, fit_metric
from palign.functional.metric.points import fit_vectors
from palign.functional.metric.regularisers import SHARED_RIDGE, Penalty, positive_part

__all__ = ["Subspaces", "find_subspaces", "fit_in_subspaces", "stitch", "stitching_rank", "subspaces_of"]

N_DRAWS = 1500
MOST_DIMENSIONS = 4  # of one subspace
LEAST_ITEMS = 4  # beyond those that a subspace goes through in any case
MOST_LEFT = 0.05  # share of items in no subspace


@dataclass(frozen=True, eq=False)
class Subspaces:
    """Where items lie.

    Attributes:
        bases: (dim, r_s) orthonormal, one of each subspace.
        of_item: (n_items,) int64, −1 is none.
    """

    bases: list[Tensor]
    of_item: Tensor


def subspaces_of(items: Tensor, of_item: Tensor, *, tolerance: float = 1e-4) -> Subspaces:
    """Bases of named groups of items: (n_items, dim) and (n_items,) int64, −1 is none.

    Raises:
        ValueError: a group that spans all dimensions, which is no subspace.
    """
    bases = []
    for number in range(int(of_item.max()) + 1):
        _, values, directions = torch.linalg.svd(items[of_item == number], full_matrices=False)
        rank = int((values > tolerance * values[:1].clamp_min(1e-300)).sum()) if len(values) else 0
        if rank == 0 or (rank >= items.shape[1] > 1):
            raise ValueError(
                f"The items of subspace {number} span {rank} of {items.shape[1]} dimensions; a subspace has fewer "
                "than all, and at least one. Look at the file that says which item lies where."
            )
        bases.append(directions[:rank].T.contiguous())
    return Subspaces(bases, of_item)


def find_subspaces(items: Tensor, *, tolerance: float = 1e-4, seed: int = 0) -> Subspaces | None:
    """Subspaces through the origin, of one to four dimensions, that nearly all items (n_items, dim) lie in; None where
    there are no such: items in general position, as vectors of texts are.

    Draws spans of few items, the smallest first, and keeps one that goes through more others than it must.

    Args:
        tolerance: how far off an item may lie, as a share of its length.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = items / items.norm(dim=1, keepdim=True).clamp_min(1e-300)
    of_item = torch.full((len(items),), -1, dtype=torch.int64)
    bases: list[Tensor] = []
    for r in range(1, min(MOST_DIMENSIONS, items.shape[1] - 1) + 1):
        while True:
            free = (of_item < 0).nonzero()[:, 0]
            if len(free) < r + LEAST_ITEMS:
                break
            basis, inside = _largest_span(unit[free], r, tolerance, generator)
            if int(inside.sum()) < r + LEAST_ITEMS:
                break
            of_item[free[inside]] = len(bases)
            bases.append(basis)
    if not bases or float((of_item < 0).double().mean()) > MOST_LEFT:
        return None
    return Subspaces(bases, of_item)


def _largest_span(unit: Tensor, r: int, tolerance: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of spans of r items drawn at random, the basis (dim, r) of the one that most items lie in, and which (n,) do."""
    drawn = torch.stack([torch.randperm(len(unit), generator=generator)[:r] for _ in range(N_DRAWS)])
    bases = torch.linalg.qr(unit[drawn].transpose(1, 2))[0]
    best, most = bases[0], -1
    for part in bases.split(64):
        inside = (1 - (unit @ part).square().sum(2)).clamp_min(0).sqrt() <= tolerance
        counts = inside.sum(1)
        if int(counts.max()) > most:
            most, best = int(counts.max()), part[int(counts.argmax())]
    inside = (1 - (unit @ best).square().sum(1)).clamp_min(0).sqrt() <= tolerance
    return best, inside


def stitching_rank(bases: list[Tensor]) -> int:
    """How many of the dim (dim + 1) / 2 numbers of M the subspaces determine together."""
    return int(torch.linalg.matrix_rank(_equations(bases), rtol=1e-8))


def stitch(bases: list[Tensor], pieces: list[Tensor]) -> Tensor:
    """The symmetric M (dim, dim) of least norm among those with the least Σ_s ‖B_sᵀ M B_s − Q_s‖²_F; pieces Q_s
    (r_s, r_s).
    """
    targets = torch.cat([_coordinates(piece) for piece in pieces])
    solution = torch.linalg.lstsq(_equations(bases), targets[:, None], driver="gelsd", rcond=1e-8).solution[:, 0]
    dim = len(bases[0])
    rows, columns = torch.triu_indices(dim, dim)
    matrix = torch.zeros(dim, dim, dtype=solution.dtype)
    matrix[rows, columns] = torch.where(rows == columns, solution, solution / 2**0.5)
    return matrix + matrix.T - torch.diag(matrix.diagonal())


def _coordinates(matrix: Tensor) -> Tensor:
    """(..., r, r) symmetric → (..., r (r + 1) / 2), with the same inner products."""
    rows, columns = torch.triu_indices(matrix.shape[-1], matrix.shape[-1])
    return matrix[..., rows, columns] * torch.where(rows == columns, 1.0, 2**0.5)


def _equations(bases: list[Tensor]) -> Tensor:
    """(Σ r (r + 1) / 2, dim (dim + 1) / 2): coordinates of M to coordinates of all B_sᵀ M B_s."""
    dim = len(bases[0])
    rows, columns = torch.triu_indices(dim, dim)
    unit = torch.zeros(len(rows), dim, dim, dtype=bases[0].dtype)
    size = torch.where(rows == columns, 1.0, 0.5**0.5).to(unit)
    unit[torch.arange(len(rows)), rows, columns] = size
    unit[torch.arange(len(rows)), columns, rows] = size
    return torch.cat([_coordinates(basis.T @ unit @ basis).T for basis in bases])


def fit_in_subspaces(
    pairs: Comparisons,
    subspaces: Subspaces,
    *,
    loss: Loss | str = Loss.LOGISTIC,
    strengths: tuple[float, float] | None = None,
    tolerance: float = 1e-5,
) -> MetricFit:
    """A metric in each subspace, from the pairs whose items both lie in it; stitched; and everybody placed under it.

    Args:
        strengths: of `ridge`, the same in every subspace.

    Raises:
        ValueError: no pair within a subspace.
        RuntimeError: as `fit_metric`.
    """
    strengths = Penalty.RIDGE.start if strengths is None else strengths
    bases, pieces, gap, n_steps = [], [], 0.0, 0
    of_pair = subspaces.of_item[pairs.winner]
    of_pair = torch.where(of_pair == subspaces.of_item[pairs.loser], of_pair, -1)
    for number, basis in enumerate(subspaces.bases):
        inside = _within(pairs, (of_pair == number).nonzero()[:, 0], basis)
        if len(inside) == 0:
            continue
        fit = fit_metric(inside, loss=loss, strengths=strengths, tolerance=tolerance)
        bases.append(basis)
        pieces.append(fit.metric)
        gap, n_steps = gap + fit.gap, n_steps + fit.n_steps
    if not bases:
        raise ValueError(
            "No pair compares two items of one subspace, and across subspaces a person's answers say nothing of the "
            "metric. Ask about pairs within subspaces, or give --estimator general."
        )
    metric = positive_part(stitch(bases, pieces))
    shared = _shared(pairs, metric, loss, tolerance)
    people = fit_vectors(pairs, metric, shared, strengths[1] * torch.eye(pairs.dim, dtype=torch.float64), loss=loss)
    at = Parameters(metric, shared, people)
    return MetricFit(at, pairs.loss(at, Loss(loss)), gap, n_steps)


def _within(pairs: Comparisons, rows: Tensor, basis: Tensor) -> Comparisons:
    """Some pairs with the coordinates, the items and the people of one subspace."""
    people, person = torch.unique(pairs.person[rows], return_inverse=True)
    ends = torch.cat([pairs.winner[rows], pairs.loser[rows]])
    items, place = torch.unique(ends, return_inverse=True)
    winner, loser = place[: len(rows)], place[len(rows) :]
    return Comparisons(pairs.items[items] @ basis, winner, loser, person, len(people), pairs.weight[rows])


def _shared(pairs: Comparisons, metric: Tensor, loss: Loss | str, tolerance: float) -> Tensor:
    """What all share under that metric, (dim,): everybody's v as if they were one person."""
    one = Comparisons(pairs.items, pairs.winner, pairs.loser, torch.zeros_like(pairs.person), 1, pairs.weight)
    precision = SHARED_RIDGE * torch.eye(pairs.dim, dtype=torch.float64)
    zero = torch.zeros(pairs.dim, dtype=torch.float64)
    return fit_vectors(one, metric, zero, precision, loss=loss, tolerance=tolerance)[0]
