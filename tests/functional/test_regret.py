"""Regret tables and the exact game: answers by hand, exact enumeration of all bases, HiGHS, properties."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from palign.functional.regret import (
    choose_within_budget,
    duality_gap,
    kl_regret_matrix,
    regret_matrix,
    relative_regret_matrix,
    solve_minmax_regret,
    value_bounds,
)
from palign.functional.regret_game import EXACT_LIMIT


def solve_exactly(rows: list[list[Fraction]], right: list[Fraction]) -> list[Fraction] | None:
    """Gauss–Jordan over fractions; None if singular."""
    n = len(rows)
    system = [[*row, b] for row, b in zip(rows, right, strict=True)]
    for c in range(n):
        pivot = next((r for r in range(c, n) if system[r][c] != 0), None)
        if pivot is None:
            return None
        system[c], system[pivot] = system[pivot], system[c]
        system[c] = [x / system[c][c] for x in system[c]]
        for r in range(n):
            if r != c and system[r][c] != 0:
                system[r] = [x - system[r][c] * y for x, y in zip(system[r], system[c], strict=True)]
    return [row[-1] for row in system]


def all_vertices(table: np.ndarray) -> list[tuple[Fraction, Fraction, tuple[Fraction, ...]]]:
    """(value, mean regret, weights) of each vertex of {w in the simplex, v ≥ max(0, R w)}, by trying every basis."""
    m, n = table.shape
    exact = [[Fraction(float(x)) for x in row] for row in table]
    # every inequality as a row a·(w, v) ≥ 0: w_j ≥ 0, v ≥ 0, v − R_i w ≥ 0
    inequalities = [[Fraction(int(i == j)) for j in range(n + 1)] for i in range(n + 1)]
    inequalities += [[*(-x for x in row), Fraction(1)] for row in exact]
    simplex = [*[Fraction(1)] * n, Fraction(0)]
    found = []
    for tight in itertools.combinations(inequalities, n):
        point = solve_exactly([simplex, *tight], [Fraction(1), *[Fraction(0)] * n])
        if point is None or any(sum(a * x for a, x in zip(row, point, strict=True)) < 0 for row in inequalities):
            continue
        w = point[:-1]
        mean = sum(sum(x * y for x, y in zip(row, w, strict=True)) for row in exact) / m
        found.append((point[-1], mean, tuple(w)))
    return found


def random_table(rng: np.random.Generator, most: int) -> np.ndarray:
    """A rectangular table of one of eight kinds, degenerate ones among them."""
    m, n = rng.integers(1, most + 1, 2)
    kind = rng.integers(8)
    table = rng.normal(size=(m, n)) + 0.5
    if kind == 1:
        table = rng.integers(-2, 4, (m, n)).astype(float)  # ties everywhere
    elif kind == 2:
        table = table * 10.0 ** rng.choice([-3, 0, 3], size=(m, 1))  # scales by type
    elif kind == 3:
        table = table * 10.0 ** rng.choice([-3, 3], size=(m, n))  # scales by entry
    elif kind == 4:
        table = table[rng.integers(m, size=m)]  # duplicate rows
    elif kind == 5:
        table = table[:, rng.integers(n, size=n)]  # duplicate columns
    elif kind == 6:
        table = -np.abs(table)  # nobody has any regret
    elif kind == 7:
        table = np.abs(table) * (rng.random((m, n)) < 0.6)  # many zeros
    return table


def by_highs(table: np.ndarray) -> float:
    """The value by another solver, on a table scaled to 1."""
    m, n = table.shape
    unit = np.abs(table).max() or 1.0
    solution = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=np.hstack([table / unit, -np.ones((m, 1))]),
        b_ub=np.zeros(m),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    return solution.fun * unit


def compare_with_enumeration(table: np.ndarray) -> float:
    """Relative error of value, mean regret and, where they are unique, weights."""
    vertices = all_vertices(table)
    value = min(v for v, _, _ in vertices)
    mean = min(u for v, u, _ in vertices if v == value)
    best = {w for v, u, w in vertices if (v, u) == (value, mean)}
    game = solve_minmax_regret(table)
    errors = [abs(game.value - float(value)) / max(float(value), 1e-300)]
    scale = np.abs(table).max() or 1.0
    errors.append(abs(game.regrets.mean().item() - float(mean)) / scale)
    errors.append(
        min(max(abs(float(x) - y) for x, y in zip(w, game.policy_weights.tolist(), strict=True)) for w in best)
    )
    return max(errors)


def test_two_types_closed_form() -> None:
    # w = (a, b)/(a + b) and value ab/(a + b) for R = [[0, a], [b, 0]]: both regrets are a·w_2 = b·w_1
    for a, b in [(1.0, 1.0), (3.0, 1.0), (0.2, 7.0), (1e-3, 1e3)]:
        game = solve_minmax_regret([[0.0, a], [b, 0.0]])
        assert game.policy_weights.tolist() == pytest.approx([a / (a + b), b / (a + b)], rel=1e-10)
        assert game.value == pytest.approx(a * b / (a + b), rel=1e-10)
        # the dual makes both columns cost the same: b·q_2 = a·q_1
        assert game.type_weights.tolist() == pytest.approx([b / (a + b), a / (a + b)], rel=1e-10)


def test_three_types_by_hand() -> None:
    # R_ij = d_i off the diagonal: (1 − w_i) d_i = v for all, so v = 2 / Σ 1/d_i = 2 / (1 + 1/2 + 1/2) = 1
    regrets = torch.tensor([[0.0, 1, 1], [2, 0, 2], [2, 2, 0]])
    game = solve_minmax_regret(regrets)
    assert game.value == pytest.approx(1.0, abs=1e-12)
    assert game.policy_weights.tolist() == pytest.approx([0.0, 0.5, 0.5], abs=1e-12)
    assert game.regrets.tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-12)
    assert game.policy_weights.dtype == game.type_weights.dtype == game.regrets.dtype == torch.float64


def test_importance_multiplies_rows() -> None:
    # importance (1, 3) on [[0, 1], [1, 0]] is the game [[0, 1], [3, 0]]: w = (1/4, 3/4), value 3/4
    game = solve_minmax_regret([[0.0, 1.0], [1.0, 0.0]], type_importance=[1.0, 3.0])
    assert game.policy_weights.tolist() == pytest.approx([0.25, 0.75], abs=1e-12)
    assert game.value == pytest.approx(0.75, abs=1e-12)
    assert game.regrets.tolist() == pytest.approx([0.75, 0.25], abs=1e-12)
    # importance 0: that type is not asked
    assert solve_minmax_regret([[0.0, 1.0], [1.0, 0.0]], type_importance=[1.0, 0.0]).value == 0.0


def test_ties_go_to_the_least_mean_regret() -> None:
    # type 0 loses 1 everywhere; type 1 prefers policy 1: all weights have the value 1, the mean decides
    game = solve_minmax_regret([[1.0, 1.0, 1.0], [0.5, 0.0, 0.75]])
    assert game.value == 1.0 and game.policy_weights.tolist() == [0.0, 1.0, 0.0]
    # nobody has any regret: still the least mean, −(1 + 4)/2
    game = solve_minmax_regret([[-1.0, -2.0, -1.0], [-1.0, -1.0, -4.0]])
    assert game.value == 0.0 and game.policy_weights.tolist() == [0.0, 0.0, 1.0]
    assert game.gap == 0.0


@pytest.mark.parametrize("regret", [2.5, 0.0, -1.0, 1e-300])
def test_one_type_one_policy(regret: float) -> None:
    game = solve_minmax_regret([[regret]])
    assert game.policy_weights.tolist() == [1.0]
    assert game.value == max(0.0, regret) and game.gap == 0.0


def test_one_type_many_policies_and_the_reverse() -> None:
    game = solve_minmax_regret([[0.3, 0.2, 0.7]])
    assert game.policy_weights.tolist() == [0.0, 1.0, 0.0] and game.value == 0.2
    game = solve_minmax_regret([[0.3], [0.9], [-0.1]])
    assert game.value == 0.9 and game.type_weights.tolist() == [0.0, 1.0, 0.0]


def test_types_in_line_give_negative_entries() -> None:
    # h of types (r, 3r, −r) on two responses, uniform reference, r = (1, 0): policies answer the first with
    # σ(1), σ(3), σ(−1), and E_j h_i differs from type to type by slope_i · p_j: R_ij = slope_i (p_i − p_j)
    p = [1 / (1 + math.exp(-s)) for s in (1, 3, -1)]
    regrets = [[slope * (p[i] - p[j]) for j in range(3)] for i, slope in enumerate((1, 3, -1))]
    assert min(map(min, regrets)) < -0.2
    game = solve_minmax_regret(regrets)
    # type 1 wants the first answer, type 2 the second; type 0 lies between: slope 3 against 1, w on policies 1 and 2
    # 3 (p_1 − m) = m − p_2 at the mean answer m
    mean = (3 * p[1] + p[2]) / 4
    assert game.value == pytest.approx(mean - p[2], abs=1e-12)
    assert game.gap == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_against_enumeration_of_all_bases(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert max(compare_with_enumeration(random_table(rng, 3)) for _ in range(15)) < 1e-9


@pytest.mark.slow
def test_a_thousand_tables_against_enumeration() -> None:
    rng = np.random.default_rng(0)
    assert max(compare_with_enumeration(random_table(rng, 4)) for _ in range(1000)) < 1e-9


def test_many_tables_against_highs() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        table = random_table(rng, 6)
        game = solve_minmax_regret(table)
        scale = max(np.abs(table).max(), 1e-12)
        assert game.value == pytest.approx(by_highs(table), rel=1e-9, abs=1e-9 * scale)
        # a proof that needs no solver: weights on the simplex, dual weights, and no gap
        assert (game.policy_weights >= 0).all() and abs(game.policy_weights.sum().item() - 1) < 1e-12
        assert (game.type_weights >= 0).all() and game.type_weights.sum() < 1 + 1e-12
        assert abs(game.gap) < 1e-12 * scale


def test_large_tables_go_to_highs() -> None:
    table = np.random.default_rng(0).normal(size=(EXACT_LIMIT + 1, EXACT_LIMIT + 1)) + 0.5
    game = solve_minmax_regret(table)
    assert game.value == pytest.approx(by_highs(table), abs=1e-8) and abs(game.gap) < 1e-7


@pytest.mark.parametrize("seed", range(5))
def test_properties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 6))
    table = rng.random((k, k)) + 0.2
    np.fill_diagonal(table, 0)
    game, bounds = solve_minmax_regret(table), value_bounds(table)
    assert bounds.best_policy == table.max(0).min()
    assert bounds.uniform == pytest.approx((1 - 1 / k) * table.max(), abs=1e-15)
    assert 0 <= game.value <= min(bounds.best_policy, bounds.uniform) + 1e-12
    # types who hold the value up have the same regret; no policy is below the value under the dual
    active = game.type_weights > 1e-12
    torch.testing.assert_close(
        game.regrets[active], torch.full_like(game.regrets[active], game.value), atol=1e-12, rtol=0
    )
    assert (game.type_weights @ torch.from_numpy(table)).min() > game.value - 1e-12
    # order and unit of the types do not matter, and being two does not either
    order = rng.permutation(k)
    permuted = solve_minmax_regret(table[order][:, order])
    assert permuted.policy_weights.tolist() == pytest.approx(game.policy_weights[order].tolist(), abs=1e-12)
    scaled = solve_minmax_regret(table * 7.3)
    assert scaled.policy_weights.tolist() == pytest.approx(game.policy_weights.tolist(), abs=1e-12)
    assert scaled.value == pytest.approx(7.3 * game.value, rel=1e-12)
    twice = [*range(k), 0]
    assert solve_minmax_regret(table[twice][:, twice]).value == pytest.approx(game.value, abs=1e-12)
    assert solve_minmax_regret(table[twice]).policy_weights.tolist() == pytest.approx(game.policy_weights.tolist())


def test_gap_by_hand() -> None:
    # uniform play of [[0, 1], [3, 0]]: worst regret 3/2; types half and half: the best reply costs 1/2
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert duality_gap(torch.tensor([[0.0, 1], [3, 0]], dtype=torch.float64), half, half) == 1.0


def test_matrices_by_hand() -> None:
    values = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, -1.0]])
    own, reference = [2.0, 1.0], [-1.0, -1.0]
    assert regret_matrix(values, own_values=own, beta=0.5).tolist() == [[0, 0.75, 1.5], [0.5, 0, 1]]
    # rectangular without own values: the best policy of the row
    assert regret_matrix(values).tolist() == [[0, 1.5, 3], [1, 0, 2]]
    # square: the diagonal, even where another policy is better
    assert regret_matrix([[1.0, 3.0], [0.0, 1.0]]).tolist() == [[0, -2], [1, 0]]
    relative = relative_regret_matrix(values, reference, own_values=own)
    assert relative.tolist() == [[0, 0.5, 1], [0.5, 0, 1]]
    assert relative_regret_matrix([[0.0, -1.0]], [0.0]).isnan().all()
    assert kl_regret_matrix(values, [2.0, 1.0, 0.0], beta=0.5).tolist() == [[0, 0.25, 0.5], [1, 0, 0.5]]
    batch = regret_matrix(values.expand(4, 2, 3), own_values=torch.tensor(own).expand(4, 2))
    assert batch.shape == (4, 2, 3) and batch.dtype == torch.float64


def test_a_policy_that_drifted_is_not_chosen() -> None:
    assert choose_within_budget([0.9, 0.205, 0.8], [0.5, 2.35, 0.6], kl_budget=1.0) == 2
    assert choose_within_budget([0.9, 0.205, 0.8], [0.5, 2.35, 0.6], kl_budget=3.0) == 1
    with pytest.raises(ValueError, match="KL budget of 0.1 nats; the nearest, number 0, is at 0.5"):
        choose_within_budget([0.9, 0.205, 0.8], [0.5, 2.35, 0.6], kl_budget=0.1)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_bad_entries_are_named(wrong: float) -> None:
    table = torch.zeros(2, 3)
    table[1, 2] = wrong
    with pytest.raises(ValueError, match=f"regrets of type 1 under policy 2 is {wrong}; every entry must be finite"):
        solve_minmax_regret(table)
    with pytest.raises(ValueError, match="values of type 1 under policy 2"):
        regret_matrix(table)


def test_bad_shapes_are_refused() -> None:
    for table in ([0.0, 1.0], [[]], []):
        with pytest.raises(ValueError, match="one row per type and one column per policy"):
            solve_minmax_regret(table)
    with pytest.raises(ValueError, match="give one for each of 2 types"):
        solve_minmax_regret(torch.eye(2), type_importance=[1.0])
    for importance in ([1.0, -1.0], [0.0, 0.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match="one of them above 0"):
            solve_minmax_regret(torch.eye(2), type_importance=importance)
    with pytest.raises(ValueError, match="need one a type"):
        regret_matrix(torch.zeros(2, 3), own_values=[1.0])
