"""The one place where errors become a sentence and an exit status.

An error that palign raises on purpose (a `raise` of its own code) is a sentence for whoever gave the rows, options or
folders: it is printed alone. Whatever else goes wrong is a fault, and keeps its traceback. `PALIGN_TRACEBACK=1` shows
the traceback of either.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from palign.cli.library_log import library_log
from palign.reading import is_on_purpose

__all__ = ["exit_status", "run"]

USER, FAULT, INTERRUPTED, PIPE_CLOSED, TERMINATED = 2, 1, 130, 141, 143
OF_INPUT = (FileNotFoundError, NotADirectoryError, PermissionError, TypeError, ValueError)


def run(name: str, main: Callable[[], Any]) -> int:
    """Call `main` and turn its errors into a sentence after `name` on stderr.

    Returns:
        0; 2 for input that cannot work, 1 for an error while it ran and for the guard's stop, 130 after Ctrl-C, 141
        where whoever read the output has gone, 143 after SIGTERM.

    Raises:
        Exception: whatever is not an error on purpose; every error where PALIGN_TRACEBACK=1.
    """
    restore = _listen()
    try:
        with library_log():
            main()
        sys.stdout.flush()  # a pipe that has closed says so here, and not when Python ends
    except SystemExit as end:
        if end.code != TERMINATED:
            raise
        print(f"{name}: {end}", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print(f"{name}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's last flush would fail again
        return PIPE_CLOSED
    except Exception as error:
        if not is_on_purpose(error) or os.environ.get("PALIGN_TRACEBACK") == "1":
            raise
        print(f"{name}: error: {error}", file=sys.stderr)
        return exit_status(error)
    finally:
        restore()
    return 0


class _EndedError(SystemExit):
    """SIGTERM outside of training, where nothing is to be saved: what is open is closed, and half files go."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)

    def __str__(self) -> str:
        return "SIGTERM: ended. What was finished is kept; --resume_from_checkpoint true goes on from it."


def _listen() -> Callable[[], Any]:
    """Let SIGTERM raise here; returns what undoes it. One of several processes may wait for the others where no signal
    is heard: there the system ends it, as ever.
    """
    if threading.current_thread() is not threading.main_thread() or int(os.environ.get("WORLD_SIZE") or 1) > 1:
        return lambda: None
    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_DFL:
        return lambda: None

    def end(*_: Any) -> None:
        raise _EndedError

    signal.signal(signal.SIGTERM, end)
    return lambda: signal.signal(signal.SIGTERM, before)


def exit_status(error: Exception) -> int:
    """2 where the input cannot work, else 1."""
    return USER if isinstance(error, OF_INPUT) and type(error).__name__ != "GuardError" else FAULT
