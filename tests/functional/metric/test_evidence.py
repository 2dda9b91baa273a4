"""What answers can say of a metric: counts by hand, and that what is not determined is not."""

import numpy as np
import pytest

from palign.data.synthetic_metric import MetricPopulation, make_metric_population
from palign.functional.metric.evidence import MetricEvidence, effective_basis, metric_evidence


def counted(people: MetricPopulation, n_rows: int) -> MetricEvidence:
    rows = people.comparisons(n_rows, seed=1)
    person = rows.annotators().indices(rows.annotator_ids)
    items = people.items.astype(float)
    return metric_evidence(items, rows.item_indices[:, 0], rows.item_indices[:, 1], person)


@pytest.mark.parametrize(
    ("n_people", "n_rows", "case", "n_equations", "rank"),
    [(50, 4, "nothing", 0, 0), (3, 6, "part", 6, 6), (50, 6, "general", 100, 10)],
)
def test_in_general_position_answers_beyond_the_dimensions_count(
    n_people: int, n_rows: int, case: str, n_equations: int, rank: int
) -> None:
    """Four dimensions: a metric has 10 numbers, and each person's point takes up 4 answers."""
    found = counted(make_metric_population(n_annotators=n_people, dim=4, n_items=40, seed=0), n_rows)
    assert (found.case, found.n_unknown, found.n_equations, found.rank) == (case, 10, n_equations, rank)


def test_in_planes_a_person_leaves_answers_over_after_two() -> None:
    """Four answers in a plane: two are left, so two hundred from a hundred people; seven planes and more span all of
    the ten quadratic forms of four dimensions."""
    people = make_metric_population(n_annotators=100, dim=4, n_subspaces=8, n_items=80, seed=0)
    found = counted(people, 4)
    assert (found.case, found.n_equations, found.rank, found.share_above) == ("subspaces", 200, 10, 0.0)
    few = counted(make_metric_population(n_annotators=100, dim=4, n_subspaces=2, n_items=80, seed=0), 4)
    assert (few.case, few.rank) == ("subspaces", 6)  # two planes: three numbers each


def test_a_metric_in_the_null_space_of_the_equations_gives_the_same_answers() -> None:
    """Two planes leave four of ten numbers open: another metric, with other points, orders all pairs alike."""
    people = make_metric_population(n_annotators=5, dim=4, n_subspaces=2, n_items=20, seed=0)
    bases = [np.linalg.svd(people.items[people.subspaces == s], full_matrices=False)[2][:2] for s in (0, 1)]
    rng = np.random.default_rng(0)
    other = rng.normal(size=(4, 4))
    other = other + other.T
    # take out what shows in either plane
    forms = np.array([np.outer(a, b) + np.outer(b, a) for basis in bases for a in basis for b in basis]).reshape(8, 16)
    flat = other.ravel() - np.linalg.pinv(forms) @ (forms @ other.ravel())
    other = flat.reshape(4, 4)
    assert np.abs(other).max() > 0.1
    assert max(np.abs(basis @ other @ basis.T).max() for basis in bases) < 1e-5


def test_directions_that_items_do_not_take_are_left_out() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 20)) + 5
    assert effective_basis(flat).shape == (20, 3)
