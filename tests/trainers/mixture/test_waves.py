"""Rows are read in waves until no further row could change who belongs where."""

import math

import pytest
import torch

from palign.functional.mixture import responsibilities
from palign.trainers.mixture.waves import FIRST_WAVE, Evidence, RowSums, first_cells, read_in_waves

NAN = float("nan")


class Reader:
    """A table of log-likelihoods that counts what is read of it."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table, self.read = table, torch.zeros(table.shape, dtype=torch.bool)

    def __call__(self, asked: torch.Tensor) -> torch.Tensor:
        assert not bool((asked & self.read).any())  # nothing twice
        self.read |= asked
        return torch.stack([self.table, -self.table], 1)


def world(n_people: int, n_each: int, gain: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rows, 4) log-likelihoods, the person of each row, and everybody's type; a row says `gain` nats for the type."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(n_people).repeat_interleave(n_each)
    types = torch.randint(4, (n_people,), generator=generator)
    table = -1 + 0.3 * torch.randn(len(index), 4, generator=generator, dtype=torch.float64)
    table[torch.arange(len(index)), types[index]] += gain
    return table, index, types


def run(table: torch.Tensor, index: torch.Tensor, evidence: Evidence, n_most: int = 0) -> tuple[torch.Tensor, Reader]:
    reader = Reader(table)
    nothing = torch.full((len(table), 2, table.shape[1]), NAN, dtype=torch.float64)
    known = read_in_waves(
        reader, nothing, torch.full((len(table),), -math.log(2)), index, torch.ones(len(table)), evidence,
        n_most=n_most, seed=3,
    )  # fmt: skip
    assert torch.equal(~torch.isnan(known[:, 0]), reader.read)
    return known, reader


def evidence_of(n_people: int, weight: float = 1.0, tolerance: float = 0.01) -> Evidence:
    return Evidence(torch.full((n_people, 4), math.log(0.25), dtype=torch.float64), weight, tolerance)


def test_known_rows_stand_for_all_by_hand() -> None:
    by_row = torch.tensor([[-1.0, -2.0], [NAN, -1.0], [-3.0, -4.0], [-0.5, -0.25]], dtype=torch.float64)
    index, weights = torch.tensor([0, 0, 0, 1]), torch.ones(4, dtype=torch.float64)
    sums = RowSums.of(by_row, torch.full((4,), -0.5, dtype=torch.float64), index, 2, weights)
    # gains over the reference: person 0 (−.5 − 2.5) / 2 a row under type 0, (−1.5 − .5 − 3.5) / 3 under type 1
    expected = torch.tensor([[-1.5 + 3 * -1.5, -7.0], [-0.5, -0.25]], dtype=torch.float64)
    torch.testing.assert_close(sums.totals, expected)
    assert sums.n_read.tolist() == [[2, 3], [1, 1]]
    # where both were read (rows 0, 2) type 0 lies 1 above and 1 below its mean, type 1 as below
    away_0, away_1 = torch.tensor([1.0, -1.0]), torch.tensor([-2.0 + 7 / 3, -1.0 + 7 / 3, -4.0 + 7 / 3])
    scatter = 2 / 1 + float(away_1.square().sum()) / 2 - 2 * float(away_0 @ away_1[[0, 2]]) / 1
    assert float(sums.scatter[0, 1]) == pytest.approx(scatter)
    # of type 0 against type 1: one unread row of three, two read
    errors = sums.errors(torch.tensor([[1], [1]]))
    assert errors[:, 0].tolist() == pytest.approx([math.sqrt(scatter * 1 * 3 / 2), 0.0])


def test_a_row_counts_for_its_weight() -> None:
    by_row = torch.tensor([[-1.0], [-3.0], [-2.0]], dtype=torch.float64)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    sums = RowSums.of(by_row, torch.zeros(3, dtype=torch.float64), torch.tensor([0, 0, 1]), 2, weights)
    torch.testing.assert_close(sums.totals, torch.tensor([[-2.5], [-4.0]], dtype=torch.float64))


def test_tolerance_0_reads_every_row_once_up_to_the_limit() -> None:
    table, index, _ = world(6, 7, 1.0)
    _, reader = run(table, index, evidence_of(6, tolerance=0.0))
    assert bool(reader.read.all())
    _, reader = run(table, index, evidence_of(6, tolerance=0.0), n_most=3)
    assert torch.bincount(index[reader.read.all(1)]).tolist() == [3] * 6
    assert int(reader.read.sum()) == 3 * 6 * 4


def test_sure_people_are_read_little_and_placed_as_by_all_rows() -> None:
    table, index, types = world(100, 40, 0.8)
    known, reader = run(table, index, evidence_of(100))
    assert float(reader.read.double().mean()) < 0.4  # types are sure after 6 to 10 rows of 40
    sums = RowSums.of(known[:, 0], torch.full((len(table),), -math.log(2)), index, 100, torch.ones(len(table)))
    whole = torch.zeros(100, 4, dtype=torch.float64).index_add(0, index, table)
    found, asked = (responsibilities(part, torch.full((4,), 0.25)) for part in (sums.totals, whole))
    assert torch.equal(found.argmax(1), types)
    torch.testing.assert_close(found, asked, atol=0.05, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_people_between_types_are_read_to_the_end(seed: int) -> None:
    table, index, _ = world(20, 12, 0.0, seed)
    table[:, 2:] -= 3  # two types far behind
    known, reader = run(table, index, evidence_of(20))
    by_type = reader.read.double().mean(0)
    assert by_type[:2].min() > 0.8 and by_type[2:].max() < 0.5
    sums = RowSums.of(known[:, 0], torch.full((len(table),), -math.log(2)), index, 20, torch.ones(len(table)))
    whole = torch.zeros(20, 4, dtype=torch.float64).index_add(0, index, table)
    found, asked = (responsibilities(part, torch.full((4,), 0.25)) for part in (sums.totals, whole))
    torch.testing.assert_close(found, asked, atol=0.05, rtol=0)


def test_where_the_adapters_word_is_small_the_first_wave_is_enough() -> None:
    table, index, _ = world(10, 30, 0.5)
    _, reader = run(table, index, evidence_of(10, weight=1e-3))
    assert int(reader.read.sum()) == FIRST_WAVE * 10 * 4


def test_what_moves_a_responsibility_by_hand() -> None:
    # three people at 0, 1 and 4 nats behind the first type; standard errors of .5 are granted twice, so 1 nat:
    # σ(1) − σ(0) = .231, σ(0) − σ(−1) = .231, σ(−3) − σ(−4) = .029
    before = torch.tensor([[0.0, 0.0], [0.0, -1.0], [0.0, -4.0]], dtype=torch.float64)
    half, everybody = torch.full((3, 2), 0.5, dtype=torch.float64), torch.ones(3, 2, dtype=torch.bool)
    for tolerance, expected in ((0.23, [True, True, False]), (0.24, [False] * 3), (0.02, [True] * 3)):
        is_open = Evidence(before, 1.0, tolerance).open_cells(everybody, torch.zeros(3, 2), lambda best: half)
        assert is_open.tolist() == [[held, held] for held in expected]  # whoever is compared is read, too
    assert not bool(Evidence(before, 0.0, 0.01).open_cells(everybody, torch.zeros(3, 2), lambda best: half / 0).any())
    # a rival that was left out stays out, and with it whom it was compared with
    left = torch.tensor([[True, False], [True, True], [False, True]])
    is_open = Evidence(before, 1.0, 0.02).open_cells(left, torch.zeros(3, 2), lambda best: half)
    assert is_open.tolist() == [[False, False], [True, True], [True, True]]


def test_before_reading_people_are_judged_by_what_training_saw() -> None:
    # type 0 was seen .1 above and .3 below the reference: rows go √.05 = .224; type 1 was not seen: as loud.
    # four rows, each counting for a half, may move 2 · √(2 · .05) = .632 nats, granted twice
    index, weights = torch.tensor([0] * 4 + [1] * 4), torch.full((8,), 0.5, dtype=torch.float64)
    baseline = torch.full((8,), -0.7, dtype=torch.float64)
    seen = torch.full((8, 2), NAN, dtype=torch.float64)
    seen[2, 0], seen[5, 0] = -0.6, -1.0
    before = torch.tensor([[0.0, -1.0], [-5.0, 0.0]], dtype=torch.float64)
    move = 1 / (1 + math.exp(1 - 2 * 0.4**0.5)) - 1 / (1 + math.e)  # of the first; of the second .016
    for tolerance, is_open in ((move - 1e-3, True), (move + 1e-3, False)):
        cells = first_cells(Evidence(before, 1.0, tolerance), seen, baseline, index, weights)
        assert cells.tolist() == [[is_open] * 2, [False] * 2]
    for tolerance, held in ((0.0, seen), (0.9, torch.full_like(seen, NAN))):  # all are asked for, or nothing is known
        assert bool(first_cells(Evidence(before, 1.0, tolerance), held, baseline, index, weights).all())


def test_people_whom_young_adapters_cannot_move_are_not_read() -> None:
    table, index, types = world(30, 8, 0.0)
    table = -math.log(2) + 0.05 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1)).double()
    before = torch.full((30, 4), -6.0, dtype=torch.float64)
    before[torch.arange(30), types] = 0.0
    before[0] = 0.0  # nobody knows where the first belongs
    reader = Reader(table)
    read_in_waves(
        reader, torch.full((len(table), 2, 4), NAN).double(), torch.full((len(table),), -math.log(2)), index,
        torch.ones(len(table)), Evidence(before, 1.0, 0.02), seen=table, n_most=0, seed=0,
    )  # fmt: skip
    assert set(index[reader.read.any(1)].tolist()) == {0}


def test_what_is_known_is_not_read() -> None:
    table, index, _ = world(5, 6, 0.2)
    known = torch.stack([table, table], 1)
    known[::2] = NAN
    reader = Reader(table)
    read_in_waves(
        reader, known, torch.zeros(len(table)), index, torch.ones(len(table)), evidence_of(5, tolerance=0.0),
        n_most=0, seed=0,
    )  # fmt: skip
    assert bool(reader.read[::2].all()) and not bool(reader.read[1::2].any())
