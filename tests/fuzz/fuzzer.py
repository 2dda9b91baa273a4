"""One altered input after another, and what came of each.

A model folder is altered with its `contents.json` (every change must be refused, or change nothing) or without it, as
earlier versions saved it (then what no model can hold must be refused; a number that is a little different is nobody's
to notice). Rows and command lines have no hashes.
"""

import contextlib
import hashlib
import io
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from palign.cli import command
from palign.contents import CONTENTS
from palign.pipelines.arguments.evaluation import parse_evaluation_arguments
from palign.pipelines.arguments.fair import parse_fair_arguments
from palign.pipelines.arguments.mixture import parse_mixture_arguments
from palign.pipelines.arguments.reward import parse_reward_arguments
from palign.pipelines.grpo import parse_grpo_arguments
from palign.pipelines.ppo import parse_policy_arguments
from palign.reading import is_on_purpose
from tests.fuzz import alterations
from tests.fuzz.kinds import FILES, MODELS, SHARES, Kind, odd_line, without_contents

PATIENCE = 30  # seconds for one input
PARSERS: dict[str, Callable[[Any], Any]] = {
    "pal_reward": parse_reward_arguments, "ppo_pal": parse_policy_arguments, "grpo_pal": parse_grpo_arguments,
    "em_dpo": parse_mixture_arguments, "fair_policy": parse_fair_arguments,
    "evaluate_fairness": parse_evaluation_arguments,
}  # fmt: skip
GOOD, BAD = ("read", "refused"), ("raw", "wrong", "hang", "damaged")
N_LINES = 12  # of a hundred inputs, command lines


@dataclass(frozen=True)
class Outcome:
    """What came of an input: `verdict` of `GOOD` or `BAD`; `text` says which input it was, and the error."""

    verdict: str
    text: str


class HangError(BaseException):
    """An input has taken too long."""


class Fuzzer:
    """Alters and reads; `folder` holds whole copies, and one altered at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole: dict[str, np.ndarray] = {}
        self.names = sorted(SHARES)
        shares = np.array([SHARES[name] for name in self.names], dtype=float)
        self.shares = shares / shares.sum()
        self.kinds = {kind.name: kind for kind in (*MODELS, *FILES)}

    def run(self, number: int) -> Outcome:
        """The input of that number."""
        rng = np.random.default_rng([2026, number])
        if rng.integers(100) < N_LINES:
            return self._command_line(number, rng)
        return self._file(number, self.kinds[self.names[int(rng.choice(len(self.names), p=self.shares))]], rng)

    def _file(self, number: int, kind: Kind, rng: np.random.Generator) -> Outcome:
        whole, place = self.folder / "whole" / kind.name, self.folder / "altered" / kind.name
        if kind.name not in self.whole:
            whole.mkdir(parents=True)
            kind.make(whole)
            self.whole[kind.name] = kind.read(whole)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        has_hashes = kind.is_model and bool(rng.integers(2))
        if not has_hashes:
            without_contents(place)
        said, must_refuse = alter(place, rng)
        before = tree(place)
        text = f"input {number}: {kind.name}{' with hashes' if has_hashes else ''}, {said}"
        with self._judged(text) as outcome:
            found = kind.read(place)
            outcome.append(self._verdict(kind, found, has_hashes, must_refuse, text))
        if tree(place) != before:
            return Outcome("damaged", f"{text}: reading has changed files")
        return outcome[0]

    def _verdict(self, kind: Kind, found: np.ndarray, has_hashes: bool, must_refuse: bool, text: str) -> Outcome:
        is_same = found.shape == self.whole[kind.name].shape and np.array_equal(found, self.whole[kind.name])
        is_wrong = must_refuse or not np.isfinite(found).all() or (has_hashes and not is_same)
        return Outcome("wrong" if is_wrong else "read", f"{text}: read as {found.ravel()[:3]}")

    def _command_line(self, number: int, rng: np.random.Generator) -> Outcome:
        words = odd_line(rng, self.folder)
        text = f"input {number}: palign {words!r}"

        def recipe(name: str) -> SimpleNamespace:
            return SimpleNamespace(main=PARSERS[name])

        out, error = io.StringIO(), io.StringIO()
        with (
            self._judged(text) as outcome,
            mock.patch.object(command, "load_recipe", recipe),
            mock.patch.object(sys, "argv", ["palign"]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(error),
            contextlib.chdir(self.folder),
        ):
            try:
                status = command.main(words)
            except SystemExit as end:
                status = end.code
            told = "" if status == 0 else error.getvalue()
            is_wrong = status not in (0, 1, 2) or "Traceback" in told or (status != 0 and len(told.strip()) < 10)
            outcome.append(Outcome("wrong" if is_wrong else "read", f"{text}: {status} {told[:200]!r}"))
        return outcome[0]

    @contextlib.contextmanager
    def _judged(self, text: str) -> Iterator[list[Outcome]]:
        """Errors and hangs as outcomes."""
        outcome: list[Outcome] = []

        def late(*_: Any) -> None:
            raise HangError

        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(PATIENCE)
        try:
            with warnings.catch_warnings(), open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
                warnings.simplefilter("ignore")
                yield outcome
        except HangError:
            outcome[:] = [Outcome("hang", text)]
        except Exception as error:
            is_sentence = is_on_purpose(error) and len(str(error)) > 20
            kind = type(error).__name__
            outcome[:] = [Outcome("refused" if is_sentence else "raw", f"{text}: {kind}: {str(error)[:300]}")]
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def alter(place: Path, rng: np.random.Generator) -> tuple[str, bool]:
    """Alter one file below a folder; says what, and whether no reader may take it."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    name = path.relative_to(place).as_posix()
    if path.suffix == ".json" and path.name != CONTENTS and rng.random() < 0.6:
        return alterations.edit_json(path, rng), False
    if path.suffix == ".safetensors" and path.name in READ_TENSORS and rng.random() < 0.6:
        return f"{name}: {alterations.spoil_tensor(path, rng)}", True
    if path.name == "responsibilities.parquet" and rng.random() < 0.6:
        return f"{name}: {alterations.spoil_table(path, rng)}", True
    change = alterations.ANY_FILE[int(rng.integers(len(alterations.ANY_FILE)))]
    return f"{name}: {change(path, rng)}", False


READ_TENSORS = ("model.safetensors", "adapter_model.safetensors")


def tree(place: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
