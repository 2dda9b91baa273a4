"""`palign reward` on vectors: nothing heavy is imported, and the trainer of transformers would write the same."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from palign.pipelines import reward
from palign.trainers.reward.vector_fit import VectorFit
from tests.worlds.recipes import load_recipe

ROOT = Path(__file__).parents[2]
HEAVY = ("transformers", "trl", "peft", "datasets", "sklearn", "scipy.stats", "sympy", "torch._dynamo",
         "torch.distributed.tensor", "deepspeed")  # fmt: skip
VECTORS = ["--dataset_name", "rows.jsonl", "--embeddings", "items.npy", "--output_dir", "out", "--use_cpu", "true"]
NEEDS_A_TRAINER = ["--logging_steps", "7"]  # an option of TrainingArguments, which changes nothing here


def write_inputs(folder: Path) -> None:
    """100 rows of ten people, of two tastes, on 60 vectors."""
    rng = np.random.default_rng(0)
    vectors, rows = rng.normal(size=(60, 16)).astype(np.float32), []
    np.save(folder / "items.npy", vectors)
    for number in range(100):
        better, worse = rng.choice(60, 2, replace=False)
        if vectors[better, number % 2] < vectors[worse, number % 2]:
            better, worse = worse, better
        rows.append({"annotator_id": f"p{number % 10}", "chosen_index": int(better), "rejected_index": int(worse)})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file by name, but for what libraries warned of."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "library.log"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    "options",
    [[], ["--variant", "linear"], ["--n_restarts", "2", "--loss_type", "hinge", "--head_epochs", "4"]],
    ids=["plain", "linear", "restarts"],
)
def test_with_and_without_a_trainer_every_file_is_the_same(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        monkeypatch.delenv(name)
    made, written, printed, recipe = [], [], [], load_recipe("pal_reward")
    monkeypatch.setattr(recipe, "time", SimpleNamespace(monotonic=lambda: 0.0))  # how long it took is in the files
    monkeypatch.setattr(reward, "VectorFit", lambda *args, **given: made.append(True) or VectorFit(*args, **given))
    for place, more in (("without", []), ("with", NEEDS_A_TRAINER)):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        write_inputs(tmp_path / place)
        recipe.main([*VECTORS, *options, *more])
        written.append(files_of(tmp_path / place / "out"))
        printed.append([line for line in capsys.readouterr().out.splitlines() if "[WARNING]" not in line])  # DeepSpeed
        assert len(made) == 2  # the pooled model and that of everybody, and both of the first run
    assert written[0].keys() == written[1].keys() and {"model.safetensors", "report.html"} <= written[0].keys()
    assert [name for name in written[0] if written[0][name] != written[1][name]] == []
    assert printed[0] == printed[1] and any("loss" in line for line in printed[0])


def test_nothing_of_a_trainer_is_imported(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([name for name in {HEAVY!r} if name in sys.modules]))\n"
        f"from palign.cli.command import main; sys.exit(main(['reward', *{VECTORS!r}]))"
    )
    named = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment = named | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
    )
    assert done.returncode == 0 and (tmp_path / "out" / "model.safetensors").is_file(), done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
