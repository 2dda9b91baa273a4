"""What keeps a metric and its people in bounds: value, proximal step, and the conjugate that a duality gap needs.

All of them hold M ⪰ 0. `BALLS` is the setting of Canal et al. (arXiv 2207.03609), section 3; `NUCLEAR` and
`JOINT_NUCLEAR` their low-rank ones, as penalties in place of balls (to each ball belongs a penalty with the same
minimiser). `RIDGE` is ours: people are shrunk to what all share and not to zero, for somebody of few answers is best
served like the others.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from palign.functional.metric.comparisons import Parameters

__all__ = ["Balls", "JointNuclear", "Nuclear", "Penalty", "Regulariser", "Ridge", "positive_part"]

SHARED_RIDGE = 0.01  # of what all share: hardly shrunk
DYKSTRA_STEPS = 60
DYKSTRA_TOLERANCE = 1e-8

Steps = tuple[float, float, Tensor]


class Penalty(StrEnum):
    """Names of the regularisers."""

    RIDGE = "ridge"
    BALLS = "balls"
    NUCLEAR = "nuclear"
    JOINT_NUCLEAR = "joint_nuclear"

    def make(self, strengths: tuple[float, ...]) -> "Regulariser":
        """With one or two strengths, as the class takes them, all positive."""
        if len(strengths) != self.n_strengths or not all(0 < strength < float("inf") for strength in strengths):
            raise ValueError(
                f"The regulariser {str(self)!r} takes {self.n_strengths} positive numbers, not {list(strengths)}."
            )
        return KINDS[self](*strengths)

    @property
    def n_strengths(self) -> int:
        """Numbers that it takes."""
        return 1 if self is Penalty.JOINT_NUCLEAR else 2

    @property
    def start(self) -> tuple[float, ...]:
        """Strengths that a search for better ones begins with, for pairs of mean squared length one."""
        return {"ridge": (4.0, 1.0), "balls": (2.0, 2.0), "nuclear": (4.0, 1.0), "joint_nuclear": (4.0,)}[self.value]


def positive_part(matrix: Tensor) -> Tensor:
    """The nearest symmetric positive semidefinite matrix, (dim, dim)."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp_min(0)) @ vectors.T


class Regulariser(ABC):
    """A convex function of the parameters, infinite where M is not positive semidefinite."""

    has_shared = True
    has_one_step = False  # whether the proximal step wants one length for all parts

    @abstractmethod
    def value(self, at: Parameters) -> float:
        """At parameters whose M is positive semidefinite."""

    @abstractmethod
    def prox(self, at: Parameters, steps: Steps) -> Parameters:
        """argmin over x of value(x) + Σ_parts ‖x − at‖² / (2 step)."""

    @abstractmethod
    def conjugate(self, at: Parameters) -> tuple[float, float]:
        """(share, conjugate at share · at), the largest share ≤ 1 at which that is known to be finite."""


@dataclass
class Ridge(Regulariser):
    """metric/2 ‖M‖²_F + people/2 Σ_k ‖people_k‖² + .005 ‖shared‖²."""

    metric: float
    people: float

    def value(self, at: Parameters) -> float:
        squares = [float(part.square().sum()) for part in at.parts()]
        return (self.metric * squares[0] + SHARED_RIDGE * squares[1] + self.people * squares[2]) / 2

    def prox(self, at: Parameters, steps: Steps) -> Parameters:
        return Parameters(
            positive_part(at.metric) / (1 + steps[0] * self.metric),
            at.shared / (1 + steps[1] * SHARED_RIDGE),
            at.people / (1 + steps[2] * self.people),
        )

    def conjugate(self, at: Parameters) -> tuple[float, float]:
        metric = positive_part(at.metric).square().sum() / self.metric
        rest = at.shared.square().sum() / SHARED_RIDGE + at.people.square().sum() / self.people
        return 1.0, float(metric + rest) / 2


@dataclass
class Nuclear(Regulariser):
    """metric · tr M + people/2 Σ_k ‖people_k‖² + .005 ‖shared‖²: metrics of low rank."""

    metric: float
    people: float

    def value(self, at: Parameters) -> float:
        rest = SHARED_RIDGE * at.shared.square().sum() + self.people * at.people.square().sum()
        return float(self.metric * at.metric.trace() + rest / 2)

    def prox(self, at: Parameters, steps: Steps) -> Parameters:
        less = steps[0] * self.metric * torch.eye(len(at.metric), dtype=at.metric.dtype)
        shared, people = at.shared / (1 + steps[1] * SHARED_RIDGE), at.people / (1 + steps[2] * self.people)
        return Parameters(positive_part(at.metric - less), shared, people)

    def conjugate(self, at: Parameters) -> tuple[float, float]:
        top = float(torch.linalg.eigvalsh((at.metric + at.metric.T) / 2)[-1])
        share = min(1.0, self.metric / top) if top > 0 else 1.0
        rest = at.shared.square().sum() / SHARED_RIDGE + at.people.square().sum() / self.people
        return share, share**2 * float(rest) / 2


@dataclass
class Balls(Regulariser):
    """‖M‖_F ≤ metric and ‖v_k‖ ≤ people: value 0 inside; nothing is shared but M."""

    metric: float
    people: float
    has_shared = False

    def value(self, at: Parameters) -> float:
        return 0.0

    def prox(self, at: Parameters, steps: Steps) -> Parameters:
        metric = positive_part(at.metric)
        metric = metric * min(1.0, self.metric / max(float(metric.norm()), 1e-300))
        lengths = at.people.norm(dim=1, keepdim=True).clamp_min(1e-300)
        return Parameters(metric, torch.zeros_like(at.shared), at.people * (self.people / lengths).clamp_max(1))

    def conjugate(self, at: Parameters) -> tuple[float, float]:
        metric = self.metric * positive_part(at.metric).norm()
        return 1.0, float(metric + self.people * at.people.norm(dim=1).sum())


@dataclass
class JointNuclear(Regulariser):
    """strength · ‖[M, v_1, …, v_n]‖_*: metric and people lie in one subspace of few dimensions."""

    strength: float
    has_shared = False
    has_one_step = True
    multiplier: Tensor | None = None  # of M ⪰ 0 at the last proximal step
    cone: Tensor | None = None  # the same times the step's length: where the next one starts

    def value(self, at: Parameters) -> float:
        return self.strength * float(torch.linalg.svdvals(torch.cat([at.metric, at.people.T], 1)).sum())

    def prox(self, at: Parameters, steps: Steps) -> Parameters:
        """Dykstra's splitting for a sum of two convex functions (Bauschke and Combettes 2008), which goes up the dual
        one block at a time, and so may start where the last step ended.
        """
        dim, threshold = len(at.metric), steps[0] * self.strength
        wanted = torch.cat([at.metric, at.people.T], 1)
        cone = torch.zeros_like(at.metric) if self.cone is None else self.cone
        before = wanted
        for _ in range(DYKSTRA_STEPS):
            low = _shrunk(torch.cat([wanted[:, :dim] - cone, wanted[:, dim:]], 1), threshold)
            free = low[:, :dim] + cone
            now = torch.cat([positive_part(free), low[:, dim:]], 1)
            cone = free - now[:, :dim]
            if float((now - before).norm()) <= DYKSTRA_TOLERANCE * max(1.0, float(now.norm())):
                break
            before = now
        self.cone, self.multiplier = cone, -cone / steps[0]
        return Parameters(now[:, :dim], torch.zeros_like(at.shared), now[:, dim:].T)

    def conjugate(self, at: Parameters) -> tuple[float, float]:
        free = at.metric if self.multiplier is None else at.metric + self.multiplier
        top = float(torch.linalg.matrix_norm(torch.cat([free, at.people.T], 1), 2))
        return (min(1.0, self.strength / top) if top > 0 else 1.0), 0.0


def _shrunk(matrix: Tensor, threshold: float) -> Tensor:
    """Singular values less the threshold, none below zero: of (dim, many), by the eigenvectors of a (dim, dim)."""
    squares, left = torch.linalg.eigh(matrix @ matrix.T)
    values = squares.clamp_min(0).sqrt()
    share = (1 - threshold / values.clamp_min(1e-300)).clamp_min(0)
    return (left * share) @ (left.T @ matrix)


KINDS = {
    Penalty.RIDGE: Ridge,
    Penalty.BALLS: Balls,
    Penalty.NUCLEAR: Nuclear,
    Penalty.JOINT_NUCLEAR: JointNuclear,
}
