"""The convex fit: against another solver, by its gap, on planted metrics, and where it cannot end."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from palign.data.synthetic_metric import make_metric_population
from palign.functional.metric.comparisons import Comparisons, Loss, Parameters
from palign.functional.metric.fit import duality_gap, fit_metric
from palign.functional.metric.points import aligned_error, fit_vectors, ideal_points, people_precision
from palign.functional.metric.regularisers import JointNuclear, Nuclear, Penalty, Ridge, positive_part
from tests.worlds.metric import pairs_of, tiny_pairs

STRENGTHS = {"ridge": (0.5, 0.3), "balls": (1.0, 0.8), "nuclear": (0.7, 0.4), "joint_nuclear": (0.6,)}
LOSSES = {"logistic": lambda m: np.logaddexp(0, -m), "hinge": lambda m: _rounded(np.maximum(1 - m, 0))}


def _rounded(short: np.ndarray) -> np.ndarray:
    return np.where(short < 0.5, short**2, short - 0.25)


def brute_force(pairs: Comparisons, penalty: str, loss: str) -> float:
    """The optimum by a general solver over M = L Lᵀ (L square, so nothing is lost), shared part and people, in "
    "numpy."""
    items, d, n = pairs.items.numpy(), pairs.dim, pairs.n_people
    a, b, person, weight = (x.numpy() for x in (pairs.winner, pairs.loser, pairs.person, pairs.weight))
    s = STRENGTHS[penalty]

    def unpacked(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        root = x[: d * d].reshape(d, d)
        return root @ root.T, x[d * d : d * d + d], x[d * d + d :].reshape(n, d)

    def objective(x: np.ndarray) -> float:
        m, shared, people = unpacked(x)
        if penalty in ("balls", "joint_nuclear"):
            shared = 0 * shared
        reward = [-(items @ m * items).sum(1)[e] - (items[e] * (shared + people)[person]).sum(1) for e in (a, b)]
        value = float((weight * LOSSES[loss](reward[0] - reward[1])).sum())
        if penalty == "ridge":
            return value + (s[0] * (m**2).sum() + s[1] * (people**2).sum() + 0.01 * (shared**2).sum()) / 2
        if penalty == "nuclear":
            return value + s[0] * np.trace(m) + (s[1] * (people**2).sum() + 0.01 * (shared**2).sum()) / 2
        if penalty == "joint_nuclear":
            return value + s[0] * np.linalg.svd(np.hstack([m, people.T]), compute_uv=False).sum()
        return value

    limits = []
    if penalty == "balls":
        limits = [{"type": "ineq", "fun": lambda x: s[0] ** 2 - (unpacked(x)[0] ** 2).sum()}]
        limits += [{"type": "ineq", "fun": lambda x: s[1] ** 2 - (unpacked(x)[2] ** 2).sum(1)}]
    best = np.inf
    for seed in range(3):
        start = 0.3 * np.random.default_rng(seed).normal(size=d * d + d + n * d)
        if limits:
            found = minimize(
                objective, start, method="SLSQP", constraints=limits, options={"maxiter": 500, "ftol": 1e-12}
            )
        else:
            found = minimize(objective, start, method="BFGS", options={"maxiter": 2000, "gtol": 1e-7})
        best = min(best, float(found.fun))
    return best


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("penalty", list(STRENGTHS))
def test_another_solver_finds_nothing_better(penalty: str, loss: str) -> None:
    pairs = tiny_pairs()
    fit = fit_metric(pairs, penalty=penalty, loss=loss, strengths=STRENGTHS[penalty], tolerance=1e-8, max_steps=20_000)
    assert fit.objective == pytest.approx(brute_force(pairs, penalty, loss), abs=2e-4)
    assert 0 <= fit.gap + 1e-9 <= 1e-6
    assert float(torch.linalg.eigvalsh(fit.metric)[0]) >= -1e-9


@pytest.mark.parametrize("penalty", list(Penalty))
def test_the_gap_bounds_how_far_any_point_is_from_the_optimum(penalty: Penalty) -> None:
    pairs = tiny_pairs(seed=3)
    best = fit_metric(pairs, penalty=penalty, strengths=STRENGTHS[penalty.value], tolerance=1e-7, max_steps=20_000)
    for seed in range(5):
        torch.manual_seed(seed)
        root = 0.2 * torch.randn(2, 2, dtype=torch.float64)
        people = 0.2 * torch.randn(2, 2, dtype=torch.float64)
        at = Parameters(root @ root.T, torch.zeros(2, dtype=torch.float64), people)
        objective, gap = duality_gap(pairs, at, Loss.LOGISTIC, penalty.make(STRENGTHS[penalty.value]))
        assert gap >= objective - best.objective - 1e-9


def test_steps_of_single_parts_are_proximal() -> None:
    """By hand: the ridge of a metric diag(3, −1) at step .5 and strength 2 is diag(1.5, 0); trace: diag(2, 0)."""
    at = Parameters(torch.diag(torch.tensor([3.0, -1.0]).double()), torch.ones(2).double(), torch.ones(1, 2).double())
    steps = (0.5, 1.0, torch.ones(1, 1).double())
    ridge, trace = Ridge(2.0, 1.0).prox(at, steps), Nuclear(2.0, 1.0).prox(at, steps)
    torch.testing.assert_close(ridge.metric, torch.diag(torch.tensor([1.5, 0.0]).double()))
    torch.testing.assert_close(trace.metric, torch.diag(torch.tensor([2.0, 0.0]).double()))
    torch.testing.assert_close(ridge.people, torch.full((1, 2), 0.5).double())


def test_a_strong_joint_norm_gives_people_few_directions() -> None:
    people = make_metric_population(n_annotators=40, dim=6, rank=2, n_items=60, seed=0)
    pairs = pairs_of(people, people.comparisons(15, seed=1))
    fit = fit_metric(pairs, penalty="joint_nuclear", strengths=(8.0,), tolerance=1e-4)
    values = torch.linalg.svdvals(torch.cat([fit.metric, fit.vectors.T], 1))
    assert float(values[2]) < 0.02 * float(values[0]) < float(values[1])


def test_a_planted_metric_and_points_are_recovered_from_many_answers() -> None:
    people = make_metric_population(n_annotators=40, dim=3, n_items=80, seed=0, sharpness=6.0)
    truth = torch.from_numpy(people.metric)
    errors, point_errors = [], []
    for n_rows in (10, 300):
        pairs = pairs_of(people, people.comparisons(n_rows, seed=1))
        fit = fit_metric(pairs, strengths=(0.05, 0.05))
        errors.append(aligned_error(fit.metric, truth))
        points = ideal_points(fit.metric, fit.vectors)
        gaps = points - torch.from_numpy(people.points)
        point_errors.append(float(((gaps @ truth) * gaps).sum(1).mean()))
    assert errors[1] < 0.1 < errors[0]
    assert point_errors[1] < 0.25 * point_errors[0]


def test_newcomers_are_placed_where_the_whole_fit_puts_them() -> None:
    """With metric and shared part at their optimum, fitting people alone gives the people of the joint fit."""
    pairs = tiny_pairs(30, n_people=4)
    fit = fit_metric(pairs, strengths=(0.5, 0.3), tolerance=1e-9, max_steps=20_000)
    precision = people_precision(fit, "ridge", (0.5, 0.3))
    placed = fit_vectors(pairs, fit.metric, fit.parameters.shared, precision, tolerance=1e-10)
    torch.testing.assert_close(placed, fit.parameters.people, atol=1e-4, rtol=1e-3)


def test_the_prior_of_newcomers_is_what_a_column_adds_to_the_nuclear_norm() -> None:
    pairs = tiny_pairs(60, dim=2, n_people=20)
    fit = fit_metric(pairs, penalty="joint_nuclear", strengths=(0.2,), tolerance=1e-6)
    precision = people_precision(fit, "joint_nuclear", (0.2,))
    column = torch.tensor([0.02, -0.01], dtype=torch.float64)
    before = JointNuclear(0.2).value(fit.parameters)
    grown = Parameters(fit.metric, fit.parameters.shared, torch.cat([fit.parameters.people, column[None]]))
    added = JointNuclear(0.2).value(grown) - before
    assert float(column @ precision @ column) / 2 == pytest.approx(added, rel=0.02)


def test_ideal_points_by_hand() -> None:
    """M = diag(2, 0): v = (−4, 1) is u = 1 along the first, and 0 along the second, of which nothing is known."""
    metric, vectors = torch.diag(torch.tensor([2.0, 0.0]).double()), torch.tensor([[-4.0, 1.0]]).double()
    torch.testing.assert_close(ideal_points(metric, vectors, softening=1e-4), torch.tensor([[1.0, 0.0]]).double())
    with pytest.raises(ValueError, match="softening"):
        ideal_points(metric, vectors, softening=0)


def test_what_cannot_be_fitted_is_said() -> None:
    pairs = tiny_pairs()
    with pytest.raises(RuntimeError, match="duality gap is .* after|after 5 steps: the duality gap"):
        fit_metric(pairs, penalty="balls", loss="hinge", strengths=(50.0, 50.0), tolerance=1e-12, max_steps=5)
    with pytest.raises(ValueError, match="takes 2 positive numbers"):
        fit_metric(pairs, strengths=(1.0,))
    with pytest.raises(ValueError, match="no pair"):
        fit_metric(pairs.select(torch.zeros(len(pairs), dtype=torch.bool)))


def test_the_positive_part_is_the_nearest_metric() -> None:
    matrix = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double()
    torch.testing.assert_close(positive_part(matrix), torch.full((2, 2), 0.5).double())
