"""A mixture on disk: adapters by type, mixture.json, responsibilities.parquet, a model card."""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate import PartialState

from palign.contents import reading_whole
from palign.data.annotators import AnnotatorIndex
from palign.models.files.adapter_files import base_of, portable_base
from palign.models.files.base_files import plain_state
from palign.models.files.card import MIXTURE, base_note, named, render, shown, table
from palign.parallel.sharded import is_sharded
from palign.reading import number_in, read_json, read_table, require_files
from palign.writing import whole_file, whole_files, write_whole

__all__ = ["BASE", "MixtureRecord", "load_mixture", "mixture_card", "named_base", "packed_prompts", "save_mixture"]

RECORD_FILE, PEOPLE, CARD, BASE = "mixture.json", "responsibilities.parquet", "README.md", "base_model"
FORMAT = 1
ROUNDING = 1e-4  # a sum of shares may be off by; earlier versions saved float32
KNOWN = ("format", "n_types", "mixing_weights", "beta", "max_length", "base_model", "rounds")


@dataclass
class MixtureRecord:
    """All of a mixture but the adapters.

    Attributes:
        annotators: who was trained on.
        responsibilities: (n_annotators, n_types) float64.
        n_rows: (n_annotators,) rows of each.
        mixing_weights: (n_types,) float64.
        beta: DPO's.
        max_length: tokens that were read of prompt and completion.
        base_model: name or folder of the model below the adapters; None is the folder `base_model` beside them.
        history: a dict for each EM round.
        details: whatever else explains the run: seeds, configuration, choice of K, checks.
    """

    annotators: AnnotatorIndex
    responsibilities: np.ndarray
    n_rows: np.ndarray
    mixing_weights: np.ndarray
    beta: float
    max_length: int
    base_model: str | None
    history: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def n_types(self) -> int:
        """K."""
        return len(self.mixing_weights)

    @property
    def plain_prompts(self) -> bool:
        """Whether plain rows are read bare, or as turns (`palign.data.turns`); bare where no file says so."""
        return bool(self.details.get("plain_prompts", True))

    def was_trained_on(self, prompts: Sequence[Any]) -> np.ndarray | None:
        """(n_prompts,) bool, by the hashes that `packed_prompts` made; None where the mixture keeps no hashes."""
        packed = self.details.get("trained_prompts")
        if packed is None:
            return None
        return np.isin(_hashes(prompts), np.frombuffer(base64.b64decode(packed), dtype="<u8"))


def packed_prompts(prompts: Sequence[Any], used: np.ndarray) -> str:
    """Hashes of those prompts, texts or messages, whose positions are `used` (n,), 8 bytes each, as one text:
    `trained_prompts` of mixture.json.
    """
    hashes = np.unique(_hashes(prompts[i] for i in np.unique(used)))
    return base64.b64encode(hashes.tobytes()).decode("ascii")


def _hashes(prompts: Iterable[Any]) -> np.ndarray:
    texts = (json.dumps(prompt, sort_keys=True).encode() for prompt in prompts)
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts), dtype="<u8")


def save_mixture(record: MixtureRecord, folder: str | Path, *, lies_at: str | Path | None = None) -> None:
    """Write all but the adapters; each file is complete or as it was before.

    `lies_at`: where the folder will be moved to; the way to the base is seen from there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    gamma = record.responsibilities
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(gamma > 0, gamma * np.log(gamma), 0.0).sum(1)
    table = {"annotator_id": record.annotators.ids, "n_rows": record.n_rows, "entropy": entropy}
    table |= {"type": gamma.argmax(1)} | {f"type_{k}": gamma[:, k] for k in range(record.n_types)}
    with whole_file(folder / PEOPLE) as partial_file:
        pd.DataFrame(table).to_parquet(partial_file, index=False)
    base = portable_base(record.base_model, lies_at or folder)
    entries = {
        "format": FORMAT,
        "n_types": record.n_types,
        "mixing_weights": record.mixing_weights.tolist(),
        "beta": record.beta,
        "max_length": record.max_length,
        "base_model": None if base == f"./{BASE}" else base,
        "rounds": record.history,
        **record.details,
    }
    write_whole(folder / RECORD_FILE, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / CARD, mixture_card(record))


def load_mixture(folder: str | Path) -> MixtureRecord:
    """Read what `save_mixture` wrote.

    Raises:
        ValueError: a file is missing, of another format, or the two disagree.
    """
    folder = Path(folder).expanduser()
    advice = (
        "Give a folder that MixtureDPOTrainer or recipes/em_dpo.py wrote; one that was interrupted as it wrote goes "
        "on from, and can be read at, its last complete checkpoint-N."
    )
    require_files(folder, (RECORD_FILE, PEOPLE), "is not a mixture", advice)
    with reading_whole(folder):
        return _read(folder)


def _read(folder: Path) -> MixtureRecord:
    path, table_path = folder / RECORD_FILE, folder / PEOPLE
    entries = read_json(path, dict, allows_nan=True)
    if entries.get("format") != FORMAT:
        raise ValueError(f"{path} has format {entries.get('format')!r}; this version reads {FORMAT}.")
    lacking = [name for name in KNOWN if name not in entries]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}. Give a whole copy of the folder.")
    n_types = number_in(entries, "n_types", path, least=1, most=10_000, whole=True)
    number_in(entries, "beta", path, least=np.finfo(np.float64).tiny)
    number_in(entries, "max_length", path, least=1, whole=True)
    base, rounds = entries["base_model"], entries["rounds"]
    if not (base is None or (isinstance(base, str) and base)) or not isinstance(rounds, list):
        raise ValueError(f"{path}: base_model must be a text or null, and rounds a list. Give a whole copy of it.")
    weights = _shares(entries["mixing_weights"], (n_types,), f"{path}: the mixing weights of {n_types} types")
    table = read_table(table_path)
    names = [f"type_{k}" for k in range(n_types)]
    lacking = [name for name in ("annotator_id", "n_rows", *names) if name not in table]
    if lacking or f"type_{n_types}" in table:
        fault = f"lacks {', '.join(lacking)}" if lacking else f"has a column type_{n_types}"
        raise ValueError(f"{table_path} {fault}; {RECORD_FILE} speaks of {n_types} types.")
    gamma = _shares(table[names], (len(table), n_types), f"{table_path}: responsibilities")
    counts = table["n_rows"].to_numpy()
    if counts.dtype.kind not in "iu" or (len(counts) and counts.min() < 0):
        raise ValueError(f"{table_path}: n_rows must be whole numbers from 0 on. Give a whole copy of the folder.")
    details = {name: value for name, value in entries.items() if name not in KNOWN}
    _check_details(details, path)
    return MixtureRecord(
        AnnotatorIndex(table["annotator_id"]), gamma, counts, weights, entries["beta"], entries["max_length"],
        base_of(base, folder), rounds, details,
    )  # fmt: skip


def _check_details(details: dict[str, Any], path: Path) -> None:
    """ValueError where what is read of them later is of another kind."""
    packed, checks = details.get("trained_prompts"), details.get("checks", [])
    try:
        is_packed = packed is None or len(base64.b64decode(packed, validate=True)) % 8 == 0
    except (TypeError, ValueError):
        is_packed = False
    wrong = [] if is_packed else ["trained_prompts"]
    if not isinstance(details.get("plain_prompts", True), bool):
        wrong.append("plain_prompts")
    if not isinstance(checks, list) or any(not {"name", "verdict", "message"} <= set(check) for check in checks):
        wrong.append("checks")
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)} cannot be what was saved. Give a whole copy of the folder.")


def _shares(values: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Numbers on the simplex, float64; ValueError where they are none."""
    try:
        shares = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        shares = np.empty(0)
    fault = None
    if shares.shape != shape:
        fault = f"have the shape {shares.shape}, and {shape} is needed"
    elif not np.isfinite(shares).all() or (shares < 0).any():
        fault = "must be finite and 0 or more"
    elif shares.size and np.abs(shares.sum(-1) - 1).max() > ROUNDING:
        fault = f"sum to {shares.sum(-1).flat[np.abs(shares.sum(-1) - 1).argmax()]:.6g} somewhere, and must sum to 1"
    if fault is not None:
        raise ValueError(f"{what} {fault}. Give a whole copy of the folder, or save it again.")
    return shares


def named_base(model: Any, tokenizer: Any, output_dir: Path) -> str | None:
    """The base's name or folder; one made in the process is saved beside the adapters, and None stands for it.

    All processes of a divided base call it.
    """
    base_folder = output_dir / BASE
    is_ours = bool(model.name_or_path) and Path(model.name_or_path) == base_folder
    if not model.name_or_path or (is_ours and not (base_folder / "config.json").is_file()):  # or taken away since
        state = plain_state(model) if is_sharded(model) else None  # by all
        if PartialState().is_main_process:
            with whole_files(base_folder, last="config.json") as partial_folder:
                model.save_pretrained(partial_folder, state_dict=state or plain_state(model))
                tokenizer.save_pretrained(partial_folder)
        model.name_or_path = str(base_folder)
    return None if Path(model.name_or_path) == base_folder else model.name_or_path


def mixture_card(record: MixtureRecord) -> str:
    """The README.md of a mixture, for people."""
    gamma, weights = record.responsibilities, record.mixing_weights
    sizes = np.bincount(gamma.argmax(1), minlength=record.n_types)
    check_records = record.details.get("checks", [])
    checks = "\n".join(
        f"- {shown(c['name'])}: **{shown(c['verdict'])}**. {shown(c['message'])}" for c in check_records
    )
    return render(
        MIXTURE,
        base=named(record.base_model) if record.base_model else f"the folder `{BASE}`",
        base_note=base_note(record.base_model),
        n_types=record.n_types,
        n_annotators=len(gamma),
        n_rows=int(record.n_rows.sum()),
        types=table((f"`type_{k}`", f"{weights[k]:.1%}", sizes[k]) for k in range(record.n_types)),
        sure=float((gamma.max(1) > 0.9).mean()) if len(gamma) else 0.0,
        checks=f"\n## Checks\n\n{checks}\n" if checks else "",
    )
