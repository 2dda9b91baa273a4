"""A server in a thread, reached over the loopback."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Its address, while the context lasts."""
    import uvicorn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, access_log=False, backlog=2048)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=20)


def posted_at_once(address: str, path: str, bodies: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """(status, answer) of requests that are all open at the same time, a connection for each."""
    host, port = address.removeprefix("http://").split(":")

    async def post(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        content = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ", 2)[1]), json.loads(answer.partition(b"\r\n\r\n")[2])

    async def all_of_them() -> list[tuple[int, dict[str, Any]]]:
        return await asyncio.gather(*(post(body) for body in bodies))

    return asyncio.run(all_of_them())
