"""One protocol for every policy: regret on fresh prompts, KL to the reference, held-out votes; and the choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from palign.functional.regret import choose_within_budget, importance_of, regret_matrix, relative_regret_matrix
from palign.functional.regret_estimates import Interval, bootstrap_means, bootstrap_policies, interval
from palign.models.files.game_keys import Ends, PolicyRow, VotesRecord
from palign.models.policy_draws import PolicyDraws

__all__ = [
    "SLACK", "Candidate", "Kind", "ends_of", "measure_candidates", "mixed_candidate", "single_candidate",
    "vote_outcomes",
]  # fmt: skip

SLACK = 1.25  # a single policy may go this much further from the reference than the ensemble


class Kind:
    """What a policy of the table is."""

    ROUTE, TYPE, BASELINE, MIXTURE = "route", "type", "baseline", "mixture"


@dataclass(eq=False)
class Candidate:
    """A policy as it is measured.

    Attributes:
        name: in the table.
        kind: one of `Kind`; only routes are chosen from.
        values: (n_prompts, n_types) `E h_i`, nats.
        kl: (n_prompts,) nats.
        weights: (n_types,) how often each type's adapter answers, of a mixture; None for one policy.
    """

    name: str
    kind: str
    values: Tensor
    kl: Tensor
    weights: Tensor | None = None


def single_candidate(name: str, kind: str, draws: PolicyDraws) -> Candidate:
    """One policy that speaks by itself."""
    return Candidate(name, kind, torch.from_numpy(draws.values), torch.from_numpy(draws.kl))


def mixed_candidate(name: str, type_draws: Sequence[PolicyDraws], weights: Tensor) -> Candidate:
    """One type is drawn for each request and answers it: values are exactly the weighted values of the types.

    Its KL is that of Σ_k w_k π_k, by the types' samples: E log Σ_k w_k π_k(y) − log π_ref(y).
    """
    values = torch.stack([torch.from_numpy(draws.values) for draws in type_draws], -1) @ weights
    kl = torch.zeros(len(values), dtype=torch.float64)
    for weight, draws in zip(weights.tolist(), type_draws, strict=True):
        if weight > 0:
            log_mixture = (torch.from_numpy(draws.type_logps) + weights.log()).logsumexp(-1)
            kl += weight * (log_mixture - torch.from_numpy(draws.reference_logps)).mean(1)
    return Candidate(name, Kind.MIXTURE, values, kl, weights)


def measure_candidates(
    candidates: Sequence[Candidate],
    own_values: Tensor,
    *,
    beta: float,
    n_bootstrap: int,
    seed: int,
    max_kl: float | None,
    type_importance: Sequence[float] | None,
    votes: Mapping[str, VotesRecord],
) -> tuple[list[PolicyRow], str | None, float]:
    """The table, the chosen route (None where no route was built) and the KL budget.

    Args:
        candidates: with 'reference' and 'ensemble' among them; all answered the same fresh prompts.
        own_values: (n_prompts, n_types) E h_i under type i's policy.
        max_kl: the budget; None is 1.25 times the ensemble's KL, or its interval's end.
        type_importance: multiplies a type's regret where the worst type is sought.
        votes: held-out votes by name, see `vote_outcomes`.

    Returns:
        rows of plain numbers: regrets by type, their maximum and mean with intervals over prompts, relative regret,
        the type that loses most, KL, votes; and the paired difference of maximal regret to pooled DPO.
    """
    names = [c.name for c in candidates]
    importance = importance_of(type_importance, own_values.shape[1])
    per_prompt = torch.stack([c.values for c in candidates], -1)
    scaled = {"own_values": own_values * importance, "beta": beta, "n_draws": n_bootstrap, "seed": seed}
    worst = bootstrap_policies(per_prompt * importance[:, None], **scaled).max_regret
    plain = bootstrap_policies(per_prompt, **(scaled | {"own_values": own_values}))
    mean, own_means = per_prompt.mean(0), own_values.mean(0)
    regrets = regret_matrix(mean, own_values=own_means, beta=beta)
    relative = relative_regret_matrix(mean, mean[:, names.index("reference")], own_values=own_means)
    kl = torch.stack([c.kl for c in candidates], -1)
    kl_interval = interval(kl.mean(0), bootstrap_means(kl, n_draws=n_bootstrap, seed=seed))
    of_ensemble = ends_of(kl_interval, names.index("ensemble"))  # sampled: near 0 it may even be negative
    budget = max_kl if max_kl is not None else max(SLACK * of_ensemble["value"], of_ensemble["high"], 0.0)
    rows = []
    for j, candidate in enumerate(candidates):
        rows.append(
            {"name": candidate.name, "kind": candidate.kind}
            | {"max_regret": ends_of(worst, j), "mean_regret": ends_of(plain.mean_regret, j)}
            | {"max_relative_regret": _number(relative[:, j].max()), "regrets": regrets[:, j].tolist()}
            | {"worst_type": int((regrets[:, j] * importance).argmax()), "kl": ends_of(kl_interval, j)}
            | {"is_within_budget": bool(kl_interval.estimate[j] <= budget)}
            | {"weights": None if candidate.weights is None else candidate.weights.tolist()}
            | {"votes": votes.get(candidate.name), "less_than_pooled": None}
        )
        if "pooled" in names:
            p = names.index("pooled")
            gap = worst.estimate[p] - worst.estimate[j], worst.draws[:, p] - worst.draws[:, j]
            rows[-1]["less_than_pooled"] = ends_of(interval(*gap))
    return rows, _chosen(candidates, worst.estimate, kl_interval.estimate, budget), budget


def _chosen(candidates: Sequence[Candidate], worst: Tensor, kl: Tensor, budget: float) -> str | None:
    """The route of the least worst regret within the budget; the nearest to the reference where none is within it."""
    routes = [j for j, c in enumerate(candidates) if c.kind == Kind.ROUTE]
    if not routes:
        return None
    try:
        best = choose_within_budget(worst[routes], kl[routes], kl_budget=budget)
    except ValueError:
        best = int(kl[routes].argmin())
    return candidates[routes[best]].name


def ends_of(interval: Interval, j: int | None = None) -> Ends:
    """A number with its interval as a record; of a vector of numbers, that at place j."""
    at = (lambda tensor: float(tensor)) if j is None else (lambda tensor: float(tensor[j]))
    return {"value": at(interval.estimate), "low": at(interval.low), "high": at(interval.high)}


def _number(value: Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None


def vote_outcomes(
    right: Tensor, n_pairs: Tensor, log_likelihoods: Tensor, types: np.ndarray, n_types: int
) -> VotesRecord:
    """What held-out votes say of one policy's implicit reward β·h, by the type of the voter.

    Args:
        right, n_pairs: (rows,) strictly ordered pairs, those ordered as the person did.
        log_likelihoods: (rows,) nats.
        types: (rows,) the voter's type, −1 where it is not sure.

    Returns:
        `accuracy` and `log_likelihood` (nats a row) by type, None where nobody of it voted; `worst_accuracy`.
    """
    accuracy: list[float | None] = []
    likelihood: list[float | None] = []
    for k in range(n_types):
        voters = torch.from_numpy(types == k)
        has_rows = bool(voters.any()) and bool(n_pairs[voters].sum() > 0)
        accuracy.append(float(right[voters].sum() / n_pairs[voters].sum()) if has_rows else None)
        likelihood.append(float(log_likelihoods[voters].mean()) if has_rows else None)
    known = [value for value in accuracy if value is not None]
    worst = {"worst_accuracy": min(known) if known else None}
    return {"accuracy": accuracy, "log_likelihood": likelihood, **worst}
