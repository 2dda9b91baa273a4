"""One of two processes fails: the other ends with it, and does not wait where they would have met."""

import time
from typing import Any

import pytest
from accelerate import PartialState

from palign.parallel.shared_work import computed_once, ending_together
from tests.distributed.ranks import run_ranks


def outcome_of(work: Any) -> dict[str, Any]:
    start = time.monotonic()
    try:
        found, error = work(), None
    except Exception as failure:
        found, error = None, f"{type(failure).__name__}: {failure}"
    return {"found": found, "error": error, "seconds": time.monotonic() - start}


def chooses(error: str | None) -> dict[str, Any]:
    """What the main process computes for all: K, say."""
    PartialState(cpu=True)

    def choose() -> int:
        if error is not None:
            raise {"ValueError": ValueError, "ZeroDivisionError": ZeroDivisionError}[error]("no K")
        return 3

    return outcome_of(lambda: computed_once(choose))


def scores(failing: int | None) -> dict[str, Any]:
    """What each process does by itself: scoring its share, say."""
    rank = PartialState(cpu=True).process_index

    def score() -> int:
        with ending_together():
            if rank == failing:
                raise FileNotFoundError("rows.jsonl")
        return rank

    return outcome_of(score)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, [None, None]),
        ("ValueError", ["ValueError: no K", "ValueError: no K"]),
        (
            "ZeroDivisionError",
            ["ZeroDivisionError: no K", "RuntimeError: The main process has failed (ZeroDivisionErr"],
        ),
    ],
)
def test_the_main_process_fails_as_it_chooses(error: str | None, told: list[str | None], tmp_path: Any) -> None:
    for rank, expected in zip(run_ranks(chooses, tmp_path, error), told, strict=True):
        assert rank["found"] == (3 if error is None else None) and rank["seconds"] < 20
        assert (rank["error"] or "").startswith(expected or "") and (expected is None) == (rank["error"] is None)


@pytest.mark.parametrize("failing", [None, 0, 1])
def test_a_process_fails_as_it_scores(failing: int | None, tmp_path: Any) -> None:
    for number, rank in enumerate(run_ranks(scores, tmp_path, failing)):
        if failing is None:
            assert rank["found"] == number and rank["error"] is None
        elif number == failing:
            assert rank["error"] == "FileNotFoundError: rows.jsonl"
        else:
            assert f"Process {failing} has failed (FileNotFoundError: rows.jsonl)" in rank["error"]
        assert rank["seconds"] < 20
