"""Requests batched together: rows of several requests are worked on in one call, each request gets its own back."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Batcher", "TooBusyError"]


class TooBusyError(RuntimeError):
    """More rows wait than the server takes; the client is to try again later."""


@dataclass
class _Waiting:
    rows: Sequence[Any]
    done: asyncio.Future
    results: list[Any] = field(default_factory=list)
    n_taken: int = 0


class Batcher:
    """One worker thread, and a queue before it.

    While the thread works on one batch the next one gathers. All work on the model is done in that thread, `alone` as
    well.

    Args:
        work: rows → results, one for each; a ValueError of it is the fault of a row.
        rows_at_once: rows in a call of `work` at most; a longer request is worked on in parts.
        most_waiting: rows that may wait; beyond, `TooBusyError`.
        gather_seconds: that an idle worker waits for others before it begins; where a batch takes long, a lonely row
            would hold up whoever comes just behind it.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        rows_at_once: int = 256,
        most_waiting: int = 65536,
        gather_seconds: float = 0.0,
    ) -> None:
        self.work, self.rows_at_once, self.most_waiting = work, rows_at_once, most_waiting
        self.gather_seconds = gather_seconds
        self.waiting: deque[_Waiting] = deque()
        self.n_waiting = self.n_batches = self.n_rows = 0
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="palign-serve")
        self._worker: asyncio.Task | None = None

    async def __call__(self, rows: Sequence[Any]) -> list[Any]:
        """Results of rows, in order.

        Raises:
            TooBusyError: too many rows wait.
            ValueError: one of these rows is at fault.
        """
        if not rows:
            return []
        if self.n_waiting + len(rows) > self.most_waiting and self.n_waiting:
            raise TooBusyError(
                f"{self.n_waiting} rows wait, and the server takes {self.most_waiting}. Try again later."
            )
        request = _Waiting(rows, asyncio.get_running_loop().create_future())
        self.waiting.append(request)
        self.n_waiting += len(rows)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        return await request.done

    async def alone(self, call: Callable[[], Any]) -> Any:
        """Whatever else must not run beside `work`, in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, call)

    def close(self) -> None:
        """Let the thread go when it has finished."""
        self.thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        if self.gather_seconds:
            await asyncio.sleep(self.gather_seconds)
        while self.waiting:
            parts = self._gather()
            try:
                await self._answer(parts)
            except Exception as error:  # whatever it is, nobody waits for ever
                _fail([request for request, _ in parts], error)

    def _gather(self) -> list[tuple[_Waiting, Sequence[Any]]]:
        """(request, its next rows) of one batch; what does not fit stays at the head of the queue."""
        parts, room = [], self.rows_at_once
        while self.waiting and room:
            request = self.waiting[0]
            if request.done.done():  # cancelled, or failed in an earlier part
                self.n_waiting -= len(request.rows) - request.n_taken
                self.waiting.popleft()
                continue
            rows = request.rows[request.n_taken :][:room]
            parts.append((request, rows))
            request.n_taken += len(rows)
            self.n_waiting -= len(rows)
            room -= len(rows)
            if request.n_taken == len(request.rows):
                self.waiting.popleft()
        return parts

    async def _answer(self, parts: list[tuple[_Waiting, Sequence[Any]]]) -> None:
        rows = [row for _, part in parts for row in part]
        if not rows:
            return
        try:
            results = list(await self.alone(lambda: self.work(rows)))
        except ValueError as error:
            if len(parts) == 1:
                _fail([parts[0][0]], error)
                return
            for part in parts:  # only the request that is at fault fails
                await self._answer([part])
            return
        self.n_batches, self.n_rows = self.n_batches + 1, self.n_rows + len(rows)
        start = 0
        for request, part in parts:
            request.results += results[start : start + len(part)]
            start += len(part)
            if len(request.results) == len(request.rows) and not request.done.done():
                request.done.set_result(request.results)


def _fail(requests: Sequence[_Waiting], error: Exception) -> None:
    for request in requests:
        if not request.done.done():
            request.done.set_exception(error)
