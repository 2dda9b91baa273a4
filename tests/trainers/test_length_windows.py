"""Rows of like length in a batch, and still every row once in a drawn order."""

import numpy as np

from palign.trainers.length_windows import WINDOW, LengthWindows


def test_every_row_once_in_an_order_of_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(5, 90, size=103)
    sampler = LengthWindows(lengths, 4, seed=3)
    first = list(sampler)
    assert len(sampler) == 103 and sorted(first) == list(range(103))
    assert list(sampler) == first == list(LengthWindows(lengths, 4, seed=3))
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first and sorted(second) == list(range(103))
    assert list(LengthWindows(lengths, 4, seed=4)) != first


def test_batches_are_of_like_length_and_length_does_not_go_with_time() -> None:
    lengths = np.random.default_rng(1).integers(1, 200, size=40 * WINDOW * 8)
    in_order = lengths[list(LengthWindows(lengths, 8, seed=0))].reshape(-1, 8)
    spread = (in_order.max(1) - in_order.min(1)).mean()
    # 64 numbers drawn from 1…199 and sorted: neighbours are 3 apart, so eight of them span about 22; eight drawn, 155
    assert spread < 35
    assert abs(np.corrcoef(np.arange(len(in_order)), in_order.mean(1))[0, 1]) < 0.2


def test_what_is_left_over_is_the_last_batch() -> None:
    lengths = np.arange(11)
    order = list(LengthWindows(lengths, 4, seed=0))
    assert order[8:] == [2, 1, 0]  # the shortest; the two full batches are 10…7 and 6…3
    assert {frozenset(order[:4]), frozenset(order[4:8])} == {frozenset((10, 9, 8, 7)), frozenset((6, 5, 4, 3))}
