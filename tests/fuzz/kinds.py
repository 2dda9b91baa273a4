"""What is altered, and how each is read: saved models by kind, rows by format, command lines."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from palign.contents import CONTENTS, write_contents
from palign.data.loading import load_preferences
from palign.data.preferences import Preferences
from palign.evaluation.judging.kinds import recognise
from palign.evaluation.judging.scores import score_source
from palign.models.files.game import load_game
from palign.models.mixture_policy import MixturePolicy
from palign.models.pal import PALRewardModel

SAVED = Path(__file__).parents[1] / "saved"
EXPECTED = json.loads((SAVED / "expected.json").read_text(encoding="utf-8"))
ROWS = Preferences.from_rows(EXPECTED["rows"][:3])
VECTORS, PEOPLE = np.array(EXPECTED["vectors"], dtype=np.float32), EXPECTED["people"]
N_ROWS = 12


@dataclass(frozen=True)
class Kind:
    """Something that can be read.

    Attributes:
        make: writes it into an empty folder.
        read: what reading gives, numbers that are equal where nothing has changed.
        is_model: whether `contents.json` belongs to it.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], np.ndarray]
    is_model: bool = True


def _saved(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        shutil.copytree(SAVED / name, folder, dirs_exist_ok=True)
        write_contents(folder)

    return make


def _read_vectors(folder: Path) -> np.ndarray:
    model = PALRewardModel.from_pretrained(folder)
    return np.stack([model.score(None, VECTORS, person).numpy() for person in PEOPLE[:2]])


def _read_pal(folder: Path) -> np.ndarray:
    return score_source(recognise(str(folder)), ROWS).scores


def _read_mixture(folder: Path) -> np.ndarray:
    policy = MixturePolicy.from_pretrained(folder)
    return np.concatenate([policy.type_rewards(ROWS).numpy().ravel(), policy.record.responsibilities.ravel()])


def _read_fair(folder: Path) -> np.ndarray:
    load_game(folder)
    return _read_adapter(folder)


def _read_adapter(folder: Path) -> np.ndarray:
    return score_source(recognise(str(folder), base=str(SAVED / "mixture" / "base_model")), ROWS).scores


def _make_policy(folder: Path) -> None:
    shutil.copytree(SAVED / "fair", folder, dirs_exist_ok=True)
    (folder / "game.json").unlink()
    record = json.loads((SAVED / "policy" / "conditioning.json").read_text(encoding="utf-8"))
    record["types"] |= {person: 0 for person in ROWS.annotators().ids}
    (folder / "conditioning.json").write_text(json.dumps(record), encoding="utf-8")
    write_contents(folder)


def _rows(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        rows = [
            {"annotator_id": f"p{i % 3}", "prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"}
            for i in range(N_ROWS)
        ]
        path, lines = folder / name, "".join(json.dumps(row) + "\n" for row in rows)
        if name.startswith("rows.jsonl"):
            import gzip

            path.write_bytes(gzip.compress(lines.encode(), mtime=0) if name.endswith(".gz") else lines.encode())
        elif name.endswith(".json"):
            path.write_text(json.dumps(rows), encoding="utf-8")
        elif name.endswith(".parquet"):
            pd.DataFrame(rows).to_parquet(path)
        else:
            pd.DataFrame(rows).to_csv(path, index=False)

    return make


def _read_rows(name: str) -> Callable[[Path], np.ndarray]:
    """The number of rows: texts may be altered to other texts, and no reader can know."""
    return lambda folder: np.array([len(load_preferences(folder / name))], dtype=float)


MODELS = [
    Kind("pal_vectors", _saved("pal_vectors"), _read_vectors),
    Kind("pal_linear", _saved("pal_linear"), _read_vectors),
    Kind("pal_text", _saved("pal_text"), _read_pal),
    Kind("pal_prompt_lora", _saved("pal_prompt_lora"), _read_pal),
    Kind("mixture", _saved("mixture"), _read_mixture),
    Kind("fair", _saved("fair"), _read_fair),
    Kind("policy", _make_policy, _read_adapter),
]
FILES = [
    Kind(name, _rows(name), _read_rows(name), is_model=False)
    for name in ("rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.jsonl.gz")
]
# how often each is drawn: those that are read in milliseconds more often
SHARES = {
    "pal_vectors": 22,
    "pal_linear": 10,
    "pal_text": 6,
    "pal_prompt_lora": 6,
    "mixture": 8,
    "fair": 8,
    "policy": 8,
}
SHARES |= {kind.name: 4 for kind in FILES}


def without_contents(folder: Path) -> None:
    """As an earlier version saved it: no hashes."""
    (folder / CONTENTS).unlink(missing_ok=True)


def odd_line(rng: np.random.Generator, folder: Path) -> list[str]:
    """A command line that cannot work, or a harmless one."""
    words: list[Any] = [
        "--dataset_name", "--model_name_or_path", "--output_dir", "--config", "--n_types", "--n_prototypes", "--seed",
        "--use_peft", "--learning_rate", "--beta", "--max_steps", "--report_to", "--resume_from_checkpoint",
        "--eval_fraction", "--bad_rows", "--embeddings", "--guard", "--baselines", "--model_path", "--dataset_split",
        "--types_from", "--modle", "--", "-", "-x", "--=", "--seed=", "=", "0", "-1", "1e9", "nan", "true", "x",
        "../x", "\n", "é", "a b", "'", "", "none", "none tensorboard", "auto", "*", "~", "/dev/null", str(folder),
        "[", "{}", "--help_",
        str(folder / "nothing.yaml"),
    ]  # fmt: skip
    commands = ["reward", "ppo", "grpo", "em-dpo", "fair", "evaluate", "guard", "rewrad", "", "--version", "--x"]
    command = commands[int(rng.integers(len(commands)))]
    return [command, *(words[int(i)] for i in rng.integers(len(words), size=int(rng.integers(0, 7))))]
