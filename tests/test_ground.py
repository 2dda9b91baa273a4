"""What the set-up promises: exact constraints for everything required, and launch files that run what they say."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)")
# one write for a whole line: two processes share the pipe
SHOW_STATE = """
import os
from accelerate import PartialState
state = PartialState(cpu=True)
kind = state.distributed_type.value
os.write(1, f"STATE {state.process_index} {state.num_processes} {kind} {state.device.type}\\n".encode())
"""


def name_of(requirement: str) -> str:
    return re.split(r"[<>=! \[]", requirement)[0].lower().replace("_", "-")


def test_constraints_are_exact_and_hold_for_everything_required() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {match[1].lower().replace("_", "-"): match[2] for match in map(PIN.fullmatch, lines) if match}
    assert len(pins) == len(lines)  # no paths, no ranges, no local builds
    extras = PROJECT["optional-dependencies"]
    required = [*PROJECT["dependencies"], *extras["report"], *extras["xlsx"], *extras["dev"], *extras["docs"]]
    assert {name_of(requirement) for requirement in required} <= set(pins)


def test_no_trainer_ties_the_package_to_one_trl() -> None:
    assert "trl>=1.12" in PROJECT["dependencies"]  # and no upper bound
    assert not [name for extra in PROJECT["optional-dependencies"].values() for name in extra if "trl" in name]


def test_make_and_ci_call_the_same_tests() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"setup", "demo", "test", "fast", "slow", "style"} <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text() and (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize(("config", "n_processes", "kind"), [("single", 1, "NO"), ("cpu_2proc", 2, "MULTI_CPU")])
def test_launch_files_ask_nothing_and_run_what_they_say(tmp_path, config: str, n_processes: int, kind: str) -> None:
    (tmp_path / "state.py").write_text(SHOW_STATE)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / "accelerate_configs" / f"{config}.yaml"), str(tmp_path / "state.py")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done.stderr
    states = sorted(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("STATE"))
    assert states == [[str(rank), str(n_processes), kind, "cpu"] for rank in range(n_processes)]
