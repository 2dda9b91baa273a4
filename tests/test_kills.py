"""`kill -9` at moments drawn by chance and inside single writes: the same command goes on, and ends where a whole run
does. `scripts/measure_kills.py` does the same at twenty points of each.
"""

from pathlib import Path

import pytest

from tests.worlds.kill_runs import RUNS
from tests.worlds.kills import KILLED, KillAt, in_child, random_kills, survive, whole_run


def test_the_harness_kills_where_it_says(tmp_path: Path) -> None:
    """The third write is torn in the middle, and only what was written before it is whole."""

    def run(folder: Path) -> dict:
        folder.mkdir(exist_ok=True)
        for name in "abcd":
            (folder / name).write_text(name * 8)
        return {}

    out = tmp_path / "out"
    assert in_child(run, out, tmp_path / "o.safetensors", KillAt(write=3)) == KILLED
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "a" * 8, "b": "b" * 8, "c": "c" * 4}
    _, _, n_writes = whole_run(run, tmp_path / "whole")
    assert n_writes == 4


@pytest.mark.parametrize("name", ["embeddings"])
def test_a_killed_run_ends_where_a_whole_one_does(tmp_path: Path, name: str) -> None:
    check(tmp_path, name, n_points=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name != "ppo_recipe"])
def test_killed_again_and_again(tmp_path: Path, name: str) -> None:
    check(tmp_path, name, n_points=6, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixture", "reward", "grpo"])
def test_a_run_killed_as_its_model_is_saved_trains_no_more(tmp_path: Path, name: str) -> None:
    """All steps are done, the last within an epoch: what goes on reads the last checkpoint and saves."""
    expected, _, n_writes = whole_run(RUNS[name], tmp_path / "whole")
    point = survive(RUNS[name], tmp_path / "killed", expected, [KillAt(write=n_writes - 1)])
    assert not point.failure, point.failure
    assert len(point.kills) == 1 and point.difference == 0


def check(folder: Path, name: str, *, n_points: int, seed: int = 0) -> None:
    expected, seconds, n_writes = whole_run(RUNS[name], folder / "whole")
    for number, kills in enumerate(random_kills(n_points, seconds, n_writes, seed=seed)):
        point = survive(RUNS[name], folder / f"point{number}", expected, kills)
        assert not point.failure, (kills, point.failure)
        assert point.difference <= 1e-6, (kills, point.difference)


@pytest.mark.slow
def test_a_recipe_goes_on_with_the_policy_that_was_under_way(tmp_path: Path) -> None:
    """Killed as the second of two policies is trained: the first is not trained again, and all ends the same."""
    run = RUNS["ppo_recipe"]
    expected, _, n_writes = whole_run(run, tmp_path / "whole")
    for share in (0.35, 0.75):
        point = survive(run, tmp_path / f"at{share}", expected, [KillAt(write=int(share * n_writes))])
        assert not point.failure, point.failure
        assert point.difference <= 1e-6
