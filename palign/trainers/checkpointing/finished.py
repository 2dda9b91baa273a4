"""Baselines of a recipe that are done: a run that goes on reads what they scored instead of training them again."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from palign.data.preferences import Preferences
from palign.reading import reading
from palign.writing import whole_file

__all__ = ["keep_finished", "options_key", "read_finished"]

FILE = "finished.npz"


def options_key(options: Any, *rows: Preferences) -> str:
    """Of everything a baseline's scores depend on, 64 hex digits: options (what JSON can say) and rows."""
    content = [[r.prompts, r.items, r.item_indices.tolist(), r.ranks.tolist(), list(r.annotator_ids)] for r in rows]
    return hashlib.sha256(json.dumps([options, content], default=_plain, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def keep_finished(folder: str | Path, key: str, scores: np.ndarray, seconds: float) -> None:
    """Write the scores of a baseline (rows, max_items) and the seconds its training took."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with whole_file(Path(folder) / FILE) as beside, open(beside, "wb") as file:
        np.savez(file, key=np.array(key), scores=scores, seconds=np.array(seconds))


def read_finished(folder: str | Path, key: str) -> tuple[np.ndarray, float] | None:
    """Scores and seconds, or None where the baseline is not done or was made of other options or rows."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    with reading(path, "What a finished baseline scored"), np.load(path, allow_pickle=False) as held:
        return (held["scores"], float(held["seconds"])) if str(held["key"]) == key else None
