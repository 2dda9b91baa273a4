"""Min-max regret over types, as a table and as a game (arXiv 2405.15065 and 2510.15716).

Type i, whose policy is π_i, judges any policy π by `R_i(π) = β E_x[E_{y~π_i} h_i − E_{y~π} h_i]`, with h_i =
log π_i − log π_ref. Of policies that are drawn per request with probabilities w, type i sees (R w)_i; the fair w is
that of the least worst regret. A regret is negative where a policy is a sharper π_i.

Where we differ from the papers: 1. the game is solved exactly; their optimistic Hedge is in `regret_hedge`. 2. Nobody
counts below 0: among weights that leave no type any regret, and among ties, the least mean regret decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palign.functional.regret_game import solve_matrix_game

__all__ = [
    "MinmaxRegret",
    "ValueBounds",
    "choose_within_budget",
    "duality_gap",
    "importance_of",
    "kl_regret_matrix",
    "regret_matrix",
    "relative_regret_matrix",
    "solve_minmax_regret",
    "value_bounds",
    "weighted_table",
]

Table = Tensor | np.ndarray | Sequence[Sequence[float]]
Vector = Tensor | np.ndarray | Sequence[float]


@dataclass(frozen=True)
class MinmaxRegret:
    """The fair mixture of policies, and why no other is fairer. Tensors are float64.

    Attributes:
        policy_weights: (n_policies,) ≥ 0 of sum 1: how often each policy answers.
        type_weights: (n_types,) ≥ 0, the dual solution: whose regret holds the value up. Of sum 1 if the value is
            above 0; no policy has a mean regret below the value under these weights.
        regrets: (n_types,) regret of each type under the mixture, as given: without `type_importance`.
        value: max(0, worst regret of the mixture), times the importance of its type.
        gap: value less the bound that `type_weights` prove; ≥ 0 up to rounding.
    """

    policy_weights: Tensor
    type_weights: Tensor
    regrets: Tensor
    value: float
    gap: float


@dataclass(frozen=True)
class ValueBounds:
    """What the value of a game cannot exceed.

    Attributes:
        best_policy: worst regret of the best single policy.
        uniform: (1 − 1/n) max R for types with a policy each, without regret under it; inf for other tables.
    """

    best_policy: float
    uniform: float


def regret_matrix(values: Table, *, own_values: Vector | None = None, beta: float = 1.0) -> Tensor:
    """β (own value − value): what each type loses under each policy, in units of reward.

    Args:
        values: (..., n_types, n_policies) `L_ij = E_{y~π_j} h_i`, nats.
        own_values: (..., n_types) E_{y~π_i} h_i. Without them: the diagonal of a square table, whose policies then
            must be those of the types, in their order; the best policy of the row in any other.
        beta: reward per nat.

    Returns:
        (..., n_types, n_policies) float64.
    """
    table = _finite(values, "values")
    return beta * (_own_values(table, own_values)[..., None] - table)


def relative_regret_matrix(values: Table, reference_values: Vector, *, own_values: Vector | None = None) -> Tensor:
    """(L_ii − L_ij) / (L_ii − L_i,ref): 0 is the type's own policy, 1 the reference; free of the scale of h.

    Args:
        values, own_values: as `regret_matrix`.
        reference_values: (..., n_types) E_{y~π_ref} h_i, nats.

    Returns:
        (..., n_types, n_policies); NaN for a type whose own policy gains nothing over the reference.
    """
    table, reference = _finite(values, "values"), torch.as_tensor(reference_values, dtype=torch.float64)
    type_values = _own_values(table, own_values)
    gain = (type_values - reference)[..., None]
    return (type_values[..., None] - table) / gain.where(gain > 0, float("nan"))


def kl_regret_matrix(values: Table, kl_to_reference: Vector, *, beta: float = 1.0) -> Tensor:
    """β KL(π_j ‖ π_i) = β (KL(π_j ‖ π_ref) − L_ij): how far each policy is from each type's own.

    Args:
        values: (..., n_types, n_policies), as `regret_matrix`.
        kl_to_reference: (..., n_policies), nats.
    """
    table = _finite(values, "values")
    return beta * (torch.as_tensor(kl_to_reference, dtype=torch.float64)[..., None, :] - table)


def solve_minmax_regret(regrets: Table, *, type_importance: Vector | None = None) -> MinmaxRegret:
    """w = argmin over the simplex of max(0, max_i (R w)_i), exactly; ties by the least mean of R w.

    What ties in that, too, is decided by the order of columns: of types that are the same one gets the weight, and
    types in another order may give other weights, of the same worst and mean regret.

    Args:
        regrets: (n_types, n_policies), any numbers of rows and columns.
        type_importance: (n_types,) ≥ 0, multiplies rows: 2 for a type whose regret counts double.

    Raises:
        ValueError: no table, or a number in it that is not finite (type and policy are named).
    """
    raw = _finite(regrets, "regrets")
    table = weighted_table(raw, type_importance)
    solution = solve_matrix_game(table.numpy())
    policy_weights = torch.from_numpy(solution.column_weights)
    type_weights = torch.from_numpy(solution.row_weights)
    return MinmaxRegret(
        policy_weights=policy_weights,
        type_weights=type_weights,
        regrets=raw @ policy_weights,
        value=solution.value,
        gap=duality_gap(table, policy_weights, type_weights),
    )


def weighted_table(regrets: Table, type_importance: Vector | None = None) -> Tensor:
    """The game that is played: (n_types, n_policies) finite float64, rows times the importance of their type."""
    table = _finite(regrets, "regrets")
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"regrets have shape {tuple(table.shape)}; give one row per type and one column per policy.")
    return table if type_importance is None else table * importance_of(type_importance, len(table))[:, None]


def importance_of(type_importance: Vector | None, n_types: int) -> Tensor:
    """(n_types,) float64 as the caller gave it, checked; ones for None."""
    if type_importance is None:
        return torch.ones(n_types, dtype=torch.float64)
    importance = torch.as_tensor(type_importance, dtype=torch.float64)
    if importance.shape != (n_types,):
        raise ValueError(f"type_importance has shape {tuple(importance.shape)}; give one for each of {n_types} types.")
    if not (torch.isfinite(importance).all() and (importance >= 0).all() and importance.any()):
        raise ValueError(f"type_importance is {importance.tolist()}; give finite numbers ≥ 0, one of them above 0.")
    return importance


def duality_gap(regrets: Tensor, policy_weights: Tensor, type_weights: Tensor) -> float:
    """max(0, max_i (R w)_i) − min_j (qᵀ R)_j: an upper bound on how far both are from optimal.

    Args:
        regrets: (n_types, n_policies).
        policy_weights: (n_policies,) of sum 1.
        type_weights: (n_types,) ≥ 0 of sum ≤ 1: what is missing is the weight of having no regret.
    """
    upper = (regrets @ policy_weights).max().clamp_min(0.0)
    return float(upper - (type_weights @ regrets).min())


def value_bounds(regrets: Table) -> ValueBounds:
    """0 ≤ value ≤ both of these; (n_types, n_policies)."""
    table = weighted_table(regrets)
    has_own_policies = table.shape[0] == table.shape[1] and not table.diagonal().any()
    uniform = (1 - 1 / len(table)) * table.max().item() if has_own_policies else float("inf")
    return ValueBounds(table.max(0).values.min().clamp_min(0.0).item(), uniform)


def choose_within_budget(max_regrets: Vector, kl_to_reference: Vector, *, kl_budget: float) -> int:
    """The policy of the least worst regret among those that stay near the reference.

    A policy beyond the budget buys its low regret by drifting: every type's h grows along what all of them like.

    Args:
        max_regrets: (n_policies,).
        kl_to_reference: (n_policies,) nats.
        kl_budget: nats.

    Raises:
        ValueError: all are beyond the budget; the nearest is named.
    """
    regrets, kl = (torch.as_tensor(x, dtype=torch.float64) for x in (max_regrets, kl_to_reference))
    is_allowed = kl <= kl_budget
    if not is_allowed.any():
        raise ValueError(
            f"No policy is within the KL budget of {kl_budget:.3g} nats; the nearest, number {int(kl.argmin())}, is "
            f"at {kl.min().item():.3g}. Raise the budget or train longer with a larger beta."
        )
    return int(regrets.masked_fill(~is_allowed, float("inf")).argmin())


def _own_values(table: Tensor, own_values: Vector | None) -> Tensor:
    if own_values is not None:
        vector = torch.as_tensor(own_values, dtype=torch.float64)
        if vector.shape != table.shape[:-1]:
            raise ValueError(
                f"own_values have shape {tuple(vector.shape)}; values of {tuple(table.shape)} need one a type."
            )
        return vector
    is_square = table.shape[-1] == table.shape[-2]
    return table.diagonal(dim1=-2, dim2=-1) if is_square else table.max(-1).values


def _finite(table: Table, name: str) -> Tensor:
    table = torch.as_tensor(table, dtype=torch.float64).detach().cpu()
    if table.ndim < 2:
        raise ValueError(f"{name} have shape {tuple(table.shape)}; give one row per type and one column per policy.")
    wrong = (~torch.isfinite(table)).nonzero()
    if len(wrong):
        at = tuple(wrong[0].tolist())
        raise ValueError(
            f"{name} of type {at[-2]} under policy {at[-1]} is {table[at].item()}; every entry must be finite. "
            f"Look for empty completions or a policy whose training diverged."
        )
    return table
