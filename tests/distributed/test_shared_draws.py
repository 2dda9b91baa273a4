"""Random draws in shares: each batch once, the same on two processes and on three, and all of them everywhere."""

from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState

from palign.parallel.shared_work import drawn
from tests.distributed.ranks import run_ranks

N_BATCHES = 7


def draw_once(seed: int, together: bool) -> dict[str, Any]:
    made: list[int] = []

    def draw(batch: int) -> tuple[int, list[float]]:
        made.append(batch)
        return batch, torch.rand(3).tolist()

    PartialState(cpu=True)
    torch.manual_seed(5)
    found = drawn(range(N_BATCHES), draw, seed=seed, model=torch.nn.Linear(1, 1), together=together)
    return {"made": made, "found": found, "next": torch.rand(1).item()}


def test_one_process_draws_from_one_stream() -> None:
    torch.manual_seed(5)
    torch.nn.Linear(1, 1)  # takes random numbers of its own, before the draws
    following = torch.rand(1).item()
    found = draw_once(3, together=True)
    torch.manual_seed(3)
    np.testing.assert_array_equal([numbers for _, numbers in found["found"]], torch.rand(N_BATCHES, 3).numpy())
    assert found["next"] == following  # the caller's own stream is where it was


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_processes_share_the_batches_and_all_get_all(n_ranks: int, tmp_path: Any) -> None:
    ranks = run_ranks(draw_once, tmp_path, 3, True, n_ranks=n_ranks)
    assert [rank["made"] for rank in ranks] == [list(range(N_BATCHES))[i::n_ranks] for i in range(n_ranks)]
    for rank in ranks:
        assert rank["found"] == ranks[0]["found"] and rank["next"] == ranks[0]["next"]
    assert [batch for batch, _ in ranks[0]["found"]] == list(range(N_BATCHES))
    assert len({tuple(numbers) for _, numbers in ranks[0]["found"]}) == N_BATCHES


def test_any_number_of_processes_draws_the_same(tmp_path: Any) -> None:
    two, three = (run_ranks(draw_once, tmp_path / str(n), 3, True, n_ranks=n)[0]["found"] for n in (2, 3))
    other = run_ranks(draw_once, tmp_path / "other", 4, True, n_ranks=2)[0]["found"]
    assert two == three and all(mine != theirs for mine, theirs in zip(two, other, strict=True))


def test_a_process_that_does_not_share_draws_all_itself(tmp_path: Any) -> None:
    for rank in run_ranks(draw_once, tmp_path, 3, False, n_ranks=2):
        assert rank["made"] == list(range(N_BATCHES))
