"""Rows of several requests in one call, and each request's own back."""

import asyncio
from collections.abc import Sequence

from palign.serving.batching import Batcher, TooBusyError


class Doubler:
    """2 x for every x; the batches that came; a row that is at fault."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, rows: Sequence[int]) -> list[int]:
        self.batches.append(list(rows))
        if 13 in rows:
            raise ValueError("13 is at fault")
        if 99 in rows:
            raise RuntimeError("out of order")
        return [2 * row for row in rows]


def asked(requests: list[list[int]], **options: int) -> tuple[list[object], Doubler, Batcher]:
    work = Doubler()
    batcher = Batcher(work, **options)

    async def all_at_once() -> list[object]:
        return await asyncio.gather(*(batcher(rows) for rows in requests), return_exceptions=True)

    return asyncio.run(all_at_once()), work, batcher


def test_everybody_gets_their_own_and_rows_are_worked_on_together() -> None:
    requests = [[n, n + 1] for n in range(200, 400, 2)]
    results, work, batcher = asked(requests, rows_at_once=64)
    assert results == [[2 * n, 2 * n + 2] for n in range(200, 400, 2)]
    assert len(work.batches) == 4 and max(map(len, work.batches)) == 64  # 200 rows
    assert sum(work.batches, []) == list(range(200, 400)) and batcher.n_waiting == 0


def test_a_long_request_is_worked_on_in_parts_and_does_not_hold_up_what_fits_beside_it() -> None:
    results, work, batcher = asked([list(range(100, 110)), [1]], rows_at_once=4)
    assert results == [[2 * n for n in range(100, 110)], [2]]
    assert [len(batch) for batch in work.batches] == [4, 4, 3] and work.batches[-1] == [108, 109, 1]


def test_a_row_at_fault_fails_its_own_request_alone() -> None:
    results, _, batcher = asked([[1], [2, 13], [3]])
    assert results[0] == [2] and results[2] == [6]
    assert isinstance(results[1], ValueError) and batcher.n_waiting == 0


def test_a_request_of_several_parts_that_fails_leaves_the_queue() -> None:
    results, _, batcher = asked([[13, *range(20)], [5]], rows_at_once=4)
    assert isinstance(results[0], ValueError) and results[1] == [10]
    assert batcher.n_waiting == 0 and not batcher.waiting


def test_an_error_of_the_model_leaves_nobody_waiting() -> None:
    results, _, _ = asked([[1], [99]])
    assert [type(result) for result in results] == [RuntimeError, RuntimeError]


def test_what_is_too_much_is_refused_at_once() -> None:
    results, _, batcher = asked([[1, 2, 3], [4, 5, 6], []], most_waiting=4)
    assert results[0] == [2, 4, 6] and isinstance(results[1], TooBusyError) and results[2] == []
    assert batcher.n_waiting == 0
