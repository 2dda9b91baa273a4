"""How many prototypes: as many as strangers need, no more."""

import pytest
import torch

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.data.synthetic import make_gaussian_population
from palign.models.pal_config import PALConfig
from palign.models.row_tensors import RowTensors
from palign.trainers.reward.head_fit import HeadFitOptions
from palign.trainers.reward.prototype_count import PrototypeChoice, _one_standard_error, choose_n_prototypes

FAST = HeadFitOptions(epochs=15)


def chosen(
    n_types: int, *, seed: int = 0, n_annotators: int = 60, candidates: tuple = (1, 2, 3, 4)
) -> PrototypeChoice:
    population = make_gaussian_population(n_types=n_types, n_annotators=n_annotators, seed=seed)
    rows = population.comparisons(60, seed=seed + 1, beta=8.0)
    index = AnnotatorIndex(population.annotator_ids).indices(rows.annotator_ids)
    data = RowTensors.of(rows, index, population.items)
    config = PALConfig(10, 1, preference_dim=16, inner_size=32)
    return choose_n_prototypes(data, config, FAST, candidates=candidates, seed=seed, show_progress=False)


def test_one_taste_needs_one_prototype() -> None:
    assert chosen(1).n_prototypes == 1


def test_three_types_need_three() -> None:
    choice = chosen(3)
    assert choice.n_prototypes in (3, 4)
    table = {row["n_prototypes"]: row for row in choice.table}
    assert list(table) == [1, 2, 3, 4]
    assert table[1]["log_likelihood"] < table[2]["log_likelihood"] < table[3]["log_likelihood"]
    assert table[1]["accuracy"] + 0.05 < table[3]["accuracy"]


def test_same_seed_same_choice() -> None:
    runs = [chosen(2, n_annotators=24, candidates=(1, 2)) for _ in range(2)]
    assert runs[0] == runs[1]


def few_rows(n_annotators: int, n_rows: int) -> RowTensors:
    population = make_gaussian_population(n_types=2, n_annotators=n_annotators, seed=0)
    rows = population.comparisons(n_rows, seed=1)
    return RowTensors.of(rows, rows.annotators().indices(rows.annotator_ids), population.items)


@pytest.mark.parametrize(("n_annotators", "n_rows"), [(15, 10), (100, 1), (2, 500)])
def test_too_few_people_or_answers_are_an_error(n_annotators: int, n_rows: int) -> None:
    with pytest.raises(ValueError, match="Give a number"):
        choose_n_prototypes(few_rows(n_annotators, n_rows), PALConfig(10, 1), FAST, show_progress=False)


def test_candidates_are_never_more_than_people_trained_on() -> None:
    choice = choose_n_prototypes(
        few_rows(16, 4), PALConfig(10, 1), HeadFitOptions(epochs=1), candidates=(1, 12, 13), show_progress=False
    )
    assert [row["n_prototypes"] for row in choice.table] == [1, 12]


def test_one_standard_error_by_hand() -> None:
    """K = 2 is .1 below K = 3 with paired differences (0, .2, 0, .2): error .1155 / 2 = .0577 < .1, so K = 3."""
    best = torch.tensor([-0.5, -0.4, -0.5, -0.4])
    clear, near = best - torch.tensor([0.0, 0.2, 0.0, 0.2]), best - torch.tensor([0.0, 0.4, 0.0, -0.2])
    table = [{"n_prototypes": 1}, {"n_prototypes": 2}, {"n_prototypes": 3}]

    def of_two_answers(mean: torch.Tensor) -> torch.Tensor:
        return torch.stack([2 * mean, torch.ones_like(mean), torch.full_like(mean, 2.0)], 1)

    choice = _one_standard_error(table, [of_two_answers(mean) for mean in (best - 1, clear, best)])
    assert choice.n_prototypes == 3
    assert choice.table[1]["standard_error"] == pytest.approx(0.11547 / 2, abs=1e-4)
    near_best = [of_two_answers(mean) for mean in (best - 1, near, best)]
    # mean .05, deviation .2517, error .126: within one standard error, so the smaller K is taken
    assert _one_standard_error([dict(row) for row in table], near_best).n_prototypes == 2


def test_rankings_and_text_like_rows_choose_too() -> None:
    population = make_gaussian_population(n_types=1, n_annotators=20, seed=0)
    rows = population.rankings(8, seed=1)
    assert isinstance(rows, Preferences)
    data = RowTensors.of(rows, rows.annotators().indices(rows.annotator_ids), population.items)
    choice = choose_n_prototypes(
        data, PALConfig(10, 1), HeadFitOptions(epochs=3), candidates=(1, 2), show_progress=False
    )
    assert choice.n_prototypes in (1, 2) and 0.25 < choice.table[0]["accuracy"] <= 1


def test_a_likelier_number_that_is_less_accurate_gives_way_to_one() -> None:
    def of_two_answers(mean: float, right: float) -> torch.Tensor:
        spread = torch.tensor([-0.1, 0.1, -0.1, 0.1])
        return torch.stack([2 * mean + 0.1 * spread, 2 * right + 0.1 * spread, torch.full((4,), 2.0)], 1)

    table = [{"n_prototypes": 1}, {"n_prototypes": 2}]
    pairs = [of_two_answers(-0.6, 0.70), of_two_answers(-0.4, 0.60)]
    assert _one_standard_error(table, pairs).n_prototypes == 1
    assert _one_standard_error(table, [pairs[0], of_two_answers(-0.4, 0.75)]).n_prototypes == 2
