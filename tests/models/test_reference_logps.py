"""The reference pass: right numbers, each item once, adapters off, shared between processes."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from palign.functional.logprobs import completion_logps
from palign.models import reference_logps
from palign.models.adapters import route
from palign.models.completions import TokenizedItems
from palign.models.reference_logps import ReferencePass, base_fingerprint, reference_pass
from tests.models.test_adapters import make_base, make_policy


def make_items(n: int = 7, seed: int = 0) -> TokenizedItems:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 12, size=n)
    ids = generator.integers(3, 256, size=lengths.sum()).astype(np.int32)
    return TokenizedItems(ids, np.cumsum(lengths), np.full(n, 2, dtype=np.int64), pad_id=0)


class Counter:
    """How many items were read since it was made."""

    def __init__(self) -> None:
        self.rows = 0
        self.read = reference_logps._read
        mock.patch.object(reference_logps, "_read", self.count).start()

    def count(self, model: nn.Module, batch: dict) -> tuple:
        self.rows += len(batch["input_ids"])
        return self.read(model, batch)


@pytest.fixture(autouse=True)
def stop_counting() -> Iterator[None]:
    yield
    mock.patch.stopall()


def run(model: nn.Module, items: TokenizedItems, **options: object) -> ReferencePass:
    return reference_pass(model, items, **({"batch_size": 3, "show_progress": False} | options))


@torch.no_grad()
def test_logps_and_states_are_those_of_single_passes() -> None:
    model, items = make_base(), make_items()
    found = run(model, items)
    assert found.logps.shape == (7,) and found.states.shape == (7, 32)
    for number in range(len(items)):
        ids = torch.from_numpy(items.tokens(number).astype(np.int64))[None]
        out = model(input_ids=ids, output_hidden_states=True)
        mask = torch.arange(ids.shape[1])[None] >= 2
        expected = completion_logps(out.logits, ids, mask.long())
        assert found.logps[number] == pytest.approx(expected.item(), abs=1e-5)
        np.testing.assert_allclose(found.states[number], out.hidden_states[-1][0, 2:].mean(0).numpy(), atol=1e-5)


def test_a_second_call_computes_nothing_and_further_items_only_themselves(tmp_path: Path) -> None:
    model, items = make_base(), make_items()
    counter = Counter()
    first = run(model, items, cache_dir=tmp_path)
    again = run(model, items, cache_dir=tmp_path)
    assert counter.rows == 7
    np.testing.assert_array_equal(again.logps, first.logps)
    np.testing.assert_array_equal(again.states, first.states)
    two = make_items(2, seed=1)
    both = TokenizedItems(
        np.concatenate([two.ids, items.ids]), np.concatenate([two.ends, two.ends[-1] + items.ends]), np.full(9, 2), 0
    )
    mixed = run(model, both, cache_dir=tmp_path)
    assert counter.rows == 9
    np.testing.assert_array_equal(mixed.logps[2:], first.logps)
    np.testing.assert_array_equal(mixed.states[2:], first.states)


def test_where_the_completion_begins_is_part_of_the_key(tmp_path: Path) -> None:
    model, items = make_base(), make_items()
    later = TokenizedItems(items.ids, items.ends, items.prompt_lengths + 1, 0)
    first, second = run(model, items, cache_dir=tmp_path), run(model, later, cache_dir=tmp_path)
    assert (second.logps > first.logps).all()


def test_adapters_are_off_and_do_not_enter_the_key(tmp_path: Path) -> None:
    base, policy, items = make_base(), make_policy(2), make_items()
    assert base_fingerprint(policy) == base_fingerprint(base)
    policy.train()
    with route(policy, "type_1"):
        found = run(policy, items, cache_dir=tmp_path)
    np.testing.assert_array_equal(found.logps, run(base, items).logps)
    assert policy.training
    counter = Counter()
    run(base, items, cache_dir=tmp_path)
    assert counter.rows == 0


def test_another_base_has_another_key() -> None:
    base = make_base()
    key = base_fingerprint(base)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert base_fingerprint(base) != key
    base.config.use_cache, base.config.pad_token_id = False, 5
    assert base_fingerprint(base) == key
    with torch.no_grad():
        base.model.norm.weight[3] += 1e-4
    assert base_fingerprint(base) != key
    assert base_fingerprint(make_base().bfloat16()) != key


def share(rank: int, folder: Path, port: int, results: multiprocessing.Queue) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = make_base()
    counter = Counter()
    found = run(model, make_items(20), cache_dir=folder, rank=rank, n_ranks=2)
    results.put((rank, counter.rows, found.logps))


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=share, args=(rank, tmp_path, port, results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=20)
    assert sorted(rank for rank, _, _ in found) == [0, 1]
    assert sum(n for _, n, _ in found) == 20 and min(n for _, n, _ in found) > 0
    expected = run(make_base(), make_items(20)).logps
    for _, _, logps in found:
        np.testing.assert_allclose(logps, expected, atol=1e-5)
