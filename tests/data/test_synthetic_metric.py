"""People of a planted metric: distances by hand, subspaces, noise, and what is refused."""

import numpy as np
import pytest

from palign.data.synthetic_metric import MetricPopulation, make_metric_population


def test_utility_by_hand() -> None:
    """M = diag(1, 4), point (1, 0): to (0, 1) it is 1 + 4 = 5, to (3, 0) it is 4."""
    people = MetricPopulation(
        np.array([[0, 1], [3, 0]], dtype=np.float32), np.diag([1.0, 4.0]), np.array([[1.0, 0.0]]), np.array([-1, -1])
    )
    assert people.utilities(np.array([0, 0]), np.array([0, 1])).tolist() == [-5, -4]


def test_the_metric_has_the_rank_and_sharpness_that_are_asked_for() -> None:
    people = make_metric_population(n_annotators=5, dim=6, rank=2, sharpness=3.0, seed=0)
    values = np.linalg.eigvalsh(people.metric)
    assert (values > 1e-9).sum() == 2 and values.sum() == pytest.approx(18)


def test_choices_without_noise_follow_the_metric_and_noise_turns_some_round() -> None:
    people = make_metric_population(n_annotators=50, dim=3, sharpness=2.0, seed=1)
    clean = people.comparisons(40, seed=2, noisy=False)
    person = clean.annotators().indices(clean.annotator_ids)
    gap = people.utilities(person, clean.item_indices[:, 0]) - people.utilities(person, clean.item_indices[:, 1])
    assert (gap > 0).all()
    np.testing.assert_allclose(clean.columns["margin"].astype(float), gap, rtol=1e-6)
    margin = people.comparisons(40, seed=2).columns["margin"].astype(float)
    turned = float((margin < 0).mean())
    assert turned == pytest.approx(float((1 / (1 + np.exp(np.abs(margin)))).mean()), abs=0.03) and turned > 0.1


def test_everybody_is_asked_within_one_subspace() -> None:
    people = make_metric_population(n_annotators=30, dim=4, n_subspaces=5, n_items=50, seed=0)
    for number in range(5):
        assert np.linalg.matrix_rank(people.items[people.subspaces == number].astype(float), tol=1e-5) == 2
    rows = people.comparisons(6, seed=1)
    asked = people.subspaces[rows.item_indices].reshape(30, 12)
    assert (asked == asked[:, :1]).all() and len(np.unique(asked)) > 2
    assert (rows.item_indices[:, 0] != rows.item_indices[:, 1]).all()


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ValueError, match="rank=9"):
        make_metric_population(n_annotators=2, dim=4, rank=9, seed=0)
    with pytest.raises(ValueError, match="n_subspaces=60"):
        make_metric_population(n_annotators=2, dim=4, n_subspaces=60, n_items=100, seed=0)
