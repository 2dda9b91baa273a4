"""Scores and ranks → the tidy table that every report starts from: one row per judgement and model.

Nothing here knows a model class: scores are plain arrays, and :func:`score_preferences` asks no more of a model than a
``score(prompts, completions, annotator_ids)``.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from palign.data.rendering import render_completion, render_prompt

if TYPE_CHECKING:
    from palign.data.preferences import Preferences

__all__ = ["pair_outcomes", "score_preferences", "score_table", "scores_csv"]

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes a cell for, by its first character
ROWS_AT_ONCE = 65_536
RESERVED = ("model", "annotator_id", "row", "type", "accuracy", "log_likelihood", "reward", "gold")


def pair_outcomes(scores: np.ndarray, ranks: np.ndarray) -> dict[str, np.ndarray]:
    """What a model's scores say about each row's ranking.

    Args:
        scores: (n_rows, max_items) reward of each item; padding may hold anything.
        ranks: (n_rows, max_items) integers, 0 best, equal is a tie, -1 is padding.

    Returns:
        Each (n_rows,): ``accuracy``, the share of strictly ordered pairs that the scores order the same way, a tie of
        scores counting one half; ``log_likelihood``, nats, Plackett–Luce by stages (each item is the winner over the
        strictly lower ones; so a pair is Bradley–Terry); ``reward``, the mean score of the items ranked best;
        ``n_pairs``, the number of strictly ordered pairs.

    Raises:
        ValueError: shapes differ, a score of a real item is not finite, or a row orders nothing.
    """
    scores, ranks = np.asarray(scores, dtype=float), np.asarray(ranks)
    if scores.shape != ranks.shape or scores.ndim != 2:
        raise ValueError(
            f"scores have shape {scores.shape} and ranks {ranks.shape}; both must be (n_rows, max_items), an item's "
            "score in the place of its rank."
        )
    real = ranks >= 0
    bad = np.argwhere(real & ~np.isfinite(scores))
    if len(bad):
        row, item = bad[0]
        raise ValueError(
            f"the score of item {item} in row {row:,} is {scores[row, item]}, and {len(bad):,} scores in all are not "
            "finite. Look at that row's text and at the model's weights; a model in float16 may have overflowed."
        )
    parts = [
        _outcomes(scores[i : i + ROWS_AT_ONCE], ranks[i : i + ROWS_AT_ONCE])
        for i in range(0, len(scores), ROWS_AT_ONCE)
    ]
    if not parts:
        return {name: np.empty(0) for name in ("accuracy", "log_likelihood", "reward", "n_pairs")}
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    empty = np.flatnonzero(joined["n_pairs"] == 0)
    if len(empty):
        raise ValueError(f"row {empty[0]:,} ranks no item above another, and so do {len(empty):,} rows; drop them.")
    return joined


def _outcomes(scores: np.ndarray, ranks: np.ndarray) -> dict[str, np.ndarray]:
    real = ranks >= 0
    scores = np.where(real, scores, 0.0)
    beats = (ranks[:, :, None] < ranks[:, None, :]) & real[:, :, None] & real[:, None, :]
    n_pairs = beats.sum((1, 2))
    right = (scores[:, :, None] > scores[:, None, :]) + 0.5 * (scores[:, :, None] == scores[:, None, :])
    accuracy = (right * beats).sum((1, 2)) / np.maximum(n_pairs, 1)
    contest = beats | np.eye(ranks.shape[1], dtype=bool)  # an item against those strictly below it, and itself
    others = np.where(contest, scores[:, None, :], -np.inf)
    peak = others.max(-1, keepdims=True)
    log_total = np.log(np.exp(others - peak).sum(-1)) + peak[..., 0]
    best = ranks == 0
    reward = np.where(best, scores, 0.0).sum(1) / np.maximum(best.sum(1), 1)
    return {"accuracy": accuracy, "log_likelihood": (scores - log_total).sum(1), "reward": reward, "n_pairs": n_pairs}


def score_table(
    scores: np.ndarray,
    prefs: "Preferences",
    *,
    model: str,
    types: Mapping[str, object] | None = None,
    gold: np.ndarray | None = None,
) -> pd.DataFrame:
    """Tidy table of one model on one set of preferences.

    Args:
        scores: (n_rows, max_items), as ``prefs.ranks``.
        prefs: the judgements; every further column of theirs becomes a column of the table.
        model: its name in the table.
        types: annotator id to discovered type, the column ``type``; who is not in it is missing there.
        gold: (n_rows,) utility of an independent judge.

    Returns:
        Columns ``model, annotator_id, row, type?, accuracy, log_likelihood, reward, gold?`` and the further columns;
        one of these with a reserved name (``type`` if types are given, ``reward``, …) comes as ``declared_<name>``.
    """
    outcomes = pair_outcomes(scores, prefs.ranks)
    table = {"model": model, "annotator_id": prefs.annotator_ids, "row": np.arange(len(prefs))}
    if types is not None:
        table["type"] = [types.get(name) for name in prefs.annotator_ids]
    table |= {name: outcomes[name] for name in ("accuracy", "log_likelihood", "reward")}
    if gold is not None:
        table["gold"] = np.asarray(gold, dtype=float)
    for name, values in prefs.columns.items():
        table[f"declared_{name}" if name in table else name] = values
    return pd.DataFrame(table)


def score_preferences(
    score: Callable[..., object],
    prefs: "Preferences",
    *,
    tokenizer: object = None,
    vectors: np.ndarray | None = None,
    prompt_vectors: np.ndarray | None = None,
    batch_size: int = 256,
    by_person: bool = True,
) -> np.ndarray:
    """Scores of every item of every row, (n_rows, max_items), padding 0.

    Args:
        score: ``score(prompts, completions, annotator_ids)`` → (batch,), such as ``PALRewardModel.score``; lists of
            strings, or arrays (batch, hidden) where ``vectors`` are given.
        vectors: (n_vectors, hidden), for rows that name vectors; ``prompt_vectors`` likewise (default: the same file).
        by_person: False scores an item without naming who asks.

    Items are scored in batches over all rows, so one batch mixes people.
    """
    rows, places = np.nonzero(prefs.ranks >= 0)
    items, prompts = prefs.item_indices[rows, places], prefs.prompt_indices[rows]
    if prefs.is_text:
        prompt_texts = [render_prompt(prompt, tokenizer) for prompt in prefs.prompts]
        texts = [render_completion(prefs.prompts[index], text, tokenizer) for index, text in prefs.items]
    elif vectors is None:
        raise ValueError("these preferences name rows of an embedding file; give that file's array as vectors.")
    scores = np.zeros(prefs.ranks.shape)
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        ids = prefs.annotator_ids[rows[part]].tolist() if by_person else None
        if prefs.is_text:
            batch = [prompt_texts[prefs.items[i][0]] for i in items[part]], [texts[i] for i in items[part]]
        else:
            source = vectors if prompt_vectors is None else prompt_vectors
            batch = (source[prompts[part]] if (prompts[part] >= 0).all() else None), vectors[items[part]]
        values = score(*batch, ids) if by_person else score(*batch)
        scores[rows[part], places[part]] = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    return scores


def scores_csv(table: pd.DataFrame, *, safe: bool = False) -> str:
    """A score table as CSV.

    Args:
        safe: put a ' before texts that a spreadsheet would compute; else it is said where there are any.
    """
    text_columns = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    formulas = {name: table[name].map(_is_formula).astype(bool) for name in text_columns}
    found = [name for name, is_formula in formulas.items() if is_formula.any()]
    if found and safe:
        table = table.copy()
        for name in found:
            table[name] = table[name].astype(str).where(~formulas[name], "'" + table[name].astype(str))
    elif found:
        example = table[found[0]].astype(str)[formulas[found[0]]].iloc[0]
        print(
            f"note: scores.csv has texts that a spreadsheet would compute ({found[0]} {example[:40]!r}); --safe_csv "
            "true puts a ' before them."
        )
    return table.to_csv(index=False)


def _is_formula(value: object) -> bool:
    """Whether a spreadsheet would compute the cell; a number that stands among texts is one."""
    return isinstance(value, str) and value.startswith(FORMULA)
