"""The routes by name: each is a function of a `RouteBuilder`, as a user's is, and stands in one file."""

from collections.abc import Callable, Mapping
from typing import Any

from palign.trainers.fair.distill import distill
from palign.trainers.fair.dro import POOLED, dro, pooled
from palign.trainers.fair.merge import merge, soup
from palign.trainers.fair.regress import regress
from palign.trainers.fair.rl import maxmin, rl
from palign.trainers.fair_policy_config import Route

__all__ = ["ROUTES", "RouteFunction"]

# of a builder: puts an adapter of its name on `builder.model` and returns what is to be recorded
RouteFunction = Callable[[Any], Mapping[str, Any]]
ROUTES: dict[str, RouteFunction] = {
    Route.DISTILL: distill,
    Route.REGRESS: regress,
    Route.DRO: dro,
    Route.RL: rl,
    Route.MAXMIN: maxmin,
    Route.MERGE: merge,
    Route.SOUP: soup,
    POOLED: pooled,
}
