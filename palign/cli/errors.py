"""The one place where errors become a sentence and an exit status.

An error that palign raises on purpose (a `raise` of its own code) is a sentence for whoever gave the rows, options or
folders: it is printed alone. Whatever else goes wrong is a fault, and keeps its traceback. `PALIGN_TRACEBACK=1` shows
the traceback of either.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from palign.reading import is_on_purpose

__all__ = ["exit_status", "run"]

USER, FAULT, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141
OF_INPUT = (FileNotFoundError, NotADirectoryError, PermissionError, TypeError, ValueError)


def run(name: str, main: Callable[[], Any]) -> int:
    """Call `main` and turn its errors into a sentence after `name` on stderr.

    Returns:
        0; 2 for input that cannot work, 1 for an error while it ran and for the guard's stop, 130 after Ctrl-C, 141
        where whoever read the output has gone.

    Raises:
        Exception: whatever is not an error on purpose; every error where PALIGN_TRACEBACK=1.
    """
    try:
        main()
        sys.stdout.flush()  # a pipe that has closed says so here, and not when Python ends
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
    return 0


def exit_status(error: Exception) -> int:
    """2 where the input cannot work, else 1."""
    return USER if isinstance(error, OF_INPUT) and type(error).__name__ != "GuardError" else FAULT
