"""The losses of the routes, by hand and against tables; measuring; the choice within a budget."""

import numpy as np
import pytest
import torch

from palign.functional.regret import solve_minmax_regret
from palign.models.completions import TokenizedItems
from palign.models.policy_draws import PolicyDraws
from palign.pipelines.reports.fair import add_gold
from palign.trainers.fair.distill import DistillRows, mixture_next_token, prefix_posterior
from palign.trainers.fair.dro import DroRows
from palign.trainers.fair.measure import Candidate, Kind, measure_candidates, mixed_candidate, vote_outcomes
from palign.trainers.fair.regress import RegressRows, regress_loss
from palign.trainers.fair_policy_trainer import notes_of

ALONE = {"beta": 0.5, "n_bootstrap": 50, "seed": 0, "max_kl": None, "type_importance": None, "votes": {}}


def items_of(n: int) -> TokenizedItems:
    """n items of a prompt token and a completion token."""
    ids = np.arange(2 * n, dtype=np.int32)
    return TokenizedItems(ids, np.arange(2, 2 * n + 1, 2), np.ones(n, dtype=np.int64), 0)


def test_regression_counts_every_pair_once() -> None:
    """Errors (0, 2): the one pair is off by 2, half its square is 2. Errors (0, 3, 0): pairs 3, 3 and 0, mean half
    square (4.5 + 4.5 + 0) / 3 = 3. A constant of the prompt is free."""
    assert regress_loss(torch.tensor([[5.0, 9.0]]), torch.tensor([[5.0, 7.0]])).tolist() == [2.0]
    assert regress_loss(torch.tensor([[1.0, 4.0, 1.0]]) + 7, torch.ones(1, 3)).item() == pytest.approx(3.0)


def test_groups_of_a_regression_share_their_prompt() -> None:
    n_policies, n_prompts, n_samples = 3, 5, 4
    owner = np.tile(np.repeat(np.arange(n_prompts), n_samples), n_policies)
    rows = RegressRows(
        items_of(60), np.zeros(60), np.zeros(60), n_policies=n_policies, n_samples=n_samples, group_size=4, seed=0
    )
    assert len(rows) == 15
    assert sorted(rows.groups.ravel()) == list(range(60))
    assert all(len(set(owner[group])) == 1 for group in rows.groups)


def test_distillation_takes_types_in_the_proportions_of_the_game() -> None:
    rows = DistillRows(items_of(300), np.array([0.5, 0.25, 0.25]), group_size=4, seed=0)
    assert np.bincount(rows.groups.ravel() // 100).tolist() == [100, 50, 50]
    without = DistillRows(items_of(300), np.array([0.0, 1.0, 0.0]), group_size=4, seed=0)
    assert set(without.groups.ravel() // 100) == {1}


def test_soft_targets_multiply_to_the_response_level_mixture() -> None:
    """Two types of two-token answers: the product of soft targets along an answer is Σ_k w_k π_k(answer)."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, generator=generator), torch.randn(2, 3, 3, generator=generator)
    w = torch.tensor([0.3, 0.7])
    for a in range(3):
        for b in range(3):
            logits = [torch.stack([first[k], second[k, a]])[None] for k in range(2)]
            said = torch.stack([x.log_softmax(-1)[0, [0, 1], [a, b]] for x in logits])[:, None]
            target = mixture_next_token(prefix_posterior(said, w.log()), logits)
            whole = sum(w[k] * first[k].softmax(-1)[a] * second[k, a].softmax(-1)[b] for k in range(2))
            assert float(target[0, 0, a] * target[0, 1, b]) == pytest.approx(float(whole), rel=1e-5)


def dro_rows(own: list[list[float]], has_offset: bool) -> DroRows:
    gamma = torch.eye(2, dtype=torch.float64)
    return DroRows(None, torch.zeros(4), gamma, torch.tensor(own).double(), 1.0, 1.0, torch.full((2,), 0.5).double(),
                   has_offset=has_offset)  # fmt: skip


@pytest.mark.parametrize(("has_offset", "odds"), [(False, 1.0), (True, np.exp(-0.5))])
def test_weight_goes_to_who_loses_against_their_own_adapter(has_offset: bool, odds: float) -> None:
    """Both rows are lost by log 2 under the policy; under their own adapters type 0's by .6, type 1's by .1. So type
    1 is .5 nats worse served: with a step of 1 the odds of type 0 to type 1 are e^−.5; without the offset 1."""
    rows = dro_rows([[0.6, 9.0], [9.0, 0.1]], has_offset)
    batch = {
        "rows": torch.tensor([0, 1]), "items": torch.arange(4), "slots": torch.tensor([[0, 1], [2, 3]]),
        "ranks": torch.tensor([[0, 1], [0, 1]]),
    }  # fmt: skip
    losses = rows.losses(torch.zeros(4), batch, lambda x: x)
    q = rows.type_weights
    assert float(q[0] / q[1]) == pytest.approx(odds, rel=1e-6)
    assert losses.tolist() == pytest.approx((2 * q * np.log(2)).tolist(), rel=1e-6)  # a type's rows weigh 1/γ̄ = 2


def random_draws(seed: int, n_prompts: int = 12, n_types: int = 3) -> PolicyDraws:
    rng = np.random.default_rng(seed)
    return PolicyDraws(
        items_of(n_prompts), rng.normal(size=(n_prompts, 1, n_types)), rng.normal(size=(n_prompts, 1)),
        rng.normal(size=(n_prompts, 1)), rng.normal(size=(n_prompts, n_types)) + 5 * np.eye(n_types)[seed % n_types],
        rng.random(n_prompts), np.zeros((n_prompts, 1), bool), np.zeros((n_prompts, 1), bool),
    )  # fmt: skip


def test_the_ensembles_regrets_are_r_times_w() -> None:
    types = [random_draws(k) for k in range(3)]
    values = np.stack([draws.values.mean(0) for draws in types], 1)
    regrets = 0.5 * (values.diagonal()[:, None] - values)
    w = solve_minmax_regret(regrets).policy_weights
    ensemble = mixed_candidate("ensemble", types, w)
    reference = Candidate("reference", Kind.BASELINE, torch.zeros(12, 3).double(), torch.zeros(12).double())
    own = torch.stack([torch.from_numpy(types[k].values[:, k]) for k in range(3)], 1)
    rows, chosen, _ = measure_candidates([ensemble, reference], own, **ALONE)
    assert rows[0]["regrets"] == pytest.approx((regrets @ w.numpy()).tolist(), abs=1e-12)
    assert rows[0]["max_regret"]["value"] == pytest.approx(max(regrets @ w.numpy()), abs=1e-12)
    assert rows[1]["max_relative_regret"] == pytest.approx(1.0)
    assert chosen is None


def test_kl_of_a_mixture_is_that_of_its_likelihood() -> None:
    """Type 0 says y with log 0.5 under itself, log 0.1 under type 1 and log 0.2 under the reference; type 1 likewise
    y' with .3, .6 and .3. By halves: ½ log(.3 / .2) + ½ log(.45 / .3)."""
    draws = [random_draws(0, 2, 2), random_draws(1, 2, 2)]
    for own, (logps, reference) in zip(draws, (((0.5, 0.1), 0.2), ((0.3, 0.6), 0.3)), strict=True):
        own.type_logps = np.tile(np.log(logps), (2, 1, 1))
        own.reference_logps = np.full((2, 1), np.log(reference))
    found = mixed_candidate("half", draws, torch.tensor([0.5, 0.5], dtype=torch.float64)).kl
    assert found.tolist() == pytest.approx([0.5 * np.log(1.5) + 0.5 * np.log(1.5)] * 2)


def one_of(name: str, kind: str, regret: float, kl: float) -> Candidate:
    return Candidate(name, kind, torch.full((10, 2), -regret).double(), torch.full((10,), kl).double())


def test_low_regret_bought_by_drifting_is_flagged_and_not_chosen() -> None:
    """The ensemble is .956 at .30 nats; a policy that drifted to 2.35 nats has .205, and another .9 at .31."""
    candidates = [
        one_of("ensemble", Kind.MIXTURE, 0.956, 0.30), one_of("reference", Kind.BASELINE, 1.5, 0.0),
        one_of("distill", Kind.ROUTE, 0.205, 2.35), one_of("regress", Kind.ROUTE, 0.9, 0.31),
        one_of("pooled", Kind.BASELINE, 1.3, 0.2),
    ]  # fmt: skip
    rows, chosen, budget = measure_candidates(candidates, torch.zeros(10, 2).double(), **(ALONE | {"beta": 1.0}))
    assert (chosen, budget) == ("regress", pytest.approx(0.375))
    assert [row["is_within_budget"] for row in rows] == [True, True, False, True, True]
    assert rows[3]["less_than_pooled"]["value"] == pytest.approx(0.4)
    notes = notes_of({"table": rows, "chosen": chosen, "kl_budget": budget})
    assert len(notes) == 1
    assert "distill has a worst regret of 0.205 at a KL of 2.35 nats, beyond the budget of 0.38" in notes[0]
    _, nearest, _ = measure_candidates(candidates, torch.zeros(10, 2).double(), **(ALONE | {"max_kl": 0.1}))
    assert nearest == "regress"


def test_a_baseline_that_does_better_is_named() -> None:
    candidates = [
        one_of("ensemble", Kind.MIXTURE, 1.0, 1.0), one_of("reference", Kind.BASELINE, 0.5, 0.0),
        one_of("dro", Kind.ROUTE, 0.8, 0.5), one_of("pooled", Kind.BASELINE, 0.9, 0.1),
        one_of("type_0", Kind.TYPE, 0.4, 0.2), one_of("uniform", Kind.MIXTURE, 0.6, 0.5),
    ]  # fmt: skip
    rows, chosen, budget = measure_candidates(candidates, torch.zeros(10, 2).double(), **ALONE)
    notes = notes_of({"table": rows, "chosen": chosen, "kl_budget": budget})
    assert notes[0].startswith(
        "A lower worst regret than the chosen dro (0.400): type_0 (0.200), reference (0.250); on"
    )
    assert notes[1].startswith("A lower worst regret than the chosen dro (0.400): uniform (0.300); by a type drawn")


def test_importance_chooses_whose_regret_is_the_worst() -> None:
    values = torch.tensor([[-1.0, -0.6]]).expand(10, 2).double()
    candidates = [
        Candidate(name, Kind.MIXTURE, values, torch.zeros(10).double()) for name in ("ensemble", "reference")
    ]  # fmt: skip
    own = torch.zeros(10, 2).double()
    rows, _, _ = measure_candidates(candidates, own, **(ALONE | {"beta": 1.0, "type_importance": [1.0, 2.0]}))
    assert rows[0]["worst_type"] == 1
    assert rows[0]["max_regret"]["value"] == pytest.approx(1.2)
    assert rows[0]["regrets"] == pytest.approx([1.0, 0.6])


def test_votes_are_counted_by_type_and_unsure_people_left_out() -> None:
    found = vote_outcomes(
        torch.tensor([1.0, 0.0, 3.0, 5.0]), torch.tensor([1.0, 1.0, 4.0, 5.0]), torch.tensor([-1.0, -2.0, -3.0, 0.0]),
        np.array([0, 0, 1, -1]), 3,
    )  # fmt: skip
    assert found == {"accuracy": [0.5, 0.75, None], "log_likelihood": [-1.5, -3.0, None], "worst_accuracy": 0.5}


def test_an_independent_judge_is_heard_and_contradicts() -> None:
    """Type k likes texts that are its own number: gold is 1 or 0. Types say their own; the half mixture has ½ each;
    the chosen policy says "2", which nobody likes, and the reference "0" and "1" in turn."""
    texts = {"type_0": [["0"], ["0"]], "type_1": [["1"], ["1"]], "distill": [["2"], ["2"]]}
    texts |= {"reference": [["0", "1"], ["1", "0"]]}
    rows = [{"name": name, "weights": None} for name in texts] + [{"name": "ensemble", "weights": [0.5, 0.5]}]
    record = {"table": rows, "chosen": "distill", "notes": [], "mixing_weights": [0.75, 0.25], "room": None}
    record["settings"] = {"n_bootstrap": 10, "seed": 0}
    add_gold(record, texts, ["type_0", "type_1"], lambda text, k: float(text == str(k)))
    gold = {row["name"]: row["gold"] for row in rows}
    assert gold["ensemble"]["by_type"] == gold["reference"]["by_type"] == [0.5, 0.5]
    assert [gold["type_0"][key] for key in ("by_type", "worst", "max_regret", "mean")] == [[1, 0], 0, 1, 0.75]
    assert gold["ensemble"]["chosen_more"] == {"value": -0.5, "low": -0.5, "high": -0.5}
    assert "served no better than by the reference (0.000 against 0.500)" in record["notes"][0]
