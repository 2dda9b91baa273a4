"""The weighted sum of the types' adapters, as one adapter: the route `merge`, a baseline with no guarantee."""

from typing import TYPE_CHECKING, Any

from palign.models.single_adapter import merge_adapters
from palign.trainers.fair_policy_config import Route

if TYPE_CHECKING:
    from palign.trainers.fair.builder import RouteBuilder

__all__ = ["merge"]


def merge(builder: "RouteBuilder") -> dict[str, Any]:
    """Σ_k w_k ΔW_k with the game's weights; nothing is trained."""
    names, weights = builder.mixture.policies.names, builder.weights.tolist()
    merge_adapters(builder.model, Route.MERGE, names, weights, merge_type=builder.args.merge_type)
    return {"merge_type": builder.args.merge_type}
