"""Starting a server: on the loopback unless it is told otherwise, with logs that hold no id and no text."""

import importlib.util
import ipaddress
import logging
import os
import sys
from typing import Any

from palign.serving.gate import TOKEN_VARIABLE

__all__ = ["NoWords", "require_server", "run_server", "token_of_environment"]

MOST_FILES = 65536


def require_server() -> None:
    """ValueError, before a model loads, where FastAPI or uvicorn is not installed."""
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"A server needs {' and '.join(missing)}: pip install 'palign[serve]'.")


def token_of_environment(host: str) -> str | None:
    """The token that requests must carry; None where the environment holds none and only this machine is served.

    Raises:
        ValueError: others are to be served, and there is no token; or it is a bad one.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise ValueError(f"{TOKEN_VARIABLE} must hold at least 8 plain characters without a space.")
    if token is None and not _is_loopback(host):
        raise ValueError(
            f"--host {host} lets other machines in, and there is no token. Set {TOKEN_VARIABLE} in the environment, "
            "or serve this machine alone (--host 127.0.0.1)."
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class NoWords(logging.Filter):
    """An error is logged by its kind and place: its message may quote ids or texts."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            error, trace = record.exc_info[1], record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            place = "" if trace is None else f" in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
            record.msg, record.args = f"{type(error).__name__}{place}", ()
            record.exc_info = record.exc_text = None
        return True


def run_server(app: Any, *, host: str, port: int) -> None:
    """Serve until told to stop; a signal lets requests in work end first.

    Connections are not logged one by one: the counts are at /metrics.
    """
    import uvicorn

    _allow_open_files()
    logging.getLogger("uvicorn.error").addFilter(NoWords())
    uvicorn.run(
        app, host=host, port=port, access_log=False, log_level="info", timeout_graceful_shutdown=30, backlog=4096,
        timeout_keep_alive=30, server_header=False,
    )  # fmt: skip


def _allow_open_files() -> None:
    """As many connections as this machine lets a process have."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
