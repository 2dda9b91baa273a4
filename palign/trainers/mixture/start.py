"""EM on frozen embeddings, before any adapter exists: how many types, who belongs to which, are there types at all.

Each type is a linear reward over principal components of the reference's hidden states, or of the tokens. That is
a poor reward and a good divider: which of two people's tastes is opposed shows in seconds, where the language model
would need hours.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from palign.data.preferences import Preferences
from palign.data.vote_counts import LEAST_FOR_AUTO
from palign.functional.evidence.components import evidence_of_rows, ties_as_pairs
from palign.functional.evidence.votes import Votes
from palign.functional.mixture import responsibilities
from palign.functional.mixture_checks import length_confounder, longer_wins_rate, permutation_test, restart_stability
from palign.functional.mixture_linear import LinearMixture, fit_linear_mixture, linear_log_likelihoods
from palign.functional.mixture_start import find_stages, spectral_start
from palign.functional.mixture_type_count import TypeChoice, choose_n_types, held_out_log_likelihood
from palign.models.completions import TokenizedItems
from palign.parallel.shared_work import computed_once
from palign.trainers.mixture.start_features import ItemFeatures, state_projection, token_projection
from palign.trainers.mixture_dpo_config import HeadFeatures, MixtureDPOConfig, TypesFrom

__all__ = ["LinearHead", "LinearStart", "LinearRewards", "linear_start", "given_start"]

logger = logging.getLogger(__name__)
FORMER = {"CheapStart": "LinearStart", "CheapHead": "LinearHead", "cheap_start": "linear_start"}
DEFAULT_RIDGE = 1.0  # where too few people could be held out to choose it


@dataclass(frozen=True, eq=False)
class LinearRewards:
    """The linear head's rewards, for items it was not fitted on, too.

    Attributes:
        theta: (n_types, dim) float64.
        features: of items.
    """

    theta: Tensor
    features: ItemFeatures

    def __call__(self, states: np.ndarray, items: TokenizedItems | None) -> Tensor:
        """(n_items, n_types) float64; arguments as `ItemFeatures` takes them."""
        return self.features(states, items) @ self.theta.T


@dataclass
class LinearStart:
    """Where the language model's EM begins.

    Attributes:
        responsibilities: (n_annotators, n_types) float64.
        log_likelihoods: (n_annotators, n_types) float64 nats under the linear head; None where there was no fit.
        choice: how K was chosen, a dict for each K; empty where it was given.
        held_out: the same table also where K was given: one type and K, judged on people held out; empty where too few
            could be.
        checks: what the linear head says of the types, as dicts with name, verdict, value and message.
        rewards: of any item to each type under the linear head; None where there was no fit.
    """

    responsibilities: Tensor
    log_likelihoods: Tensor | None = None
    choice: list[dict[str, float]] = field(default_factory=list)
    held_out: list[dict[str, float]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    rewards: LinearRewards | None = None

    @property
    def n_types(self) -> int:
        """K."""
        return self.responsibilities.shape[1]

    def check(self, n_annotators: int, n_types: int | None = None) -> None:
        """ValueError unless the responsibilities are (n_annotators, n_types) distributions over types."""
        gamma = self.responsibilities
        if gamma.ndim != 2 or len(gamma) != n_annotators:
            raise ValueError(
                f"responsibilities have shape {tuple(gamma.shape)}; ({n_annotators}, n_types) is needed, a row for "
                "each annotator in the order of train_dataset.annotators()."
            )
        is_finite = bool(torch.isfinite(gamma).all())
        if not is_finite or bool((gamma < 0).any()) or bool(((gamma.sum(1) - 1).abs() > 1e-6).any()):
            raise ValueError("responsibilities must be 0 or more and sum to 1 in every row.")
        if n_types is not None and gamma.shape[1] != n_types:
            raise ValueError(
                f"n_types is {n_types}, and the linear head gives {gamma.shape[1]}; set n_types to 'auto' or to that."
            )


# rows, states, annotator_index, n_annotators, args, items, all as `linear_start` has them
LinearHead = Callable[[Preferences, np.ndarray, Tensor, int, MixtureDPOConfig, TokenizedItems | None], LinearStart]


def given_start(responsibilities: Any, rows: Preferences, args: MixtureDPOConfig) -> LinearStart | None:
    """Responsibilities handed in by the user, checked; None where EM or clusters are to find them.

    Raises:
        ValueError: they are missing, not asked for, of another shape, or not a distribution over types.
    """
    if (responsibilities is not None) != (args.types_from == TypesFrom.GIVEN):
        raise ValueError(
            f"types_from is {args.types_from!r} and responsibilities are "
            f"{'missing' if responsibilities is None else 'given'}; types_from='given' needs them, and nothing else "
            "reads them."
        )
    if responsibilities is None:
        return None
    start = LinearStart(torch.as_tensor(responsibilities, dtype=torch.float64))
    start.check(len(rows.annotators()))
    return start


def linear_start(
    rows: Preferences,
    states: np.ndarray,
    annotator_index: Tensor,
    n_annotators: int,
    args: MixtureDPOConfig,
    items: TokenizedItems | None = None,
    *,
    head: LinearHead | None = None,
) -> LinearStart:
    """Fit the linear head; K is chosen where `args.n_types` is None. One process computes, all get the result.

    Args:
        rows: judgements of text.
        states: (n_items, hidden) pooled hidden states of every item under the reference.
        annotator_index: (rows,).
        items: token ids of `rows.items`; None reads the states alone.
        head: yours instead; it gets these same arguments.

    Raises:
        ValueError: what `head` gives is not (n_annotators, n_types) distributions over types.
    """
    if args.n_types == 1:
        return LinearStart(torch.ones(n_annotators, 1, dtype=torch.float64))
    start = computed_once(lambda: (head or _fitted)(rows, states, annotator_index, n_annotators, args, items))
    start.check(n_annotators, args.n_types)
    return start


def __getattr__(name: str) -> Any:
    if name in FORMER:
        now = FORMER[name]
        logger.warning("%s is a former name, taken for this version only; it now is %s.", name, now)
        return globals()[now]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _fitted(
    rows: Preferences,
    states: np.ndarray,
    annotator_index: Tensor,
    n_annotators: int,
    args: MixtureDPOConfig,
    items: TokenizedItems | None,
) -> LinearStart:
    votes = Votes(
        torch.from_numpy(rows.filled_item_indices),
        torch.from_numpy(rows.ranks.astype(np.int64)),
        annotator_index,
        n_annotators,
    )
    evidence = votes.evidence()
    parts = ties_as_pairs(rows.item_indices, rows.ranks)
    if parts is not None:
        numbers, items_of, ranks, base = parts
        people = annotator_index[torch.from_numpy(numbers)]
        evidence = torch.from_numpy(evidence_of_rows(items_of, ranks, people.numpy(), base))
        votes = Votes(torch.from_numpy(items_of), torch.from_numpy(ranks), people, n_annotators)
    options = {"ridge": args.head_ridge, "temper_start": args.temper_start, "seed": args.seed}
    with _stages(args, "features", "choice of K", "fit", "checks") as stage:
        return _fit_in_stages(rows, states, items, votes, evidence, args, options, stage)


@contextmanager
def _stages(args: MixtureDPOConfig, *names: str) -> Iterator[Callable[[], None]]:
    """A progress bar over the stages by name; call what it gives where one ends."""
    with tqdm(total=len(names), desc="linear start", disable=args.disable_tqdm) as bar:
        left = iter([*names[1:], ""])

        def end_stage() -> None:
            bar.set_postfix_str(next(left), refresh=False)
            bar.update()

        bar.set_postfix_str(names[0])
        yield end_stage


def _fit_in_stages(
    rows: Preferences,
    states: np.ndarray,
    items: TokenizedItems | None,
    votes: Votes,
    evidence: Tensor,
    args: MixtureDPOConfig,
    options: dict[str, Any],
    end_stage: Callable[[], None],
) -> LinearStart:
    item_features, features = _features(rows, states, items, votes, args, options)
    end_stage()
    choice = _choice(features, votes, args, options)
    end_stage()
    n_types = choice.n_types if args.n_types is None else args.n_types
    table = [] if choice is None else choice.table
    tables = {"choice": table if args.n_types is None else [], "held_out": table}
    if n_types == 1:
        return LinearStart(torch.ones(votes.n_annotators, 1, dtype=torch.float64), **tables)
    temperature = 1.0
    options |= {"ridge": args.head_ridge or DEFAULT_RIDGE}
    if choice is not None:
        options |= {"ridge": choice.ridge, "pooled_ridge": choice.pooled_ridge}
        temperature = choice.temperature_of(n_types)
    options |= {"row_weights": evidence}
    fit = fit_linear_mixture(features, votes, n_types, n_restarts=args.n_restarts, **options)
    fit = at_temperature(fit, temperature, features, votes, evidence)
    gamma = fit.responsibilities
    if args.types_from == TypesFrom.CLUSTER:
        # not fit.start, which is random where a random restart ended best
        clusters = spectral_start(features, find_stages(votes), n_types, seed=args.seed).argmax(1)
        gamma = torch.eye(n_types, dtype=torch.float64)[clusters]
    end_stage()
    checks = _checks(fit, features, votes, _lengths(rows, items), args, options)
    end_stage()
    rewards = LinearRewards(fit.theta, item_features)
    return LinearStart(gamma, fit.log_likelihoods, checks=checks, rewards=rewards, **tables)


def _choice(features: Tensor, votes: Votes, args: MixtureDPOConfig, options: dict[str, Any]) -> TypeChoice | None:
    """What people held out say: K where it is to be chosen, else how sure a given K may be beside one type; strengths
    of the shrinkage. None where too few people could be held out for a K that is given.
    """
    common = {"pooled_ridge": None} | options
    if args.n_types is None:
        choice = choose_n_types(features, votes, max_types=min(args.max_types, votes.n_annotators), **common)
        logger.info("n_types=%d was chosen by held-out likelihood.", choice.n_types)
        return choice
    try:
        return choose_n_types(features, votes, candidates=sorted({1, args.n_types}), n_folds=3, **common)
    except ValueError as error:  # K is the user's: it needs nobody held out
        logger.info("The linear start keeps temperature 1 and its default shrinkage: %s", error)
        return None


def at_temperature(
    fit: LinearMixture, temperature: float, features: Tensor, votes: Votes, row_weights: Tensor
) -> LinearMixture:
    """The mixture as sure of its scores as people held out proved it right to be."""
    theta = temperature * fit.theta
    likelihoods = linear_log_likelihoods(theta, features, votes, row_weights)
    gamma = responsibilities(likelihoods, fit.mixing_weights)
    return replace(fit, theta=theta, log_likelihoods=likelihoods, responsibilities=gamma)


def _features(
    rows: Preferences,
    states: np.ndarray,
    items: TokenizedItems | None,
    votes: Votes,
    args: MixtureDPOConfig,
    options: dict[str, Any],
) -> tuple[ItemFeatures, Tensor]:
    """What `args.head_features` names, and the features (n_items, dim) of the items; of 'auto' those under which
    people held out are most likely.
    """
    wanted = HeadFeatures(args.head_features) if items is not None else HeadFeatures.STATES
    readers: dict[str, ItemFeatures] = {}
    if wanted is not HeadFeatures.TOKENS:
        readers["states"] = ItemFeatures(states=state_projection(rows, states, args.head_dim))
    if wanted is not HeadFeatures.STATES:
        readers["tokens"] = ItemFeatures(tokens=token_projection(rows, items, args.head_dim))
    features = {name: reader(states, items) for name, reader in readers.items()}
    if len(readers) == 1:
        (name,) = readers
        return readers[name], features[name]
    readers["both"] = ItemFeatures(readers["states"].states, readers["tokens"].tokens)
    features["both"] = torch.cat([features["states"], features["tokens"]], 1)
    counts = torch.bincount(votes.annotator_index)
    n_eligible = int((counts >= 2).sum())
    k = min(3, args.max_types) if args.n_types is None else args.n_types
    n_fitted = int((counts > 0).sum()) - (n_eligible + 1) // 2  # while one half is held out
    if wanted is HeadFeatures.BOTH or n_eligible < LEAST_FOR_AUTO or k > n_fitted:
        return readers["both"], features["both"]
    options = options | {"n_folds": 2, "n_restarts": 2}
    try:
        judged = {name: held_out_log_likelihood(values, votes, k, **options) for name, values in features.items()}
    except ValueError as error:  # too few people whose items can be dealt into two parts
        logger.info("The linear head reads states and tokens, without a choice: %s", error)
        return readers["both"], features["both"]
    best = max(judged, key=judged.get)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in judged.items())
    logger.info("The linear head reads %s; nats a row of people held out: %s.", best, shown)
    return readers[best], features[best]


def _lengths(rows: Preferences, items: TokenizedItems | None) -> Tensor:
    """(n_items,) tokens of each completion; characters where there are no tokens."""
    if items is None:
        return torch.tensor([len(str(completion)) for _, completion in rows.items])
    return torch.from_numpy(items.lengths - items.prompt_lengths)


def _checks(
    fit: LinearMixture,
    features: Tensor,
    votes: Votes,
    lengths: Tensor,
    args: MixtureDPOConfig,
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    """Do other starts find the same people, do shuffled names find types too, does length alone explain them?"""
    pooled = linear_log_likelihoods(fit.pooled_theta[None], features, votes, options["row_weights"]).sum()
    checks = [restart_stability(fit.restart_types, fit.restart_objectives - pooled)]
    if args.n_permutations:
        n_types = fit.responsibilities.shape[1]
        checks.append(permutation_test(features, votes, n_types, n_permutations=args.n_permutations, **options))
    longer = longer_wins_rate(
        lengths[votes.item_indices].double(), votes.ranks, votes.annotator_index, votes.n_annotators
    )
    checks.append(length_confounder(fit.responsibilities, longer))
    for check in checks:
        if check.verdict != "ok":
            logger.warning("%s: %s", check.name, check.message)
    return [asdict(check) for check in checks]
