"""How unequal people would look by chance alone."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from palign.evaluation.report import write_report
from palign.evaluation.statistics.inequality import cvar, gini, if_alike


def test_one_judgement_each_is_chance_alone() -> None:
    """However they are dealt out: 30 of 100 people have 1, the others 0."""
    values = np.r_[np.ones(30), np.zeros(70)]
    found = if_alike(values, np.arange(100), 0.1)
    assert found == {"cvar": 0.0, "gini": pytest.approx(0.7)}
    assert if_alike(values, np.arange(100), 0.1, higher_is_better=False)["cvar"] == 1.0


@pytest.mark.parametrize("n_rows", [5, 20])
def test_many_people_show_the_spread_of_a_binomial(n_rows: int) -> None:
    """Mean of the lowest tenth of Binomial(n, .75) / n, by its probabilities."""
    n_people, counts = 20_000, np.arange(n_rows + 1)
    people = np.repeat(np.arange(n_people), n_rows)
    values = (np.random.default_rng(0).random(len(people)) < 0.75).astype(float)
    weights = binom.pmf(counts, n_rows, 0.75)
    expected = float(cvar(counts / n_rows, 0.1, weights))
    found = if_alike(values, people, 0.1)
    assert found["cvar"] == pytest.approx(expected, abs=0.01)
    assert found["gini"] == pytest.approx(float(gini(counts / n_rows, weights)), abs=0.005)


def test_it_tells_people_who_are_served_alike_from_people_who_are_not() -> None:
    rng, people = np.random.default_rng(1), np.repeat(np.arange(400), 10)
    for means, beyond in ((np.full(400, 0.75), False), (np.repeat([0.5, 0.85], 200), True)):
        values = (rng.random(4000) < means[people]).astype(float)
        seen = np.bincount(people, weights=values) / 10
        chance = if_alike(values, people, 0.1)
        assert (chance["cvar"] - cvar(seen, 0.1) > 0.1) == beyond
        assert abs(chance["cvar"] - cvar(seen, 0.1)) < 0.03 or beyond
        assert (gini(seen) - chance["gini"] > 0.05) == beyond


def test_numbers_of_people_may_be_missing_and_the_seed_decides() -> None:
    people, values = np.array([0, 0, 2, 2, 5, 5]), np.arange(6.0)
    assert if_alike(values, people, 0.5, seed=3) == if_alike(values, people, 0.5, seed=3)
    assert if_alike(np.ones(6), people, 0.5) == {"cvar": 1.0, "gini": pytest.approx(0.0)}
    assert np.isnan(if_alike(values - 3, people, 0.5)["gini"])


def test_nothing_of_single_people_is_said_where_none_may_be_shown(tmp_path) -> None:
    rows = {"model": "pal", "annotator_id": np.repeat(list("abcdef"), 4), "type": np.repeat(list("xy"), 12)}
    table = pd.DataFrame({**rows, "accuracy": np.tile([1.0, 0.0, 1.0, 1.0], 6)})
    found = write_report(table, output_dir=tmp_path, metrics="accuracy", min_group_size=2)
    people = found.data["sections"][0]["models"][0]["frames"][0]["metrics"]["accuracy"]
    assert people["cvar"]["if_alike"] is None and people["gini"]["if_alike"] is None
    plain = write_report(table.drop(columns="type"), output_dir=tmp_path, metrics="accuracy")
    assert ", and would be 0." in plain.headline[0] and plain.headline[0].endswith(" if all were served alike.")
