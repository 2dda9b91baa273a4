"""Fits of heads over vectors: a known truth is recovered, and every kind of row and population trains."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.data.synthetic import GaussianPopulation, make_gaussian_population
from palign.models.pal import PALRewardModel
from palign.models.pal_config import PALConfig
from palign.models.people_fit import fit_people
from palign.models.people_weights import AnnotatorWeights
from palign.models.row_tensors import RowTensors
from palign.trainers.reward.head_fit import HeadFitOptions, fit_head
from palign.trainers.reward.trial import fit_fresh_head, standardize
from tests.worlds.reward_models import HIDDEN, SMALL, vector_model, vector_rows, vectors

LINEAR = {"n_layers": 1, "preference_dim": 10}
GAUSSIAN = HeadFitOptions(epochs=30, weight_decay=1e-3, annotator_prior=0.05)


def tensors(population: GaussianPopulation, rows: Preferences) -> RowTensors:
    index = AnnotatorIndex(population.annotator_ids)
    return RowTensors.of(rows, index.indices(rows.annotator_ids), population.items)


def accuracy(head: torch.nn.Module, weights: torch.Tensor, data: RowTensors) -> float:
    with torch.no_grad():
        scores = head(data.states(slice(None))[0], weights[data.annotator_index])
    return float((scores[:, 0] > scores[:, 1]).float().mean())


@pytest.fixture(scope="module")
def recovered() -> tuple[GaussianPopulation, torch.nn.Module, AnnotatorWeights]:
    """The Gaussian table's first row (two types), 300 noiseless pairs each."""
    population = make_gaussian_population(n_types=2, seed=0)
    data = tensors(population, population.comparisons(300, seed=1))
    head, people, _ = fit_fresh_head(PALConfig(10, 2, **LINEAR), data, 50, GAUSSIAN, seed=0)
    return population, head, people


def test_two_types_are_recovered(recovered: tuple) -> None:
    population, head, people = recovered
    test = tensors(population, population.comparisons(200, seed=2))
    assert accuracy(head, people.all(), test) >= 0.97
    largest = people.all().argmax(1).numpy()
    assert max((largest == population.types).mean(), (largest != population.types).mean()) == 1.0


def test_one_prototype_is_not_enough_for_two_types(recovered: tuple) -> None:
    population = recovered[0]
    data = tensors(population, population.comparisons(100, seed=1))
    head, people, _ = fit_fresh_head(PALConfig(10, 1, **LINEAR), data, 50, GAUSSIAN, seed=0)
    assert accuracy(head, people.all(), tensors(population, population.comparisons(200, seed=2))) < 0.88


@pytest.mark.parametrize(("n", "reached"), [(2, 0.83), (5, 0.91), (20, 0.95)])
def test_newcomers_are_placed_by_a_few_answers(recovered: tuple, n: int, reached: float) -> None:
    """Convex MAP of the reference table less its noise: .852, .926, .971."""
    population, head, people = recovered
    new = population.newcomers(200, seed=3)
    place, judge = (tensors(new, new.comparisons(rows, seed=seed)) for rows, seed in ((n, 4), (50, 5)))
    fit = fit_people(head, people, place, 200, method="posterior")
    assert accuracy(head, fit.weights, judge) >= reached


def test_posterior_of_five_answers_matches_twenty_of_the_official_schedule(recovered: tuple) -> None:
    population, head, people = recovered
    new = population.newcomers(200, seed=6)
    judge = tensors(new, new.comparisons(50, seed=7))
    found = {}
    for method, n in (("posterior", 5), ("map", 20), ("official", 20)):
        place = tensors(new, new.comparisons(n, seed=8))
        found[method] = accuracy(head, fit_people(head, people, place, 200, method=method).weights, judge)
    assert found["posterior"] >= found["official"] - 0.015
    assert found["map"] >= 0.9


def test_more_prototypes_than_types_lose_nothing(recovered: tuple) -> None:
    population = recovered[0]
    data = tensors(population, population.comparisons(300, seed=1))
    head, people, _ = fit_fresh_head(PALConfig(10, 5, **LINEAR), data, 50, GAUSSIAN, seed=0)
    assert accuracy(head, people.all(), tensors(population, population.comparisons(200, seed=2))) >= 0.965


def test_people_of_one_taste_lose_nothing_by_four_prototypes() -> None:
    population = make_gaussian_population(n_types=1, n_annotators=30, seed=0)
    data = tensors(population, population.comparisons(30, seed=1, beta=6.0))
    judge = tensors(population, population.comparisons(100, seed=2))
    found = {}
    for k in (1, 4):
        head, people, _ = fit_fresh_head(PALConfig(10, k, **SMALL), data, 30, HeadFitOptions(), seed=0)
        fit = fit_people(head, people, data, 30, method="posterior")
        found[k] = accuracy(head, fit.weights, judge)
    assert found[4] >= found[1] - 0.02


def ranked_rows(n: int, *, ranks: list[int], seed: int = 0) -> Preferences:
    """Items in the order of their first coordinate, best first, with these ranks."""
    table, rng = vectors(40), np.random.default_rng(seed)
    drawn = np.stack([rng.choice(40, size=len(ranks), replace=False) for _ in range(n)])
    drawn = np.take_along_axis(drawn, np.argsort(-table[drawn, 0], axis=1), axis=1)
    return Preferences(
        annotator_ids=np.array([f"p{i % 5}" for i in range(n)], dtype=object),
        item_indices=drawn.astype(np.int64),
        ranks=np.tile(np.array(ranks, dtype=np.int16), (n, 1)),
        prompt_indices=np.arange(n) % 40,
    )


@pytest.mark.parametrize("loss_type", ["logistic", "hinge"])
@pytest.mark.parametrize("ranks", [[0, 1], [0, 1, 1, 1], [0, 1, 2, 3], [0, 0, 1, 2], [0, 1, 2, 2]])
@pytest.mark.parametrize("variant", ["fixed", "prompt"])
def test_every_kind_of_row_and_loss_trains(variant: str, ranks: list[int], loss_type: str) -> None:
    model = vector_model(variant=variant, dropout=0.1)
    data = model.row_tensors(ranked_rows(300, ranks=ranks), vectors(40))
    losses: list[float] = []
    options = HeadFitOptions(epochs=25, batch_size=64, loss_type=loss_type)
    last = fit_head(model.head, model.people, data, options, seed=0, on_epoch=lambda _, loss: losses.append(loss))
    assert len(losses) == 25 and last == losses[-1] < 0.75 * losses[0]
    assert not model.head.training and not model.people.training
    with torch.no_grad():
        items, prompts = data.states(slice(None))
        scores = model.head(items, model.people(data.annotator_index), prompts)
    assert float((scores[:, 0] > scores[:, -1]).float().mean()) > 0.9


def test_rows_of_several_lengths_do_not_feel_their_padding() -> None:
    model = vector_model(dropout=0.0)
    rows = [
        {"annotator_id": "p0", "completion_indices": [3, 1, 2]},
        {"annotator_id": "p1", "chosen_index": 4, "rejected_index": 5},
    ]
    table = vectors(9)
    table[0] = np.nan  # nobody names item 0: padding must not either
    both = Preferences.from_rows(rows, embeddings=9)
    options = HeadFitOptions(epochs=3, batch_size=2)
    fit_head(model.head, model.people, model.row_tensors(both, table), options, seed=0)
    assert all(p.isfinite().all() for p in model.parameters())


def fitted(options: HeadFitOptions, *, sparse: bool, n_annotators: int = 5) -> PALRewardModel:
    model = vector_model(dropout=0.0, n_annotators=n_annotators)
    model.people.logits.sparse = sparse
    data = model.row_tensors(vector_rows(200, n_vectors=40), vectors(40))
    fit_head(model.head, model.people, data, options, seed=0)
    return model


def test_sparse_gradients_give_what_dense_ones_do() -> None:
    """Everybody is in every batch here, so that Adam's running means see the same gradients."""
    options = HeadFitOptions(epochs=4, batch_size=100)
    dense, sparse = (fitted(options, sparse=flag) for flag in (False, True))
    torch.testing.assert_close(sparse.people.all(), dense.people.all(), atol=2e-3, rtol=0)
    asked = (None, vectors(10, seed=9), [f"p{i % 5}" for i in range(10)])
    torch.testing.assert_close(sparse.score(*asked), dense.score(*asked), atol=2e-2, rtol=2e-2)


def test_sparse_gradients_leave_people_without_rows_where_they_are() -> None:
    before = vector_model(dropout=0.0, n_annotators=8).people.logits.weight[5:].clone()
    model = fitted(HeadFitOptions(epochs=4, batch_size=100), sparse=True, n_annotators=8)
    assert torch.equal(model.people.logits.weight[5:], before)
    assert not torch.equal(model.people.logits.weight[:5], vector_model(n_annotators=8).people.logits.weight[:5])


def test_prior_draws_people_together() -> None:
    spreads = [
        fitted(HeadFitOptions(epochs=20, annotator_prior=prior), sparse=False).people.all().std(0).mean().item()
        for prior in (0.0, 1.0, 100.0)
    ]
    assert spreads[0] > spreads[1] > spreads[2]


def test_outliers_end_the_fit_with_advice() -> None:
    model = vector_model(dropout=0.0)
    data = model.row_tensors(vector_rows(50, n_vectors=40), vectors(40) * np.float32(1e30))
    with pytest.raises(RuntimeError, match="epoch 1 .* head_learning_rate"):
        fit_head(model.head, model.people, data, HeadFitOptions(epochs=2), seed=0)


def test_same_seed_same_head_whatever_was_drawn_before() -> None:
    model = vector_model()
    data, config = model.row_tensors(vector_rows(60, n_vectors=40), vectors(40)), PALConfig(HIDDEN, 2, **SMALL)
    options, heads = HeadFitOptions(epochs=2, batch_size=16), []
    for seed in (0, 0, 1):
        torch.rand(7)
        heads.append(fit_fresh_head(config, data, 5, options, seed=seed)[0].f[0].weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_standardisation_reads_the_items_that_rows_name() -> None:
    model, table = vector_model(variant="prompt"), vectors(40)
    table[20:] += 1000
    rows = vector_rows(200, n_vectors=20, n_prompts=10)
    standardize(model.head, model.row_tensors(rows, table))
    named = np.unique(rows.item_indices)
    np.testing.assert_allclose(model.head.standardize.center, table[named].mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        model.head.standardize_prompt.center, table[np.unique(rows.prompt_indices)].mean(0), rtol=1e-4
    )


def test_options_are_not_shared_between_fits() -> None:
    options = HeadFitOptions(epochs=1)
    kept = copy.deepcopy(options)
    fitted(options, sparse=False)
    assert options == kept and dataclasses.is_dataclass(options)
