"""Several models on the same rows, on one process or several → the tables, types and figures of one report."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from accelerate import PartialState
from accelerate.utils import gather_object

from palign.data.guards.finding import completion_texts
from palign.data.preferences import Preferences
from palign.evaluation.judging.kinds import ModelSource
from palign.evaluation.judging.scores import ModelScores, score_source, types_of
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.report_keys import LikesRecord
from palign.evaluation.pages.type_likes import type_likes
from palign.evaluation.scoring import score_table
from palign.parallel.sharded import divides_from_loading
from palign.parallel.shared_work import ending_together

__all__ = ["Evaluation", "evaluate_models", "group_names", "shard"]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_models` gives: a score table over all models, and what the figures need."""

    table: pd.DataFrame
    figures: FigureData


def evaluate_models(
    sources: Sequence[ModelSource],
    rows: Preferences,
    *,
    vectors: np.ndarray | None = None,
    types_from: ModelSource | None = None,
    batch_size: int = 32,
    dtype: str = "auto",
    max_length: int | None = 1024,
) -> Evaluation | None:
    """Score every model on all rows; called by every process, each of which scores its share.

    Where models are divided among the processes (ZeRO-3, FSDP2) all score all rows, and share the passes.

    Where the rows have no column `type`, everybody's type is that of the first model that has several.

    Args:
        types_from: a model to take types from in place of those that are judged.

    Returns:
        The evaluation on the main process, None on the others.

    Raises:
        ValueError: a score is not finite (the model, its row and item are named).
    """
    state = PartialState()
    is_divided = divides_from_loading()
    numbers = np.arange(len(rows)) if is_divided else shard(rows, state.process_index, state.num_processes)
    options = {"vectors": vectors, "batch_size": batch_size, "device": state.device, "dtype": dtype}
    shard_rows = rows.select(numbers)
    type_source: ModelScores | None = None
    scores: dict[str, np.ndarray] = {}
    for source in sources:
        with nullcontext() if is_divided else ending_together():  # in parts, all meet the same fault
            model_scores = score_source(source, shard_rows, max_length=max_length, **options)
        if type_source is None and len(model_scores.type_names or ()) > 1:  # one type for all says nothing
            type_source = model_scores
        own = model_scores.scores
        scores[source.name] = own if is_divided else _gathered(numbers, own, len(rows))
    if types_from is not None:
        type_source = types_of(types_from)
    if not state.is_main_process:
        return None
    types = None if type_source is None or "type" in rows.columns else _dominant(type_source)
    figures = _figures(type_source)
    if state.num_processes == 1 and types_from is None and type_source is not None:
        figures = replace(figures, likes=_likes(type_source, rows))
    return Evaluation(_table(scores, rows, types), figures)


def shard(rows: Preferences, rank: int, n_ranks: int) -> np.ndarray:
    """Numbers of the rows of one process; rows that share texts are kept together."""
    order = np.argsort(rows.item_indices[:, 0], kind="stable")
    return np.sort(np.array_split(order, n_ranks)[rank])


def _gathered(numbers: np.ndarray, scores: np.ndarray, n_rows: int) -> np.ndarray:
    """(n_rows, max_items) from every process's rows; each row exactly once."""
    parts = gather_object([(numbers, scores)])
    whole = np.full((n_rows, scores.shape[1]), np.nan)
    times = np.zeros(n_rows, dtype=int)
    for places, values in parts:
        whole[places] = values
        times[places] += 1
    if (times != 1).any():
        raise RuntimeError(f"{int((times != 1).sum())} of {n_rows} rows were not scored exactly once; report this.")
    return whole


def _table(scores: Mapping[str, np.ndarray], rows: Preferences, types: Mapping[str, object] | None) -> pd.DataFrame:
    tables = []
    for name, values in scores.items():
        try:
            tables.append(score_table(values, rows, model=name, types=types))
        except ValueError as error:
            raise ValueError(f"model {name!r}: {error}") from error
    return pd.concat(tables, ignore_index=True)


def _dominant(type_source: ModelScores) -> dict[str, str]:
    """Everybody's largest weight, as a discovered type."""
    return {
        person: type_source.type_names[int(np.argmax(weights))] for person, weights in type_source.type_weights.items()
    }


def _likes(type_source: ModelScores, rows: Preferences) -> list[LikesRecord]:
    """What each type likes of what was judged; nothing where the model gives no rewards by type."""
    if type_source.type_scores is None:
        return []
    texts, row, place = completion_texts(rows)
    return type_likes(type_source.type_names, texts, type_source.type_scores[row, place], row)


def _figures(type_source: ModelScores | None) -> FigureData:
    if type_source is None:
        return FigureData()
    return FigureData(type_weights=type_source.type_weights, type_names=type_source.type_names)


def group_names(asked: Sequence[str]) -> list[tuple[str, ...]]:
    """`country`, `country*age` → their column names, in the order given.

    Raises:
        ValueError: an empty name, or one twice in an intersection.
    """
    groupings = []
    for text in asked:
        names = tuple(part.strip() for part in text.split("*"))
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(f"--group_columns has {text!r}; give columns, or intersections such as country*age.")
        if names not in groupings:
            groupings.append(names)
    return groupings
