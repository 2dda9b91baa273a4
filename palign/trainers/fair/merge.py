"""A weighted sum of the types' adapters, as one adapter: the routes `merge` and `soup`, which guarantee nothing."""

from typing import TYPE_CHECKING, Any

from palign.models.single_adapter import merge_adapters
from palign.trainers.fair_policy_config import Route

if TYPE_CHECKING:
    from palign.trainers.fair.builder import RouteBuilder

__all__ = ["merge", "soup"]


def merge(builder: "RouteBuilder") -> dict[str, Any]:
    """Σ_k w_k ΔW_k with the game's weights; nothing is trained."""
    return _sum(builder, Route.MERGE, builder.weights.tolist())


def soup(builder: "RouteBuilder") -> dict[str, Any]:
    """Σ_k ΔW_k / K: rewarded soup with equal weights (Ramé et al. 2023); nothing is trained."""
    n_types = builder.mixture.n_types
    return _sum(builder, Route.SOUP, [1 / n_types] * n_types)


def _sum(builder: "RouteBuilder", name: str, weights: list[float]) -> dict[str, Any]:
    merge_adapters(builder.model, name, builder.mixture.policies.names, weights, merge_type=builder.args.merge_type)
    return {"merge_type": builder.args.merge_type}
