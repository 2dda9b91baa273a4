"""Runs of seconds that are killed and go on: in a fork of a parent that has imported everything already."""

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

Run = Callable[[Path], Mapping[str, torch.Tensor]]  # trains in a folder, on from what lies there; what it ended with
TIMEOUT = 300.0  # seconds
KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class KillAt:
    """When a child is killed: so many seconds after it began, or at its so manieth write.

    A write that is hit leaves half of its file (`torn`), or happens just before or after. With `file`, a name,
    only writes of such files count.
    """

    seconds: float | None = None
    write: int | None = None
    how: str = "torn"  # "before", "torn", "after"
    file: str = ""


def in_child(run: Run, folder: Path, outcome: Path, kill: KillAt | None = None) -> int:
    """Fork, run, and leave: 0, or what ended it. What the run returns lies in `outcome`, what it said beside it."""
    outcome.parent.mkdir(parents=True, exist_ok=True)
    start, pid = time.monotonic(), os.fork()
    if pid == 0:
        status = 1
        try:
            _work(run, folder, outcome, kill)
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - start
        if (kill is not None and kill.seconds is not None and passed >= kill.seconds) or passed > TIMEOUT:
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.002)


def _work(run: Run, folder: Path, outcome: Path, kill: KillAt | None) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no child outlives the tests
    said = os.open(outcome.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    start = time.monotonic()
    with counted_writes(kill) as n_writes:
        found = run(folder)
        words = {"seconds": time.monotonic() - start, "n_writes": n_writes[0]}
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, outcome)
    outcome.with_suffix(".json").write_text(json.dumps(words))


@contextmanager
def counted_writes(kill: KillAt | None) -> Any:
    """Count the writes of this process, and kill it at one of them: whole files, renames, appended bytes."""
    count = [0]

    def counting(original: Callable[..., Any], path_of: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **kwargs: Any) -> Any:
            path = path_of(*args, **kwargs)
            if kill is not None and kill.file and (path is None or Path(str(path)).name != kill.file):
                return original(*args, **kwargs)
            count[0] += 1
            if kill is None or kill.write != count[0]:
                return original(*args, **kwargs)
            if kill.how != "before":
                original(*args, **kwargs)
            if kill.how == "torn" and path is not None and os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        return write

    places = [
        (safetensors.torch, "serialize_file", lambda tensors, path, *a, **k: path),
        (torch, "save", lambda obj, f, *a, **k: f if isinstance(f, (str, Path)) else None),
        (Path, "write_text", lambda path, *a, **k: path),
        (Path, "write_bytes", lambda path, *a, **k: path),
        (np, "savez", lambda file, *a, **k: getattr(file, "name", file)),
        (os, "replace", lambda *a, **k: None),  # a rename is whole or nothing
        (os, "rename", lambda *a, **k: None),
        (os, "fsync", lambda *a, **k: None),
        (os, "unlink", lambda *a, **k: None),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, path_of in places:
        setattr(owner, name, counting(getattr(owner, name), path_of))
    try:
        yield count
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)


@dataclass
class Point:
    """One interrupted run: where it was killed, how often, and how far its end is from that of a whole one."""

    kills: list[KillAt]
    difference: float
    failure: str = ""


def survive(run: Run, folder: Path, expected: Mapping[str, torch.Tensor], kills: list[KillAt]) -> Point:
    """Kill a run at each of `kills`, one after another, let the last one end, and compare."""
    outcome = folder.with_name(folder.name + ".safetensors")
    landed = []
    for kill in kills:
        status = in_child(run, folder, outcome, kill)
        if status == KILLED:
            landed.append(kill)
        elif status != 0:
            return Point(landed, float("nan"), _last_words(outcome))
        else:
            break
    if not outcome.exists() and in_child(run, folder, outcome) != 0:
        return Point(landed, float("nan"), _last_words(outcome))
    return Point(landed, difference(load_file(outcome), expected))


def difference(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest absolute one; infinite where names or shapes differ."""
    if found.keys() != expected.keys() or any(found[name].shape != expected[name].shape for name in found):
        return float("inf")
    gaps = [(found[name].double() - expected[name].double()).abs() for name in found if found[name].numel()]
    return max((float(gap.max()) for gap in gaps), default=0.0)


def whole_run(run: Run, folder: Path) -> tuple[dict[str, torch.Tensor], float, int]:
    """What an uninterrupted run ends with, its seconds and its writes."""
    outcome = folder.with_name(folder.name + ".safetensors")
    if in_child(run, folder, outcome) != 0:
        raise RuntimeError(_last_words(outcome))
    words = json.loads(outcome.with_suffix(".json").read_text())
    return load_file(outcome), words["seconds"], words["n_writes"]


def random_kills(n: int, seconds: float, n_writes: int, *, seed: int) -> list[list[KillAt]]:
    """`n` interruptions: half by time over the length of a run, half at a write; every third run is killed twice."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n):
        kills = []
        for _ in range(1 + (number % 3 == 2)):
            if number % 2:
                kills.append(
                    KillAt(write=int(rng.integers(1, n_writes + 1)), how=rng.choice(["before", "torn", "after"]))
                )
            else:
                kills.append(KillAt(seconds=float(rng.uniform(0, seconds))))
        found.append(kills)
    return found


def _last_words(outcome: Path) -> str:
    log = outcome.with_suffix(".log")
    return log.read_text(errors="replace")[-3000:] if log.exists() else ""
