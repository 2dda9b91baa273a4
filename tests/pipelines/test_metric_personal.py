"""Own quadratic terms: taken where people measure differently, left out where they do not; baselines by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from palign.data.synthetic_metric import make_metric_population
from palign.functional.metric.comparisons import Comparisons
from palign.functional.metric.fit import MetricFit, fit_metric
from palign.pipelines.metric_baselines import BASELINES, fit_baseline, quadratic_features
from palign.pipelines.metric_personal import PersonalTerms, choose_personal
from tests.worlds.metric import pairs_of


def terms(pairs: Comparisons) -> tuple[PersonalTerms | None, MetricFit]:
    def refit(part: Comparisons) -> MetricFit:
        return fit_metric(part, strengths=(0.3, 0.3), tolerance=1e-3)

    fit = refit(pairs)
    precision = 0.3 * torch.eye(pairs.dim, dtype=torch.float64)
    return choose_personal(pairs, torch.arange(len(pairs)), fit, refit, lambda _: precision), fit


def test_people_of_one_metric_get_none() -> None:
    people = make_metric_population(n_annotators=20, dim=2, n_items=40, sharpness=3.0, seed=0)
    assert terms(pairs_of(people, people.comparisons(30, seed=1)))[0] is None


def test_people_who_measure_oppositely_get_their_own_terms() -> None:
    """Half of the people like what is far along the first coordinate, half what is near: ± diag(3, 0)."""
    people = make_metric_population(n_annotators=20, dim=2, n_items=40, seed=0)
    rng, rows = np.random.default_rng(0), people.comparisons(40, seed=1)
    pairs = pairs_of(people, rows)
    items = torch.from_numpy(rng.normal(size=(40, 2)))
    likes = torch.where(pairs.person % 2 == 0, 1.0, -1.0)
    gain = likes * 3 * (items[pairs.winner, 0] ** 2 - items[pairs.loser, 0] ** 2)
    swap = gain < 0
    winner, loser = torch.where(swap, pairs.loser, pairs.winner), torch.where(swap, pairs.winner, pairs.loser)
    pairs = replace(pairs, items=items, winner=winner, loser=loser)
    found, fit = terms(pairs)
    assert found is not None and found.gain[0] > 2 * found.gain[1]
    whole = fit.metric + found.squares  # of a person; rewards are minus its form
    assert (whole[0::2, 0, 0] < 0).all() and (whole[1::2, 0, 0] > 0).all()
    torch.testing.assert_close(found.squares, found.squares.mT)


def test_quadratic_features_have_the_inner_product_of_matrices() -> None:
    x, y = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, -1.0]]).double()
    features = (quadratic_features(x) * quadratic_features(y)).sum()
    assert float(features) == pytest.approx(1 + 1)  # x · y = 1, and its square


@pytest.mark.parametrize("name", list(BASELINES))
def test_baselines_order_what_they_were_shown(name: str) -> None:
    people = make_metric_population(n_annotators=6, dim=2, n_items=20, seed=0, sharpness=30.0)
    people.points[:] = [3.0, 0.0]  # all want more of the first
    pairs = pairs_of(people, people.comparisons(20, seed=1))
    base = fit_baseline(name, pairs, torch.arange(len(pairs)), seed=0)
    points = pairs.items[torch.stack([pairs.winner, pairs.loser], 1)]
    scores = base.scores(points, pairs.person)
    assert float((scores[:, 0] > scores[:, 1]).double().mean()) > 0.85
    stranger = base.scores(points[:1], torch.tensor([-1]))
    assert name == "pooled" or stranger.tolist() == [[0, 0]]
