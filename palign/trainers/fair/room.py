"""Whether tastes leave room for one policy that serves all types, or none: a share of the game's value.

Relative regret is 0 where a policy serves a type as its own does and 1 where it serves it as the reference does. One
less the largest over types is what a policy gives the type it gives least, of what that type could have. Where tastes
are opposed, no single policy gives much, and drawing a type's policy for each request (a lottery) is about as good;
where they leave room, one policy gives most of it, and more than any lottery does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from palign.functional.regret import Table, relative_regret_matrix, solve_minmax_regret
from palign.models.files.game_keys import PolicyRow, RoomRecord
from palign.trainers.fair.measure import Candidate

__all__ = ["Looks", "Room", "room_of", "room_record"]

MUCH, LITTLE = 0.5, 0.25  # shares


class Looks(StrEnum):
    """What the tastes of some data look like."""

    SHARED = "shared"  # one policy gives every type at least half, and more than a lottery does
    OPPOSED = "opposed"  # no single policy gives every type as much as a quarter
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Room:
    """How much one policy can give all.

    Attributes:
        policy: number of the single policy that gives most.
        single: what it gives the type that it gives least, 0 (the reference) to 1 (a policy of its own).
        lottery: what the best lottery over the types' policies gives likewise; 0 if none beats the reference.
        looks: one of `Looks`.
    """

    policy: int
    single: float
    lottery: float
    looks: Looks


def room_of(relative: Table, relative_of_types: Table) -> Room | None:
    """What the best of some single policies gives every type, beside the best lottery over the types' policies.

    It is a bound from below: a policy that nobody built may give more.

    Args:
        relative: (n_types, n_policies) relative regret of each single policy, the reference among them.
        relative_of_types: (n_types, n_types) likewise, of the types' policies.

    Returns:
        None where a number is not finite: a type gains nothing by its own policy, and there is nothing to share.
    """
    singles, types = (torch.as_tensor(table, dtype=torch.float64) for table in (relative, relative_of_types))
    if not (torch.isfinite(singles).all() and torch.isfinite(types).all()):
        return None
    worst: Tensor = singles.max(0).values
    single = 1 - float(worst.min())
    lottery = max(0.0, 1 - solve_minmax_regret(types).value)
    looks = Looks.UNCLEAR
    if single >= MUCH and single > lottery:
        looks = Looks.SHARED
    elif single < LITTLE:
        looks = Looks.OPPOSED
    return Room(int(worst.argmin()), single, lottery, looks)


def room_record(
    candidates: Sequence[Candidate], own_values: Tensor, rows: Sequence[PolicyRow], types: Sequence[str]
) -> RoomRecord | None:
    """`room_of` the single policies that were measured and are within the KL budget.

    Args:
        candidates: with 'reference' among them.
        own_values: (n_prompts, n_types) nats, of each type under its own policy.
        rows: of the candidates, in their order.
        types: names of the types' policies.
    """
    names = [candidate.name for candidate in candidates]
    values = torch.stack([candidate.values.mean(0) for candidate in candidates], -1)
    reference = values[:, names.index("reference")]
    relative = relative_regret_matrix(values, reference, own_values=own_values.mean(0))
    kept = [j for j, row in enumerate(rows) if row["weights"] is None and row["is_within_budget"]]
    room = room_of(relative[:, kept], relative[:, [names.index(name) for name in types]])
    if room is None:
        return None
    return {
        "policy": names[kept[room.policy]], "single": room.single, "lottery": room.lottery, "looks": str(room.looks),
    }  # fmt: skip
