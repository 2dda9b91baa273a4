"""What stands before every request: a token, a largest body, a longest wait for it; and counts of what came.

The counts know paths and status codes and nothing of what was asked: no id and no text is kept or written anywhere.
"""

import asyncio
import hmac
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Counts", "Gate", "Limits", "TOKEN_VARIABLE"]

TOKEN_VARIABLE = "PALIGN_SERVE_TOKEN"
OPEN_PATHS = ("/health",)


@dataclass(frozen=True)
class Limits:
    """What one request may ask.

    Attributes:
        body_bytes: of a request.
        rows: of a request.
        characters: of one text, a conversation's texts together.
        read_seconds: for the body to arrive.
    """

    body_bytes: int = 16 * 2**20
    rows: int = 4096
    characters: int = 200_000
    read_seconds: float = 20.0


@dataclass
class Counts:
    """Requests by path and status, and seconds spent; as Prometheus reads them."""

    requests: Counter = field(default_factory=Counter)
    seconds: Counter = field(default_factory=Counter)

    def add(self, path: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        self.requests[path, status] += 1
        self.seconds[path] += seconds

    def as_text(self, gauges: Mapping[str, float]) -> str:
        """Prometheus' text format; `gauges` are whatever else the server knows."""
        lines = ["# TYPE palign_requests_total counter"]
        lines += [
            f'palign_requests_total{{path="{p}",status="{s}"}} {n}' for (p, s), n in sorted(self.requests.items())
        ]
        lines += ["# TYPE palign_request_seconds_total counter"]
        lines += [f'palign_request_seconds_total{{path="{p}"}} {s:.6f}' for p, s in sorted(self.seconds.items())]
        for name, value in gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {value}"]
        return "\n".join(lines) + "\n"


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gate:
    """ASGI middleware around an app.

    Args:
        app: what answers.
        paths: that are counted by name; all others are counted together.
        token: that requests must carry (`Authorization: Bearer …`); None asks for none.
    """

    def __init__(self, app: Any, *, counts: Counts, limits: Limits, paths: tuple[str, ...], token: str | None) -> None:
        self.app, self.counts, self.limits = app, counts, limits
        self.paths, self.token = paths, token

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), [500]

        async def counted(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check_token(scope["path"], headers)
            body = await self._read(headers, receive)
            await self.app(scope, _again(body, receive), counted)
        except _Refused as refused:
            await _answer(counted, refused.status, str(refused))
        except ConnectionError:
            status[0] = 499  # the client has gone
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.counts.add(path, status[0], time.perf_counter() - start)

    def _check_token(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        if self.token is None or path in OPEN_PATHS:
            return
        given = headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
            raise _Refused(401, "This server asks for a token: send the header 'Authorization: Bearer TOKEN'.")

    async def _read(self, headers: Mapping[bytes, bytes], receive: Any) -> bytes:
        most = self.limits.body_bytes
        told = headers.get(b"content-length", b"0")
        if told.isdigit() and int(told) > most:
            raise _Refused(413, f"The body has {int(told)} bytes; this server takes {most}. Send fewer rows at once.")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.read_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise _Refused(413, f"The body is above the {most} bytes that this server takes.")
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise _Refused(408, f"The body did not arrive within {self.limits.read_seconds:g} seconds.") from None


def _again(body: bytes, receive: Any) -> Any:
    """`receive` that gives a body that was read already."""
    given = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> dict[str, Any]:
        return given.pop() if given else await receive()

    return receive_again


async def _answer(send: Any, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
