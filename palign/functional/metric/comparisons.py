"""Pairs judged by distance under one metric: margins, losses, gradients, and what a duality gap needs of a loss.

Source: Canal, Mason, Vinayak and Nowak, *One for All: Simultaneous Metric and Preference Learning over Multiple Users*
(NeurIPS 2022; arXiv 2207.03609), section 2. Person k prefers a to b where δ_k(a, b) = ‖a − u_k‖²_M − ‖b − u_k‖²_M is
negative. With v_k = −2 M u_k that is aᵀMa − bᵀMb + v_kᵀ(a − b), linear in M and v_k: every loss that is convex in δ is
convex in both. Here the margin of a pair is −δ of the winner over the loser, and v_k is `shared` + `people[k]`.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Comparisons", "Loss", "Parameters", "rewards"]

ROUNDING = 0.5  # width over which the hinge's corner is rounded, so that it has a gradient
POWER_STEPS = 20


class Loss(StrEnum):
    """What a pair costs at its margin."""

    LOGISTIC = "logistic"  # log(1 + exp(−margin))
    HINGE = "hinge"  # max(0, 1 − margin), its corner rounded by a parabola of width 1/2

    def values(self, margins: Tensor) -> Tensor:
        """(n,) → (n,)."""
        if self is Loss.LOGISTIC:
            return F.softplus(-margins)
        short = (1 - margins).clamp_min(0)
        return torch.where(short < ROUNDING, short.square() / (2 * ROUNDING), short - ROUNDING / 2)

    def slopes(self, margins: Tensor) -> Tensor:
        """Minus the derivative, (n,) in [0, 1]."""
        if self is Loss.LOGISTIC:
            return torch.sigmoid(-margins)
        return ((1 - margins) / ROUNDING).clamp(0, 1)

    def conjugates(self, slopes: Tensor) -> Tensor:
        """Fenchel conjugate at minus a slope in [0, 1]: (n,) → (n,)."""
        if self is Loss.LOGISTIC:
            return torch.xlogy(slopes, slopes) + torch.xlogy(1 - slopes, 1 - slopes)
        return ROUNDING / 2 * slopes.square() - slopes

    @property
    def curvature(self) -> float:
        """The largest second derivative."""
        return 0.25 if self is Loss.LOGISTIC else 1 / ROUNDING


@dataclass(frozen=True, eq=False)
class Parameters:
    """`metric` (dim, dim), `shared` (dim,) and `people` (n_people, dim); also a direction or a gradient of theirs."""

    metric: Tensor
    shared: Tensor
    people: Tensor

    @classmethod
    def zeros(cls, dim: int, n_people: int) -> "Parameters":
        """All zero, float64."""
        shapes = ((dim, dim), (dim,), (n_people, dim))
        return cls(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three tensors."""
        return self.metric, self.shared, self.people

    def plus(self, other: "Parameters", factor: float = 1.0) -> "Parameters":
        """self + factor · other."""
        return Parameters(*(a + factor * b for a, b in zip(self.parts(), other.parts(), strict=True)))

    def times(self, factors: "float | tuple[Tensor | float, ...]") -> "Parameters":
        """Each part times a number, or times its own."""
        each = factors if isinstance(factors, tuple) else (factors,) * 3
        return Parameters(*(part * factor for part, factor in zip(self.parts(), each, strict=True)))

    def dot(self, other: "Parameters") -> float:
        """Inner product."""
        return float(sum((a * b).sum() for a, b in zip(self.parts(), other.parts(), strict=True)))

    def vectors(self) -> Tensor:
        """v_k of everybody, (n_people, dim)."""
        return self.shared + self.people


def rewards(items: Tensor, metric: Tensor, vectors: Tensor) -> Tensor:
    """−xᵀMx − v·x: items (..., dim) for vectors (..., dim) that go with them → (...).

    It differs from minus the squared distance to the ideal point by a number of the person's own.
    """
    return -((items @ metric) * items).sum(-1) - (items * vectors).sum(-1)


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Who chose which item over which.

    Attributes:
        items: (n_items, dim) float64.
        winner, loser: (n,) int64 into them.
        person: (n,) int64 in [0, n_people).
        n_people: how many people there are, also those without a pair.
        weight: (n,) float64, what a pair counts for.
        item_rewards: (n_items,) what all like an item for, where that is given and people alone are to be fitted: then
            parameters have an empty `metric` and a `shared` that is not read.

    Raises:
        ValueError: shapes that do not fit, or an item that is not finite.
    """

    items: Tensor
    winner: Tensor
    loser: Tensor
    person: Tensor
    n_people: int
    weight: Tensor
    item_rewards: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = {name: tuple(getattr(self, name).shape) for name in ("winner", "loser", "person", "weight")}
        if len(set(shapes.values())) > 1 or self.items.ndim != 2:
            raise ValueError(
                f"items are (n_items, dim) and the rest (n,); given were {tuple(self.items.shape)}, {shapes}."
            )
        if not bool(self.items.isfinite().all()):
            wrong = int((~self.items.isfinite().all(1)).nonzero()[0])
            raise ValueError(
                f"Item vector {wrong} (counting from 0) holds NaN or infinity. Mend it, or drop its rows."
            )

    def __len__(self) -> int:
        return len(self.winner)

    @property
    def dim(self) -> int:
        """Of the items."""
        return self.items.shape[1]

    @cached_property
    def differences(self) -> Tensor:
        """(n, dim): loser less winner."""
        return self.items[self.loser] - self.items[self.winner]

    def select(self, pairs: Tensor) -> "Comparisons":
        """Some pairs, (n,) bool or their numbers, of the same people and items."""
        parts = {name: getattr(self, name)[pairs] for name in ("winner", "loser", "person", "weight")}
        return replace(self, **parts)

    def over(self, items: Tensor) -> "Comparisons":
        """The same pairs of items under other coordinates (n_items, any)."""
        return replace(self, items=items)

    def zeros(self) -> Parameters:
        """Parameters of these pairs, all zero."""
        zero = Parameters.zeros(self.dim if self.item_rewards is None else 0, self.n_people)
        if self.item_rewards is None:
            return zero
        sizes = (self.dim, (self.n_people, self.dim))
        return Parameters(zero.metric, *(torch.zeros(size, dtype=torch.float64) for size in sizes))

    def margins(self, at: Parameters) -> Tensor:
        """Reward of the winner less that of the loser, (n,)."""
        personal = (self.differences * at.people[self.person]).sum(1)
        if self.item_rewards is not None:
            return self.item_rewards[self.winner] - self.item_rewards[self.loser] + personal
        squares = ((self.items @ at.metric) * self.items).sum(1)
        return squares[self.loser] - squares[self.winner] + self.differences @ at.shared + personal

    def pulled(self, strengths: Tensor) -> Parameters:
        """Σ strengths · (derivative of a margin) by every parameter; strengths (n,)."""
        moved = strengths[:, None] * self.differences
        people = moved.new_zeros(self.n_people, self.dim).index_add_(0, self.person, moved)
        if self.item_rewards is not None:
            zero = self.zeros()
            return Parameters(zero.metric, zero.shared, people)
        pull = strengths.new_zeros(len(self.items)).index_add_(0, self.loser, strengths)
        pull = pull.index_add_(0, self.winner, -strengths)
        return Parameters(self.items.T @ (pull[:, None] * self.items), moved.sum(0), people)

    def loss(self, at: Parameters, kind: Loss) -> float:
        """Σ weight · loss, nats where it is logistic."""
        return float((self.weight * kind.values(self.margins(at))).sum())

    def loss_and_gradient(self, at: Parameters, kind: Loss) -> tuple[float, Parameters]:
        """The same, and its gradient."""
        margins = self.margins(at)
        value = float((self.weight * kind.values(margins)).sum())
        return value, self.pulled(-self.weight * kind.slopes(margins))

    def curvatures(self) -> tuple[float, float, Tensor]:
        """Largest eigenvalue of Σ weight · gradient gradientᵀ of the margin within each part: of `metric`, of `shared`
        and of each person (n_people, 1); by power iteration, so a little too small.
        """
        generator = torch.Generator().manual_seed(0)
        free = replace(self, item_rewards=torch.zeros_like(self.items[:, 0]))
        people = torch.randn(self.n_people, self.dim, generator=generator, dtype=torch.float64)
        tops = people.new_zeros(self.n_people, 1)
        zero = free.zeros()
        for _ in range(POWER_STEPS):
            people = people / people.norm(dim=1, keepdim=True).clamp_min(1e-300)
            people = free.pulled(self.weight * free.margins(Parameters(zero.metric, zero.shared, people))).people
            tops = people.norm(dim=1, keepdim=True)
        if self.item_rewards is not None or len(self) == 0:
            return 0.0, 0.0, tops
        metric, top = torch.randn(self.dim, self.dim, generator=generator, dtype=torch.float64), 0.0
        metric, zero = metric + metric.T, self.zeros()
        for _ in range(POWER_STEPS):
            metric = metric / metric.norm().clamp_min(1e-300)
            at = Parameters(metric, zero.shared, zero.people)
            metric = self.pulled(self.weight * self.margins(at)).metric
            top = float(metric.norm())
        gram = self.differences.T @ (self.weight[:, None] * self.differences)
        return top, float(torch.linalg.eigvalsh(gram)[-1]), tops
