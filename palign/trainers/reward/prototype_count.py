"""How many prototypes? As many as strangers need: K is chosen on annotators who were not trained on.

Parts of the annotators are held out in turn and the head is fitted on the others. Each person held out is placed by
one part of their answers and judged by the log-likelihood of the other part, row by row; the two parts share no item
(`palign.functional.evidence.parts`), for who said a > b and c > d has nearly said a > d. The smallest K within one
standard error of the best is taken, K = 1 within 1.28 (one gain in ten is larger by chance, and the best of several is
compared); the error is that of the paired differences between people (Breiman et al. 1984, one-SE rule). It does not
hold the luck of a fit: a gain below three per cent (five, to leave K = 1) does not count either for heads trained by
gradient steps, three per mille for linear heads, whose fits are convex given the people.

Heads are over-confident by different amounts, so each K is first given the temperature that suits it best: K is
chosen by what it knows, not by how loudly it says it. The temperature goes into the model.

A K that is clearly less accurate than K = 1 on the same rows gives way to K = 1.

The same people tell three things more: which kind of head serves where items recur in many people's rows (a network,
or directions fitted by EM; see `palign.trainers.reward.linear_fit`), whether few rows want more steps, and whether a
person's own deviation from their mixture pays, and how strongly it is to be shrunk
(`palign.functional.people_deviations`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from palign.functional.mixture_type_count import levels_off, one_standard_error
from palign.models.pal_config import PALConfig
from palign.models.row_tensors import RowTensors
from palign.trainers.reward.head_fit import HeadFitOptions
from palign.trainers.reward.linear_fit import RECURS, LinearFitOptions
from palign.trainers.reward.trial import (
    HELD_OUT,
    LEAST_TO_CALIBRATE,
    LINEAR_WORTH,
    MIN_HELD_OUT,
    HeldOutTrial,
    Personal,
    eligible_people,
)  # fmt: skip

__all__ = ["PrototypeChoice", "calibrate_head", "choose_n_prototypes", "require_people"]

CANDIDATES = (1, 2, 3, 4, 5, 6, 8)
WORTH = 0.03  # of the log-likelihood: what another prototype must bring
DIFFER = 0.05  # the same for leaving K = 1: that people differ at all is the larger claim


@dataclass(frozen=True)
class PrototypeChoice:
    """What people held out chose.

    Attributes:
        n_prototypes: K.
        table: a dict for each K with n_prototypes, log_likelihood (nats an answer), standard_error of its difference
            to the best, gain and gain_error (nats an answer over K = 1, and its standard error), accuracy (of
            held-out answers) and temperature.
        variant: of the head.
        variants: log_likelihood of each kind of head at K = 1, where more than one was tried.
        linear: how a linear head is to be fitted.
        min_steps: optimizer steps that a network is to be given.
        temperature, pooled_temperature: of the head with K prototypes, and with one.
        personal: a person's own part, or None where it does not pay.
        n_people: annotators who were judged.
        n_people_by_item: of them, those whose rows hang together, so that their items were dealt, not their rows.
    """

    n_prototypes: int
    table: list[dict[str, float]]
    variant: str = "fixed"
    variants: dict[str, float] | None = None
    linear: LinearFitOptions = LinearFitOptions()
    min_steps: int = 0
    temperature: float = 1.0
    pooled_temperature: float = 1.0
    personal: Personal | None = None
    n_people: int = 0
    n_people_by_item: int = 0


def choose_n_prototypes(
    data: RowTensors,
    config: PALConfig,
    options: HeadFitOptions,
    *,
    candidates: Sequence[int] = CANDIDATES,
    variants: Sequence[str] | None = None,
    recurs: int = RECURS,
    personal: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> PrototypeChoice:
    """Choose K for rows whose annotators are all known (`data.annotator_index` ≥ 0).

    Args:
        variants: kinds of heads to choose from first, at K = 1; that of `config` if None. Linear heads are tried
            where items recur only.
        recurs: people who met the median item, from which on items recur.
        personal: whether a person's own part is tried, too.

    Raises:
        ValueError: fewer than 16 annotators with two answers or more, too few to hold any out.
    """
    require_people(data.annotator_index.numpy(), (data.ranks >= 0).sum(1).numpy())
    trial = HeldOutTrial(data, config, options, seed)
    allowed = trial.allowed(candidates)
    compared = [k for k in allowed if k <= 2] or allowed[:1]
    variant, seen, linear = trial.choose_variant(variants or (config.variant,), compared, recurs)
    people = trial.people_of(variant)
    table, judged = [], []
    for k in tqdm(allowed, desc="choosing K", disable=not show_progress):
        judged.append(trial.judge(variant, k, linear))
        table.append({"n_prototypes": k, "temperature": judged[-1].temperature})
        if variant == "linear" and levels_off(
            [part.log_likelihood[people] for part in judged], trial.n_judged[people]
        ):
            break
    n_answers = trial.n_judged[people]
    pairs = [torch.stack([part.log_likelihood[people], part.right[people], n_answers], 1) for part in judged]
    worth = (LINEAR_WORTH, LINEAR_WORTH) if variant == "linear" else (DIFFER, WORTH)
    choice = _one_standard_error(table, pairs, worth)
    temperatures = {row["n_prototypes"]: row["temperature"] for row in table}
    return replace(
        choice, variant=variant, variants=seen, linear=linear, temperature=temperatures[choice.n_prototypes],
        pooled_temperature=temperatures.get(1, 1.0), n_people=len(people), n_people_by_item=trial.n_people_by_item,
        personal=trial.choose_personal(variant, choice.n_prototypes, linear) if personal else None,
    )  # fmt: skip


def calibrate_head(
    data: RowTensors,
    config: PALConfig,
    options: HeadFitOptions,
    n_prototypes: int,
    *,
    variants: Sequence[str] | None = None,
    recurs: int = RECURS,
    min_steps: int = 0,
    personal: bool = True,
    seed: int = 0,
) -> PrototypeChoice:
    """The same where K is given: kind of head, steps, temperatures and a person's own part, on one part of the people
    held out once. Where too few people could be held out, everything is left as it is.

    Args:
        min_steps: optimizer steps of a network to try where fewer are planned.
    """
    if len(eligible_people(data.annotator_index.numpy(), (data.ranks >= 0).sum(1).numpy())) < LEAST_TO_CALIBRATE:
        variant = next(iter(variants or (config.variant,)))
        return PrototypeChoice(n_prototypes, [], variant=variant)
    trial = HeldOutTrial(data, config, options, seed, n_folds=1)
    compared = trial.allowed([n_prototypes])
    variant, seen, linear = trial.choose_variant(variants or (config.variant,), compared or [1], recurs)
    if not compared:
        return PrototypeChoice(n_prototypes, [], variant=variant, variants=seen, linear=linear)
    steps = 0 if variant == "linear" else trial.choose_steps(variant, n_prototypes, min_steps)
    table, people = [], trial.people_of(variant)
    n_answers = trial.n_judged[people]
    pairs = []
    for k in sorted({1, n_prototypes}):
        judged = trial.judge(variant, k, linear)
        table.append({"n_prototypes": k, "temperature": judged.temperature})
        pairs.append(torch.stack([judged.log_likelihood[people], judged.right[people], n_answers], 1))
    choice = _one_standard_error(table, pairs, (0.0, 0.0))
    return replace(
        choice, n_prototypes=n_prototypes, variant=variant, variants=seen, linear=linear, min_steps=steps,
        temperature=table[-1]["temperature"], pooled_temperature=table[0]["temperature"], n_people=len(people),
        n_people_by_item=trial.n_people_by_item,
        personal=trial.choose_personal(variant, n_prototypes, linear) if personal else None,
    )  # fmt: skip


def require_people(annotator_index: np.ndarray, n_items: np.ndarray | None = None) -> np.ndarray:
    """Those who can be held out: annotators with two answers or more, or one that can be cut in two.

    Args:
        annotator_index: (n_rows,) whose row each is.
        n_items: (n_rows,) items of each row; two if None.

    Raises:
        ValueError: fewer than 16 of them.
    """
    eligible, needed = eligible_people(annotator_index, n_items), int(MIN_HELD_OUT / HELD_OUT)
    if len(eligible) < needed:
        raise ValueError(
            f"n_prototypes is 'auto', which needs {needed} annotators with two answers or more, and there are "
            f"{len(eligible)}: K is chosen on a quarter of them who are held out, at least {MIN_HELD_OUT}. Give a "
            "number, as --n_prototypes 2."
        )
    return eligible


def _one_standard_error(
    table: list[dict[str, float]], per_person: list[Tensor], worth: tuple[float, float] = (DIFFER, WORTH)
) -> PrototypeChoice:
    """The rule, from (n_people, 3) sums of nats, of right answers and numbers of answers for each K.

    `worth`: shares of the log-likelihood that leaving K = 1, and any other K, must bring.
    """
    judged, right = ([part[:, column] for part in per_person] for column in (0, 1))
    return PrototypeChoice(one_standard_error(table, "n_prototypes", judged, right, per_person[0][:, 2], worth), table)
