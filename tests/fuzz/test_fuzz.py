"""Altered model folders, altered rows and odd command lines: each is read as it was, or refused in a sentence."""

from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz.fuzzer import BAD, Fuzzer

N_SHORT, N_LONG = 120, 10_000


def count(folder: Path, numbers: range) -> tuple[Counter, list[str]]:
    fuzzer, verdicts, bad = Fuzzer(folder), Counter(), []
    for number in numbers:
        outcome = fuzzer.run(number)
        verdicts[outcome.verdict] += 1
        if outcome.verdict in BAD:
            bad.append(f"{outcome.verdict}: {outcome.text}")
    return verdicts, bad


def test_a_hundred_inputs(tmp_path: Path) -> None:
    verdicts, bad = count(tmp_path, range(N_SHORT))
    assert not bad, "\n".join(bad)
    assert verdicts["refused"] > N_SHORT // 3 and verdicts["read"] > 5  # neither all refused nor all taken


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, N_LONG, N_LONG // 4))
def test_ten_thousand_inputs(tmp_path: Path, first: int) -> None:
    _, bad = count(tmp_path, range(first, first + N_LONG // 4))
    assert not bad, "\n".join(bad[:50])
