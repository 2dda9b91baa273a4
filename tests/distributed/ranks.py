"""A function on several ranks, each a fork of this process: seconds less than a launcher takes to start.

The parent has imported everything and holds no process group. Children set up their own (gloo), leave a JSON file of
what the function returned, and end by `os._exit`, so that no exit handler of a library is waited for.
"""

import faulthandler
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_RANKS = 2
TIMEOUT = 240


def run_ranks(work: Callable[..., dict[str, Any]], folder: Path, *arguments: Any, n_ranks: int = N_RANKS) -> list[Any]:
    """What `work(*arguments)` returned on each rank; `folder` receives their files and logs.

    Raises:
        AssertionError: a rank raised, was killed or did not end in time; the end of its log is shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork(work, folder, arguments, rank, n_ranks, port) for rank in range(n_ranks)]
    failed = _wait(children)
    logs = "\n".join((folder / f"rank_{rank}.log").read_text(errors="replace")[-3000:] for rank in range(n_ranks))
    assert not failed, f"ranks {failed} failed\n{logs}"
    return [json.loads((folder / f"rank_{rank}.json").read_text(encoding="utf-8")) for rank in range(n_ranks)]


def _fork(work: Callable, folder: Path, arguments: tuple, rank: int, n_ranks: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(folder / f"rank_{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # pytest has put its own in their place
        faulthandler.dump_traceback_later(TIMEOUT - 10)  # where a rank waits for ever
        if n_ranks > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_ranks),
                           "LOCAL_WORLD_SIZE": str(n_ranks), "MASTER_ADDR": "127.0.0.1",
                           "MASTER_PORT": str(port)}  # fmt: skip
        from accelerate.state import AcceleratorState, GradientState, PartialState

        for state in (AcceleratorState, GradientState, PartialState):
            state._shared_state.clear()
        found = work(*arguments)
        (folder / f"rank_{rank}.json").write_text(json.dumps(found), encoding="utf-8")
        status = 0
    except BaseException:  # a child never returns into the parent's tests
        traceback.print_exc()
    finally:
        os._exit(status)


def _wait(children: list[int]) -> list[int]:
    """Ranks that did not end well; when one falls, the others are ended, too."""
    left, failed, until = dict(enumerate(children)), [], time.monotonic() + TIMEOUT
    while left:
        for rank, child in list(left.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del left[rank]
                failed += [rank] if status else []
        if left and (failed or time.monotonic() > until):
            for rank, child in left.items():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                failed.append(rank)
            left = {}
        time.sleep(0.02)
    return failed
