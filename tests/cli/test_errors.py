"""Where errors become a sentence and an exit status."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from palign.cli.errors import run
from palign.data.preferences import Preferences
from palign.models.files.mixture import load_mixture

ROOT = Path(__file__).parents[2]


def raises(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def test_nothing_raised_is_0() -> None:
    assert run("palign reward", lambda: None) == 0


@pytest.mark.parametrize(
    "main",
    [
        lambda: load_mixture("no such folder"),
        lambda: Preferences.from_rows([{"annotator_id": 1, "prompt": "p", "chosen": "a"}]),
    ],
)
def test_what_palign_raises_of_the_input_is_a_sentence_and_2(
    main: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("palign reward", main) == 2
    err = capsys.readouterr().err
    assert err.startswith("palign reward: error: ") and "Traceback" not in err


def test_a_fault_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        run("palign reward", lambda: int("x"))
    with pytest.raises(ZeroDivisionError):
        run("palign reward", raises(ZeroDivisionError()))


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALIGN_TRACEBACK", "1")
    with pytest.raises(ValueError, match="is not a mixture"):
        run("palign reward", lambda: load_mixture("no such folder"))


def test_interrupted_and_closed_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("palign reward", raises(KeyboardInterrupt())) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_recipe_started_by_its_file_says_one_sentence(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"annotator_id": 1, "prompt": "p", "chosen": "a"}\n')
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    flags = ["--dataset_name", str(rows), "--embeddings", str(tmp_path / "none.npy"), "--output_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "pal_reward.py"), *flags],
        capture_output=True, text=True, env=env, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("pal_reward.py: error: ")


def test_help_into_a_pipe_that_closes_is_quiet(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m palign reward --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, timeout=60)
    assert "Traceback" not in done.stderr
