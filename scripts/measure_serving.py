"""What a server costs: `palign serve` over the loopback beside direct calls, on a model made for the purpose.

    python scripts/measure_serving.py                     # rewards: throughput, 1,000 at once, a restart in the middle
    python scripts/measure_serving.py --hidden_size 512 --n_layers 8

The model has untrained weights: what is measured is time. Server and client are two processes, one thread each. Direct
and served are measured in turn, `--n_rounds` times; medians are told.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palign.data.annotators import AnnotatorIndex
from palign.models.pal import PALRewardModel
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer

WORDS = "tea milk rain sun cat dog red blue old new yes no big small hot cold answer question why because".split()
PEOPLE = 200
PATIENCE = 60.0  # seconds for a server to come up


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Measure, print, and return the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--n_layers", type=int, default=6)
    parser.add_argument("--n_rows", type=int, default=1024, help="of one measurement")
    parser.add_argument("--rows_each", type=int, default=16, help="rows of a request")
    parser.add_argument("--n_clients", type=int, default=16, help="requests open at the same time")
    parser.add_argument("--n_rounds", type=int, default=5)
    script = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = reward_model(script.hidden_size, script.n_layers)
    rows = made_rows(script.n_rows)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        port, log = free_port(), Path(folder) / "log"
        server = start(folder, port, log)
        try:
            figures = throughput(model, rows, port, script)
            figures |= thousand(port, rows, model)
            server, restarted = restart_in_the_middle(server, folder, port, log, rows)
            figures |= restarted
        finally:
            server.terminate()
            server.wait(30)
        told = log.read_text()
        figures["ids_in_log"] = sum(person in told for person in model.annotators.ids)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}, indent=1))
    return figures


def reward_model(hidden_size: int, n_layers: int) -> PALRewardModel:
    """PAL-A on an untrained causal backbone."""
    torch.manual_seed(0)
    tokenizer = make_tiny_tokenizer([" ".join(WORDS)])
    backbone = make_tiny_lm(tokenizer, hidden_size=hidden_size, n_layers=n_layers)
    people = AnnotatorIndex(f"annotator-{i}" for i in range(PEOPLE))
    return PALRewardModel.from_backbone(backbone, tokenizer=tokenizer, annotators=people, n_prototypes=4).eval()


def made_rows(n: int) -> list[tuple[str, str, str]]:
    """(prompt, completion, person) of n different texts of 10 to 60 words."""
    rng = np.random.default_rng(0)
    return [
        (
            " ".join(rng.choice(WORDS, size=rng.integers(5, 20))),
            f"{' '.join(rng.choice(WORDS, size=rng.integers(5, 40)))} {i}",
            f"annotator-{rng.integers(PEOPLE)}",
        )
        for i in range(n)
    ]


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder: str, port: int, log: Path, *, flag: str = "--model_path") -> subprocess.Popen:
    """`palign serve` by its command, when it answers."""
    command = [sys.executable, "-m", "palign", "serve", flag, folder, "--port", str(port), "--device", "cpu"]
    with open(log, "a", encoding="utf-8") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return server
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"The server did not come up within {PATIENCE:g} s:\n{log.read_text()[-2000:]}")


async def post(port: int, body: dict[str, Any], *, path: str = "/score") -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own."""
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    answer = await reader.read()
    writer.close()
    if not answer:
        raise ConnectionError("the server closed the connection")
    return int(answer.split(b" ", 2)[1]), json.loads(answer.partition(b"\r\n\r\n")[2])


def body_of(rows: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """A request to /score."""
    prompts, completions, people = zip(*rows, strict=True)
    return {"prompts": prompts, "completions": completions, "annotator_ids": people}


def served(port: int, rows: list[tuple[str, str, str]], rows_each: int, n_clients: int) -> list[float]:
    """Rewards of rows, asked by several clients at the same time."""

    async def ask() -> list[float]:
        parts = [rows[i : i + rows_each] for i in range(0, len(rows), rows_each)]
        free, found = asyncio.Semaphore(n_clients), {}

        async def one(number: int) -> None:
            async with free:
                _, answer = await post(port, body_of(parts[number]))
                found[number] = answer["rewards"]

        await asyncio.gather(*(one(number) for number in range(len(parts))))
        return [reward for number in range(len(parts)) for reward in found[number]]

    return asyncio.run(ask())


def throughput(
    model: PALRewardModel, rows: list[tuple[str, str, str]], port: int, script: argparse.Namespace
) -> dict[str, float]:
    """Rows a second, directly in batches of 64 and over the loopback, in turn; and the largest difference."""
    prompts, completions, people = (list(column) for column in zip(*rows, strict=True))
    seconds: dict[str, list[float]] = {"direct": [], "served": []}
    wanted = found = []
    for number in range(script.n_rounds + 1):  # the first warms up
        start_time = time.perf_counter()
        wanted = model.score(prompts, completions, people).tolist()
        middle = time.perf_counter()
        found = served(port, rows, script.rows_each, script.n_clients)
        if number:
            seconds["direct"].append(middle - start_time)
            seconds["served"].append(time.perf_counter() - middle)
    rates = {name: len(rows) / statistics.median(values) for name, values in seconds.items()}
    return {
        "direct_rows_per_second": rates["direct"],
        "served_rows_per_second": rates["served"],
        "served_to_direct": rates["served"] / rates["direct"],
        "largest_difference": float(np.abs(np.array(wanted) - np.array(found)).max()),
    }


def thousand(port: int, rows: list[tuple[str, str, str]], model: PALRewardModel) -> dict[str, float]:
    """A thousand requests of one row, all open at the same time."""
    chosen = [rows[i % len(rows)] for i in range(1000)]

    async def ask() -> list[tuple[int, dict[str, Any]]]:
        return await asyncio.gather(*(post(port, body_of([row])) for row in chosen), return_exceptions=True)

    start_time = time.perf_counter()
    answers = asyncio.run(ask())
    passed = time.perf_counter() - start_time
    good = [answer for answer in answers if isinstance(answer, tuple) and answer[0] == 200]
    return {"thousand_answered": len(good), "thousand_seconds": passed}


def restart_in_the_middle(
    server: subprocess.Popen, folder: str, port: int, log: Path, rows: list[tuple[str, str, str]]
) -> tuple[subprocess.Popen, dict[str, float]]:
    """Clients that try again where they got no answer, and a server that is stopped and started while they ask."""
    outcomes: Counter = Counter()
    state = {"server": server}

    async def persistent(row: tuple[str, str, str]) -> None:
        for _ in range(300):
            try:
                status, _ = await post(port, body_of([row]))
                outcomes["answered" if status == 200 else f"status {status}"] += 1
                return
            except (ConnectionError, OSError):
                outcomes["tried_again"] += 1
                await asyncio.sleep(0.5)
        outcomes["lost"] += 1

    async def restart() -> None:
        await asyncio.sleep(0.5)
        state["server"].send_signal(signal.SIGTERM)
        await asyncio.to_thread(state["server"].wait, 60)
        state["server"] = await asyncio.to_thread(start, folder, port, log)

    async def ask() -> None:
        free = asyncio.Semaphore(64)

        async def one(row: tuple[str, str, str]) -> None:
            async with free:
                await persistent(row)

        await asyncio.gather(restart(), *(one(rows[i % len(rows)]) for i in range(1000)))

    asyncio.run(ask())
    names = ("answered", "tried_again", "lost")
    return state["server"], {f"restart_{name}": float(outcomes[name]) for name in names}


if __name__ == "__main__":
    main()
