"""The table of the game under judges that are not the players, and where they disagree with the types.

Every judge gives a value of each policy to each type, in a unit of its own; a regret is the value of the type's own
policy less that of the policy. `types` judge by β h, `pal` by the rewards of a PAL model's prototypes, `votes` by the
share of wins of held-out votes (`vote_judge`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from palign.functional.regret import importance_of, solve_minmax_regret
from palign.functional.regret_estimates import bootstrap_means, max_interval
from palign.models.files.game_keys import JudgeRecord, PolicyRow
from palign.trainers.fair.measure import Candidate, Kind, ends_of
from palign.trainers.fair.vote_judge import LEAST_PEOPLE, LEAST_TEXTS, VoteShares

__all__ = ["by_answers", "by_votes", "judge_notes"]

UNITS = {"types": "reward (β · nats)", "pal": "reward of the PAL model", "votes": "share of wins"}


def by_answers(
    judge: str, values: Mapping[str, Tensor], candidates: Sequence[Candidate], rows: Sequence[PolicyRow],
    types: Sequence[str], *, importance: Sequence[float] | None, n_draws: int, seed: int,
) -> JudgeRecord:  # fmt: skip
    """Of values of the answers, (n_prompts, n_types) by policy; mixtures are weighted means of the types'."""
    of_types = torch.stack([values[name] for name in types], -1)
    per_prompt = [values[c.name] if c.weights is None else of_types @ c.weights for c in candidates]
    stacked = torch.stack(per_prompt, -1)
    draws = bootstrap_means(stacked, n_draws=n_draws, seed=seed)
    return _record(judge, stacked.mean(0), draws, candidates, rows, types, importance)


def by_votes(
    shares: Mapping[str, VoteShares], candidates: Sequence[Candidate], rows: Sequence[PolicyRow],
    types: Sequence[str], *, importance: Sequence[float] | None,
) -> JudgeRecord | None:  # fmt: skip
    """Of shares of wins by policy; None where a type has no voter."""
    each = [shares[c.name] for c in candidates]
    if min(each[0].n_people) == 0:
        return None
    values, draws = (torch.from_numpy(np.stack([getattr(s, name) for s in each], -1)) for name in ("shares", "draws"))
    record = _record("votes", values, draws, candidates, rows, types, importance)
    record |= {
        "n_people": each[0].n_people.tolist(),
        "n_texts": {c.name: s.n_texts.tolist() for c, s in zip(candidates, each, strict=True)},
    }
    routes = [s for c, s, row in zip(candidates, each, rows, strict=True)
              if c.kind == Kind.ROUTE and row["is_within_budget"]]  # fmt: skip
    is_enough = min(each[0].n_people) >= LEAST_PEOPLE and all(min(s.n_texts) >= LEAST_TEXTS for s in routes)
    return {**record, "is_enough": bool(is_enough and routes)}


def _record(
    judge: str, values: Tensor, draws: Tensor, candidates: Sequence[Candidate], rows: Sequence[PolicyRow],
    types: Sequence[str], importance: Sequence[float] | None,
) -> JudgeRecord:  # fmt: skip
    """Regrets of (n_types, n_policies) values, and of draws of them, (n_draws, n_types, n_policies)."""
    names = [c.name for c in candidates]
    places = [names.index(name) for name in types]
    counts = importance_of(importance, len(types))[:, None]
    regrets, drawn = ((x[..., places].diagonal(dim1=-2, dim2=-1)[..., None] - x) * counts for x in (values, draws))
    worst = max_interval(regrets, drawn)
    ends = {name: ends_of(worst, j) for j, name in enumerate(names)}
    routes = [row["name"] for row in rows if row["kind"] == Kind.ROUTE and row["is_within_budget"]]
    return {
        "judge": judge, "unit": UNITS[judge], "values": dict(zip(names, values.T.tolist(), strict=True)),
        "max_regret": ends, "worst_type": dict(zip(names, regrets.argmax(0).tolist(), strict=True)),
        "policy_weights": solve_minmax_regret(regrets[:, places]).policy_weights.tolist(),
        "best_route": min(routes, key=lambda name: ends[name]["value"]) if routes else None,
    }  # fmt: skip


def judge_notes(judges: Mapping[str, JudgeRecord], chosen: str | None, chosen_by: str) -> list[str]:
    """Where judges disagree on the best route, and whether votes were enough to choose by."""
    notes = []
    if len(judges) > 1 and chosen is not None:
        best = {name: record["best_route"] for name, record in judges.items()}
        routes = ", ".join(
            f"by {name} {route} ({record['max_regret'][route]['value']:.3f} {record['unit']})"
            for (name, record), route in zip(judges.items(), best.values(), strict=True)
            if route is not None
        )
        agree = "Judges agree on" if len(set(best.values())) == 1 else "Judges disagree on"
        notes.append(f"{agree} the route of the least worst regret: {routes}. {chosen} was chosen by {chosen_by}.")
    votes = judges.get("votes")
    if votes is not None and not votes["is_enough"]:
        people = min(votes["n_people"])
        texts = min(min(n) for name, n in votes["n_texts"].items())
        notes.append(
            f"Too few held-out votes to choose a route by: {people} people of the type with fewest, and {texts:.0f} "
            f"texts that decide for the policy and type with fewest; {LEAST_PEOPLE} people of every type and "
            f"{LEAST_TEXTS} texts for every route within the KL budget are needed. Types chose."
        )
    return notes
