"""Which judgements a model was trained on: hashes beside it, so that nobody reports on them by mistake.

A hash is of who judged what: annotator, prompt and the set of completions. Which one won, and the order in which they
stand, do not enter, so a judgement turned around is known as well. Where rows name vectors, the numbers of the vectors
are hashed: another numbering of the same items is not known. Images are known by the names of their files. Hashes hold
no id and no text; whoever has the rows can make them again and compare.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from palign.contents import entering
from palign.data.preferences import Preferences
from palign.writing import whole_file, write_whole

__all__ = ["HELD_OUT", "TRAINED_ROWS", "hash_judgements", "read_trained_rows", "save_trained_rows", "write_held_out"]

TRAINED_ROWS, HELD_OUT = "trained_rows.safetensors", "held_out.jsonl"
TENSOR = "hashes"


def hash_judgements(prefs: Preferences) -> np.ndarray:
    """(n_rows,) uint64, a hash of who judged what; the same in every process and on every machine."""
    if len(prefs) == 0:
        return np.zeros(0, dtype=np.uint64)
    people, person = np.unique(prefs.annotator_ids.astype(str), return_inverse=True)
    who = _hashes(people.tolist())[person]
    if prefs.is_text:
        prompts = np.append(_hashes(prefs.prompts), np.uint64(0))[prefs.prompt_indices]  # −1 is none: the last
        texts, number = _distinct([completion for _, completion in prefs.items])
        items = _hashes(texts)[number]
    else:
        prompts = _mixed(prefs.prompt_indices.astype(np.int64).view(np.uint64))
        if prefs.item_names is not None:
            items = _hashes(prefs.item_names)
        else:
            items = _mixed(np.arange(int(prefs.item_indices.max()) + 1, dtype=np.uint64) + np.uint64(1))
    with np.errstate(over="ignore"):
        each = np.where(prefs.item_indices >= 0, _mixed(items)[prefs.item_indices], np.uint64(0))
        return _mixed(who * np.uint64(3) + _mixed(prompts) * np.uint64(5) + each.sum(1, dtype=np.uint64))


def save_trained_rows(
    folder: str | Path, rows: Preferences, *, dealt: Preferences | None = None, held_out: Preferences | None = None
) -> None:
    """Write the hashes into the folder of a saved model.

    Args:
        rows: what the model was trained on.
        dealt: where these and `held_out` were dealt from one set, all of it: judgements of which a part was trained
            on, or that lie across, count as trained on unless they are held out.
    """
    from safetensors.numpy import save

    hashes = hash_judgements(rows)
    if dealt is not None:
        others = hash_judgements(dealt)
        kept = np.zeros(0, dtype=np.uint64) if held_out is None else hash_judgements(held_out)
        hashes = np.concatenate([hashes, others[~np.isin(others, kept)]])
    with entering(folder, TRAINED_ROWS), whole_file(Path(folder) / TRAINED_ROWS) as beside:
        beside.write_bytes(save({TENSOR: np.unique(hashes).view(np.int64)}))


def write_held_out(folder: str | Path, rows: Preferences) -> None:
    """held_out.jsonl: rows that nothing in the folder was trained on, in palign's form."""
    lines = (json.dumps(row, ensure_ascii=False, default=_plain) + "\n" for row in rows.to_rows())
    write_whole(Path(folder) / HELD_OUT, "".join(lines))


def _plain(value: object) -> object:
    """What JSON does not know: numbers of numpy as numbers, all else (dates) as text."""
    return value.item() if isinstance(value, np.generic) else str(value)


def read_trained_rows(folder: str | Path) -> np.ndarray | None:
    """The hashes (n,) uint64 beside a model; None where it keeps none, or is no folder here.

    Raises:
        ValueError: the file is not what `save_trained_rows` wrote.
    """
    path = Path(folder) / TRAINED_ROWS
    if not path.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        hashes = load(path.read_bytes())[TENSOR]
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(
            f"{path} is not a list of hashes of training rows ({type(error).__name__}). Save the model again, or take "
            "the file away; then nobody can know which rows it was trained on."
        ) from error
    if hashes.ndim != 1 or hashes.dtype != np.int64:
        raise ValueError(f"{path} holds {hashes.dtype} of shape {hashes.shape}; hashes are (n,) int64. Save again.")
    return hashes.view(np.uint64)


def _distinct(texts: list[object]) -> tuple[list[object], np.ndarray]:
    keys: dict[str, int] = {}
    distinct_texts, numbers = [], np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        number = keys.setdefault(_canonical(text), len(keys))
        if number == len(distinct_texts):
            distinct_texts.append(text)
        numbers[i] = number
    return distinct_texts, numbers


def _canonical(text: object) -> str:
    return json.dumps(text, sort_keys=True, ensure_ascii=False)


def _hashes(values: Iterable[object]) -> np.ndarray:
    parts = (_canonical(value).encode("utf-8", "surrogatepass") for value in values)
    return np.frombuffer(b"".join(hashlib.blake2b(p, digest_size=8).digest() for p in parts), dtype="<u8")


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread uint64 (splitmix64's finaliser, Steele, Lea and Flood 2014), so that sums of hashes seldom meet."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
