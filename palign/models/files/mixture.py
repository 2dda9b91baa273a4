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

from palign.data.annotators import AnnotatorIndex
from palign.models.files.card import MIXTURE, named, render, shown, table
from palign.writing import whole_file, whole_files, write_whole

__all__ = ["BASE", "MixtureRecord", "load_mixture", "mixture_card", "named_base", "packed_prompts", "save_mixture"]

RECORD_FILE, PEOPLE, CARD, BASE = "mixture.json", "responsibilities.parquet", "README.md", "base_model"
FORMAT = 1
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


def save_mixture(record: MixtureRecord, folder: str | Path) -> None:
    """Write all but the adapters; each file is complete or as it was before."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    gamma = record.responsibilities
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(gamma > 0, gamma * np.log(gamma), 0.0).sum(1)
    table = {"annotator_id": record.annotators.ids, "n_rows": record.n_rows, "entropy": entropy}
    table |= {"type": gamma.argmax(1)} | {f"type_{k}": gamma[:, k] for k in range(record.n_types)}
    with whole_file(folder / PEOPLE) as partial_file:
        pd.DataFrame(table).to_parquet(partial_file, index=False)
    entries = {
        "format": FORMAT,
        "n_types": record.n_types,
        "mixing_weights": record.mixing_weights.tolist(),
        "beta": record.beta,
        "max_length": record.max_length,
        "base_model": record.base_model,
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
    missing = [name for name in (RECORD_FILE, PEOPLE) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{str(folder)!r} is not a mixture: it lacks {', '.join(missing)}. Give a folder that MixtureDPOTrainer "
            "or recipes/em_dpo.py wrote; one that was interrupted as it wrote goes on from, and can be read at, its "
            "last complete checkpoint-N."
        )
    try:
        entries = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / RECORD_FILE} is not JSON ({error}).") from error
    file_format = entries.get("format") if isinstance(entries, dict) else None
    if file_format != FORMAT:
        raise ValueError(f"{folder / RECORD_FILE} has format {file_format!r}; this version reads {FORMAT}.")
    lacking = [name for name in KNOWN if name not in entries]
    if lacking:
        raise ValueError(f"{folder / RECORD_FILE} lacks {', '.join(lacking)}. Give a whole copy of the folder.")
    if len(entries["mixing_weights"]) != entries["n_types"]:
        raise ValueError(
            f"{folder / RECORD_FILE} has {len(entries['mixing_weights'])} mixing weights for {entries['n_types']} "
            "types."
        )
    table = pd.read_parquet(folder / PEOPLE)
    names = [f"type_{k}" for k in range(entries["n_types"])]
    lacking = [name for name in ("annotator_id", "n_rows", *names) if name not in table]
    if lacking:
        raise ValueError(f"{folder / PEOPLE} lacks {', '.join(lacking)}; mixture.json speaks of {len(names)} types.")
    return MixtureRecord(
        AnnotatorIndex(table["annotator_id"]),
        table[names].to_numpy(np.float64),
        table["n_rows"].to_numpy(),
        np.asarray(entries["mixing_weights"], dtype=np.float64),
        entries["beta"],
        entries["max_length"],
        entries["base_model"],
        entries["rounds"],
        {name: value for name, value in entries.items() if name not in KNOWN},
    )


def named_base(model: Any, tokenizer: Any, output_dir: Path) -> str | None:
    """The base's name or folder; one made in the process is saved beside the adapters, and None stands for it."""
    base_folder = output_dir / BASE
    if not model.name_or_path:
        if PartialState().is_main_process:
            with whole_files(base_folder, last="config.json") as partial_folder:
                model.save_pretrained(partial_folder)
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
        n_types=record.n_types,
        n_annotators=len(gamma),
        n_rows=int(record.n_rows.sum()),
        types=table((f"`type_{k}`", f"{weights[k]:.1%}", sizes[k]) for k in range(record.n_types)),
        sure=float((gamma.max(1) > 0.9).mean()) if len(gamma) else 0.0,
        checks=f"\n## Checks\n\n{checks}\n" if checks else "",
    )
