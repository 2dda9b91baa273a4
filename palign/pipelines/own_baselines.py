"""Baselines that start from what a person chose before: a regression of their own, a policy that is shown it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from accelerate import PartialState

from palign.data.arguments import DataArguments
from palign.data.preferences import Preferences
from palign.evaluation.judging.in_context import IN_CONTEXT, in_context_scores
from palign.evaluation.judging.kinds import ModelKind, ModelSource
from palign.evaluation.judging.own_logistic import own_logistic_scores
from palign.evaluation.scoring import score_table
from palign.pipelines.arguments.evaluation import EvaluationArguments

__all__ = ["OwnBaseline", "own_baselines", "with_baselines", "without_judged"]

OWN_LOGISTIC = "own logistic"


@dataclass(frozen=True)
class OwnBaseline:
    """Scores (n_rows, max_items) of a baseline, and what is to be known of it."""

    name: str
    scores: np.ndarray
    notes: list[str]


def own_baselines(
    script: EvaluationArguments,
    data_args: DataArguments,
    rows: Preferences,
    judged: Sequence[ModelSource],
    vectors: np.ndarray | None,
) -> list[OwnBaseline]:
    """The baselines that are asked for, on the main process alone; on all where models are divided among them.

    Raises:
        ValueError: a regression without a PAL reward model, whose vectors it reads; or no earlier row is left.
    """
    if script.earlier_dataset_name is None:
        return []
    n_vectors = None if vectors is None else len(vectors)
    earlier, n_judged = without_judged(data_args.load(script.earlier_dataset_name, None, n_vectors), rows)
    if not len(earlier):
        raise ValueError(f"All rows of --earlier_dataset_name {script.earlier_dataset_name} are judged here, too.")
    left_out = f" {n_judged} earlier rows are judged here, too, and are left out of what is shown." if n_judged else ""
    found = []
    if script.own_logistic:
        found.append(_own_logistic(script, earlier, rows, judged, vectors, left_out))
    if script.in_context_model:
        scores, n_cut = in_context_scores(
            script.in_context_model, earlier, rows.with_own_items(), n_shown=script.n_shown, beta=script.beta or 0.1,
            plain_prompts=script.plain_prompts, batch_size=script.batch_size, max_length=script.max_length,
            device=PartialState().device, dtype=script.dtype,
        )  # fmt: skip
        cut = f" {n_cut} of {len(rows)} rows had room for fewer." if n_cut else ""
        shown = f"up to {script.n_shown} earlier choices of the person in its prompt"
        note = f"{IN_CONTEXT} is {script.in_context_model} with {shown}, trained on nobody's.{cut}{left_out}"
        found.append(OwnBaseline(IN_CONTEXT, scores, [note]))
    return found


def _own_logistic(
    script: EvaluationArguments,
    earlier: Preferences,
    rows: Preferences,
    judged: Sequence[ModelSource],
    vectors: np.ndarray | None,
    left_out: str,
) -> OwnBaseline:
    from palign.models.pal import PALRewardModel

    source = next((source for source in judged if source.kind is ModelKind.PAL), None)
    if source is None:
        raise ValueError("--own_logistic reads the vectors of a PAL reward model, and --model_path names none.")
    model = PALRewardModel.from_pretrained(source.path, divided=True).to(PartialState().device)
    scores, variance, n_without = own_logistic_scores(
        model, earlier, rows.with_own_items(), vectors=vectors, batch_size=script.batch_size
    )
    without = f" {n_without} people gave none, and have the score 0 everywhere." if n_without else ""
    note = (
        f"{OWN_LOGISTIC} is a regression of each person's own, of {len(earlier)} earlier rows on the vectors that "
        f"{source.name} reads (prior variance {variance:g}, one for all).{without}{left_out}"
    )
    return OwnBaseline(OWN_LOGISTIC, scores, [note])


def with_baselines(table: pd.DataFrame, baselines: Sequence[OwnBaseline], rows: Preferences) -> pd.DataFrame:
    """A score table with the rows of baselines behind the others; types of people are those of the table."""
    types = None
    if "type" in table and "type" not in rows.columns:
        types = dict(zip(table["annotator_id"], table["type"], strict=True))
    parts = [score_table(b.scores, rows, model=b.name, types=types) for b in baselines]
    return pd.concat([table, *parts], ignore_index=True) if parts else table


def without_judged(earlier: Preferences, judged: Preferences) -> tuple[Preferences, int]:
    """Earlier rows but those that are judged: the same person on the same items; and how many these were."""
    seen = set(_keys(judged))
    kept = np.array([key not in seen for key in _keys(earlier)], dtype=bool)
    return earlier.select(np.flatnonzero(kept)), int((~kept).sum())


def _keys(rows: Preferences) -> list[tuple[str, tuple[str, ...]]]:
    """(person, their items in a fixed order) of each row."""
    if rows.is_text:
        texts = [json.dumps([rows.prompts[number], text], sort_keys=True) for number, text in rows.items]
    keys = []
    for person, items in zip(rows.annotator_ids, rows.item_indices, strict=True):
        real = items[items >= 0]
        keys.append((person, tuple(sorted(texts[i] if rows.is_text else str(i) for i in real))))
    return keys
