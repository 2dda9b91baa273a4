"""GroupFrame by hand: means, worst, gap, ratio, gini, cvar, masks, missing groups, intervals that resample people."""

import numpy as np
import pandas as pd
import pytest

from palign.evaluation.comparison import compare_models
from palign.evaluation.group_frame import STATISTICS, GroupFrame, direction_of
from palign.evaluation.statistics import inequality
from palign.evaluation.statistics.clusters import Clusters, draw_weights
from palign.evaluation.statistics.intervals import bounds


def small_table() -> pd.DataFrame:
    """Eight judgements: north has ann .5 (2 rows) and bo 1 (1 row), south has cy .25 (4), dee 1 (1) has none."""
    rows = [
        ("ann", "north", 1.0),
        ("ann", "north", 0.0),
        ("bo", "north", 1.0),
        ("cy", "south", 0.0),
        ("cy", "south", 0.0),
    ]
    rows += [("cy", "south", 0.0), ("cy", "south", 1.0), ("dee", None, 1.0)]
    return pd.DataFrame(rows, columns=["annotator_id", "region", "accuracy"])


def population(n_groups: int = 3, n_people: int = 12, n_rows: int = 9, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(n_groups * n_people), n_rows)
    own = rng.uniform(0.5, 0.9, n_groups * n_people)
    table = pd.DataFrame(
        {"annotator_id": people, "group": people % n_groups, "half": people % 2, "row": np.arange(len(people))}
    )
    return table.assign(accuracy=(rng.random(len(people)) < own[people]).astype(float), regret=rng.random(len(people)))


def test_means_counts_and_the_missing_group_by_hand() -> None:
    frame = GroupFrame(small_table(), metrics="accuracy", groups="region")
    assert frame.by_group.index.tolist() == ["north", "south", "(missing)"]
    assert frame.by_group["n_annotators"].tolist() == [2, 1, 1]
    assert frame.by_group["n_judgements"].tolist() == [3, 4, 1]
    np.testing.assert_allclose(frame.by_group["accuracy"], [2 / 3, 1 / 4, 1])
    assert frame.overall["accuracy"] == pytest.approx(4 / 8)
    assert frame.worst().loc["accuracy"].tolist() == ["south", 0.25, 1]
    assert frame.best().loc["accuracy"].tolist() == ["north", 2 / 3, 2]  # "(missing)" has 1.0 and is nobody's group
    assert frame.is_ranked.tolist() == [True, True, False] and "listed as (missing)" in frame.notes[0]
    assert frame.gap()["accuracy"] == pytest.approx(5 / 12)
    assert frame.ratio()["accuracy"] == pytest.approx(3 / 8)
    # |2/3 - 1/4| * 2 / (2 * 4 * mean), mean = (2/3 + 1/4) / 2
    assert frame.gini()["accuracy"] == pytest.approx(5 / 12 / (4 * (11 / 24)))
    assert frame.cvar(1 / 2)["accuracy"] == pytest.approx(1 / 4)
    assert frame.cvar(0.75)["accuracy"] == pytest.approx((1 / 4 + 0.5 * 2 / 3) / 1.5)  # one group and a half
    assert frame.cvar(1.0)["accuracy"] == pytest.approx(11 / 24)


def test_groups_below_a_size_are_listed_and_not_ranked() -> None:
    """Three groups of 8 people, and one of 2 who are always right: it keeps its number and decides nothing."""
    table = population(n_groups=3, n_people=24)
    pair = pd.DataFrame({"annotator_id": [100, 101] * 3, "group": 9, "row": range(1000, 1006), "accuracy": 1.0})
    both = pd.concat([table, pair])
    frame = GroupFrame(both, metrics="accuracy", groups="group", min_ranked_size=5)
    plain = GroupFrame(table, metrics="accuracy", groups="group")
    assert frame.by_group.loc["9", "accuracy"] == 1.0 and frame.is_ranked.tolist() == [True, True, True, False]
    assert frame.best().loc["accuracy", "group"] != "9" and frame.worst().equals(plain.worst())
    for stat in ("gap", "ratio", "gini"):
        assert getattr(frame, stat)()["accuracy"] == pytest.approx(getattr(plain, stat)()["accuracy"])
    ends = frame.interval("gap", n_resamples=200)
    assert ends.notna().all(axis=None) and ends.loc["accuracy", "low"] <= frame.gap()["accuracy"]
    assert frame.interval("by_group", n_resamples=50).loc[("9", "accuracy"), "low"] == 1.0
    assert "1 of 4 groups has fewer than 5 annotators: listed, not ranked" in frame.notes[0]
    alone = GroupFrame(both, metrics="accuracy", groups="group", min_ranked_size=99)
    assert alone.worst().loc["accuracy", "group"] is None and np.isnan(alone.gap()["accuracy"])


def test_weights_annotators_counts_each_person_once() -> None:
    frame = GroupFrame(small_table(), metrics="accuracy", groups="region", weights="annotators")
    np.testing.assert_allclose(frame.by_group["accuracy"], [(0.5 + 1) / 2, 1 / 4, 1])
    assert frame.overall["accuracy"] == pytest.approx((0.5 + 1 + 0.25 + 1) / 4)
    with pytest.raises(ValueError, match="weights is 'people'"):
        GroupFrame(small_table(), metrics="accuracy", weights="people")


def test_by_group_equals_masks_and_intersections_are_combinations() -> None:
    table = population()
    frame = GroupFrame(table, metrics=["accuracy", "regret"], groups=["group", "half"])
    assert len(frame.by_group) == 6 and frame.by_group.index.names == ["group", "half"]
    for (group, half), row in frame.by_group.iterrows():
        mask = (table["group"].astype(str) == group) & (table["half"].astype(str) == half)
        assert row["accuracy"] == pytest.approx(table.loc[mask, "accuracy"].mean())
        assert row["regret"] == pytest.approx(table.loc[mask, "regret"].mean())
        assert row["n_judgements"] == mask.sum()
        assert row["n_annotators"] == table.loc[mask, "annotator_id"].nunique()


def test_worst_knows_which_direction_is_bad() -> None:
    table = pd.DataFrame(
        {"annotator_id": list("abcd"), "g": [0, 0, 1, 1], "regret": [1.0, 2.0, 3.0, 4.0], "odd": [1.0, 2.0, 3.0, 4.0]}
    )
    frame = GroupFrame(table, metrics=["regret", "odd"], groups="g", higher_is_better={"odd": True})
    assert frame.worst()["group"].tolist() == ["1", "0"]
    assert frame.cvar(0.5).tolist() == [3.5, 1.5]
    assert frame.gap().tolist() == [2.0, 2.0]
    assert [direction_of(name) for name in ("accuracy", "log_likelihood", "kl", "groups/x/regret", "gold")] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert not direction_of("mse") and not direction_of("eval_nll")
    less = ("regrets", "losses", "errors", "negative_log_likelihood", "cross_entropy", "crossentropy", "eval-loss")
    assert not any(map(direction_of, less))
    harm = (
        "toxicity",
        "false_positive_rate",
        "refusal_rate",
        "FPR",
        "hallucination_rate",
        "bias",
        "harmfulness",
        "ece",
    )
    assert not any(map(direction_of, harm))
    assert all(map(direction_of, ("helpfulness", "true_positive_rate", "win_rate", "harmless", "refund", "f1")))
    assert all(map(direction_of, ("entropy", "true_negative_rate", "bonus", "progress")))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.0, 1.0], 0.0),
        ([0.0, 0.0, 3.0], 2 / 3),
        ([1.0, 3.0], 0.25),
        ([1.0, np.nan, 3.0], 0.25),
        ([-1.0, 2.0], np.nan),
        ([0.0, 0.0], np.nan),
    ],
)
def test_gini_by_hand(values: list[float], expected: float) -> None:
    assert inequality.gini(np.array(values)) == pytest.approx(expected, nan_ok=True)


def test_gini_and_cvar_with_weights_are_those_of_repeated_groups() -> None:
    values, weights = np.array([0.2, 0.9, 0.5]), np.array([1.0, 3.0, 2.0])
    repeated = np.repeat(values, weights.astype(int))
    assert inequality.gini(values, weights) == pytest.approx(inequality.gini(repeated))
    by_pairs = np.abs(repeated[:, None] - repeated).mean() / (2 * repeated.mean())
    assert inequality.gini(repeated) == pytest.approx(by_pairs)
    assert inequality.cvar(values, 0.5, weights) == pytest.approx(np.sort(repeated)[:3].mean())


def test_ratio_of_what_can_be_negative_is_not_given() -> None:
    assert np.isnan(inequality.ratio(np.array([-2.0, -1.0])))
    assert inequality.ratio(np.array([0.0, 2.0])) == 0.0


def test_min_group_size_masks_numbers_not_counts() -> None:
    frame = GroupFrame(small_table(), metrics="accuracy", groups="region", min_group_size=2)
    assert frame.by_group["n_annotators"].tolist() == [2, 1, 1]
    assert frame.by_group["accuracy"].isna().tolist() == [False, True, True]
    assert frame.overall["accuracy"] == 0.5
    assert frame.worst().loc["accuracy", "group"] == "north"  # the hidden numbers decide nothing
    assert frame.gap()["accuracy"] == 0.0
    assert "2 of 3 groups have fewer than 2 annotators" in frame.notes[0]
    hidden = GroupFrame(small_table(), metrics="accuracy", groups="region", min_group_size=9)
    assert hidden.worst().loc["accuracy", "group"] is None and np.isnan(hidden.gap()["accuracy"])
    assert hidden.interval("gap").isna().all(axis=None)


def test_group_values_as_a_reader_writes_them() -> None:
    table = pd.DataFrame({"annotator_id": range(7), "accuracy": 1.0, "age": [10.0, 9.0, np.nan, 2.5, 10, 9, 9]})
    assert GroupFrame(table, metrics="accuracy", groups="age").by_group.index.tolist() == [
        "2.5",
        "9",
        "10",
        "(missing)",
    ]
    table["age"] = ["b", " ", None, "a", True, 3, "<script>"]
    assert GroupFrame(table, metrics="accuracy", groups="age").by_group.index.tolist() == [
        "3",
        "<script>",
        "True",
        "a",
        "b",
        "(missing)",
    ]


@pytest.mark.parametrize("stat", ["overall", "by_group", "worst", "gap", "ratio", "gini", "cvar"])
def test_interval_holds_the_estimate_and_is_repeatable(stat: str) -> None:
    frame = GroupFrame(population(), metrics=["accuracy", "regret"], groups="group")
    interval = frame.interval(stat, seed=3, n_resamples=400)
    estimate = frame.estimate(stat).ravel()
    assert (interval["low"].to_numpy() <= estimate).all() and (estimate <= interval["high"].to_numpy()).all()
    assert (interval["high"] > interval["low"]).all()
    pd.testing.assert_frame_equal(interval, frame.interval(stat, seed=3, n_resamples=400))
    wider = frame.interval(stat, seed=3, n_resamples=400, level=0.99)
    assert (wider["high"] - wider["low"] >= interval["high"] - interval["low"]).all()


def test_bounds_by_hand() -> None:
    draws = np.arange(101.0)[:, None]  # quantiles are their own percentages
    many = bounds(np.array([50.0]), draws, 0.9, 1e9)
    np.testing.assert_allclose(many, [[5.0], [95.0]], atol=1e-4)
    moved = bounds(
        np.array([50.0]), draws, 0.9, 1e9, free=draws + 8
    )  # the statistic comes out 8 too high: take it off
    np.testing.assert_allclose(moved, [[-3.0], [87.0]], atol=1e-4)
    few = bounds(
        np.array([50.0]), draws, 0.9, 4
    )  # Student's t with 4 degrees: 2.132, of which the normal tail is .0165
    np.testing.assert_allclose(few, [[1.65], [98.35]], atol=0.01)
    holes = bounds(np.array([50.0]), np.where(draws % 2 == 0, draws, np.nan), 0.9, 1e9)
    np.testing.assert_allclose(holes, [[5.0], [95.0]], atol=1e-4)
    # moved by 48 the percentiles are -43 and 47: the interval reaches back to the estimate
    past = bounds(np.array([50.0]), draws, 0.9, 1e9, free=draws + 48)
    np.testing.assert_allclose(past, [[-43.0], [50.0]], atol=1e-4)
    np.testing.assert_allclose(bounds(np.array([98.0]), draws, 0.9, 1e9), [[5.0], [98.0]], atol=1e-4)


def test_extremes_are_held_and_the_rest_of_people_counted() -> None:
    """Two groups, almost equal: held, the gap of a resample is negative half of the time; free, never."""
    table = population(n_groups=2, n_people=20)
    frame = GroupFrame(table, metrics="accuracy", groups="group")
    held, free = (frame.replicates("gap", hold_extremes=flag, n_resamples=300) for flag in (True, False))
    by_group = frame.replicates("by_group", n_resamples=300)[..., 0]
    first, second = by_group[:, int(frame.best()["group"].item())], by_group[:, int(frame.worst()["group"].item())]
    np.testing.assert_allclose(held[:, 0], first - second)
    np.testing.assert_allclose(free[:, 0], np.abs(first - second))
    assert held.min() < 0 <= free.min()
    least, free = by_group[:, int(frame.worst()["group"].item())][:, None], by_group.min(axis=1)[:, None]
    value = np.array([frame.worst()["value"].item()])
    expected = bounds(value, least, 0.9, 19.0, free=free)  # twenty people in either group
    ends = frame.interval("worst", n_resamples=300).loc["accuracy"]
    assert ends.tolist() == pytest.approx([expected[0].item(), expected[1].item()])
    assert [frame.degrees_of_freedom(stat) for stat in ("overall", "gini")] == [39.0, 39.0]


def test_one_drawing_for_all_statistics_gives_the_same_intervals() -> None:
    frame = GroupFrame(population(), metrics=["accuracy", "regret"], groups="group")
    together = frame.intervals(["overall", "gap", "by_group", "cvar"], n_resamples=200)
    for stat, ends in together.items():
        pd.testing.assert_frame_equal(ends, frame.interval(stat, n_resamples=200))


def test_spread_of_a_mean_is_the_standard_error_over_people() -> None:
    """Of n people's means with standard deviation s, the replicates' is s / sqrt(n): worked out without GroupFrame."""
    table = population(n_groups=1, n_people=30, n_rows=5)
    draws = GroupFrame(table, metrics="accuracy").replicates("overall", n_resamples=8000)
    of_people = table.groupby("annotator_id")["accuracy"].mean()
    assert draws.std() == pytest.approx(of_people.std(ddof=1) / np.sqrt(30), rel=0.03)
    assert draws.mean() == pytest.approx(of_people.mean(), abs=0.003)


def test_copied_rows_of_a_person_teach_nothing() -> None:
    """Ten copies of every row leave the people's interval alone and shrink one that resamples rows."""
    table = population(n_groups=1)
    tenfold = pd.concat([table] * 10, ignore_index=True).assign(row=range(10 * len(table)))
    width = {}
    for name, rows in (("once", table), ("tenfold", tenfold)):
        for unit in ("annotator_id", "row"):
            interval = GroupFrame(rows, metrics="accuracy", annotator_column=unit).interval("overall").loc["accuracy"]
            width[name, unit] = interval["high"] - interval["low"]
    assert width["tenfold", "annotator_id"] == pytest.approx(width["once", "annotator_id"])
    assert width["tenfold", "row"] < 0.4 * width["once", "row"]


def test_weights_keep_strata_and_count_draws() -> None:
    strata = np.array([0, 1, 0, 1, 1, 2])
    weights = draw_weights(strata, 500, np.random.default_rng(0))
    for stratum, size in ((0, 2), (1, 3), (2, 1)):
        np.testing.assert_allclose(weights[:, strata == stratum].sum(1), size)
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.12)
    assert (weights[:, 5] == 1).all()
    assert set(np.unique(weights[:, strata == 1])) == {0, 1.5, 3}  # two draws of three people, scaled by 3 / 2


@pytest.mark.parametrize("annotators", ["a", "ab", "aab"])
def test_one_person_groups_have_no_interval_and_say_so(annotators: str) -> None:
    table = pd.DataFrame(
        {"annotator_id": list(annotators), "g": list(annotators), "accuracy": np.arange(len(annotators)) + 0.5}
    )
    frame = GroupFrame(table, metrics="accuracy", groups="g")
    assert frame.interval("by_group").isna().all(axis=None)
    for stat in ("worst", "gap", "ratio"):
        assert frame.interval(stat).isna().all(axis=None)
    assert frame.interval("overall").isna().all(axis=None) == (set(annotators) == {"a"})


def test_one_single_person_group_among_others() -> None:
    table = population()
    table.loc[table["annotator_id"] == 0, "group"] = 9
    frame = GroupFrame(table, metrics="accuracy", groups="group")
    by_group = frame.interval("by_group")
    assert by_group["low"].isna().tolist() == [False, False, False, True]
    assert frame.interval("gap").isna().all(axis=None) and "single annotator" in frame.notes[0]
    assert frame.interval("overall").notna().all(axis=None)
    assert (
        GroupFrame(table, metrics="accuracy", groups="group", min_group_size=2).interval("gap").notna().all(axis=None)
    )


def test_people_as_groups_resample_people() -> None:
    frame = GroupFrame(population(), metrics="accuracy", groups="annotator_id")
    assert frame.interval("by_group").isna().all(axis=None) and frame.interval("worst").isna().all(axis=None)
    for stat in ("gini", "cvar"):
        low, high = frame.interval(stat).loc["accuracy"]
        assert low < frame.estimate(stat)[0] < high


def test_people_in_several_groups_are_resampled_as_a_whole() -> None:
    """Everybody answers in both groups, and better in the second by exactly .2: the gap is known, whoever is drawn."""
    rng = np.random.default_rng(0)
    own = rng.uniform(0, 0.8, 20)
    table = pd.DataFrame(
        {"annotator_id": [*range(20)] * 2, "topic": ["a"] * 20 + ["b"] * 20, "reward": [*own, *(own + 0.2)]}
    )
    frame = GroupFrame(table, metrics="reward", groups="topic")
    np.testing.assert_allclose(frame.interval("gap").loc["reward"], [0.2, 0.2])
    low, high = frame.interval("overall").loc["reward"]
    assert high - low > 0.1
    assert "several groups" in frame.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"accuracy": [1.0, np.nan, 1.0, 0, 0, 0, 1, 1]},
            "column 'accuracy' is nan in row 1 .*annotator 'ann'.* 1 of 8 rows",
        ),
        ({"accuracy": [1.0, 1.0, np.inf, 0, 0, 0, 1, 1]}, "is inf in row 2"),
        ({"accuracy": ["high"] * 8}, "does not hold numbers"),
        ({"model": list("aaaabbbb")}, "holds 2 models"),
    ],
)
def test_bad_tables(change: dict[str, list], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupFrame(small_table().assign(**change), metrics="accuracy", groups="region")


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(ValueError, match="no column 'regoin'. Did you mean 'region'"):
        GroupFrame(small_table(), metrics="accuracy", groups="regoin")
    with pytest.raises(ValueError, match="no rows"):
        GroupFrame(small_table().iloc[:0], metrics="accuracy")
    frame = GroupFrame(small_table(), metrics="accuracy")
    assert frame.by_group.index.tolist() == ["(everybody)"]
    with pytest.raises(ValueError, match="no statistic 'median'"):
        frame.interval("median")
    with pytest.raises(ValueError, match="level is 95"):
        frame.interval("overall", level=95)
    with pytest.raises(ValueError, match="alpha is 0"):
        frame.cvar(0)


def test_compare_models_by_hand() -> None:
    table = population()
    better = table.assign(model="new", accuracy=table["accuracy"] + 0.1 * (table["group"] == 0))
    both = pd.concat([table.assign(model="old"), better.sample(frac=1, random_state=0)], ignore_index=True)
    result = compare_models(both, metric="accuracy", models=("old", "new"), groups="group")
    np.testing.assert_allclose(result.loc["by_group", "difference"], [0.1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(
        result.loc["by_group", "low"], [0.1, 0, 0], atol=1e-12
    )  # the same for everybody: no doubt
    overall = result.loc[("overall", "")]
    assert overall["difference"] == pytest.approx(0.1 / 3)
    assert overall["low"] == pytest.approx(0.1 / 3) == pytest.approx(overall["high"])
    old, new = (GroupFrame(both[both["model"] == name], metrics="accuracy", groups="group") for name in ("old", "new"))
    assert result.loc[("gap", ""), "difference"] == pytest.approx(new.gap()["accuracy"] - old.gap()["accuracy"])
    assert result.loc[("worst", ""), "old"] == pytest.approx(old.worst().loc["accuracy", "value"])
    assert result.attrs["n_dropped"] == 0
    fewer = compare_models(both.iloc[5:], metric="accuracy", models=("old", "new"))
    assert fewer.attrs["n_dropped"] == 5


def test_a_gain_lies_in_its_interval_and_no_accuracy_gains_more_than_one() -> None:
    """Twelve people in three groups, two rows each: the worst of such groups is moved far by its bias."""
    beyond, rng = 0, np.random.default_rng(0)
    for seed in range(40):
        table = population(n_people=4, n_rows=2, seed=seed)
        first = table.assign(model="a", accuracy=(rng.random(len(table)) < 0.2).astype(float))
        second = table.assign(model="b", accuracy=(rng.random(len(table)) < 0.8).astype(float))
        both = pd.concat([first, second], ignore_index=True)
        options = {"groups": "group", "metric": "accuracy", "n_resamples": 100}
        found = compare_models(both, models=("a", "b"), **options)
        assert (found["low"] <= found["difference"] + 1e-12).all() and (
            found["high"] >= found["difference"] - 1e-12
        ).all()
        assert found[["low", "high"]].abs().to_numpy().max() <= 1
        percent = compare_models(both.assign(accuracy=100 * both["accuracy"]), models=("a", "b"), **options)
        beyond += bool((percent[["low", "high"]].abs() > 100).to_numpy().any())  # another scale has no known range
    assert beyond


def test_rows_in_one_order_need_no_partner_looked_for() -> None:
    table = population().astype({"annotator_id": str})
    table["annotator_id"] = table["annotator_id"].astype("category")
    new = table.assign(model="new", accuracy=1 - table["accuracy"])
    parts = [pd.concat([table.assign(model="old"), part], ignore_index=True) for part in (new, new.iloc[::-1])]
    ordered, turned = (compare_models(part, metric="accuracy", models=("old", "new"), groups="half") for part in parts)
    pd.testing.assert_frame_equal(ordered, turned)
    assert ordered.attrs["n_dropped"] == turned.attrs["n_dropped"] == 0


def test_compare_models_refuses_what_cannot_be_paired() -> None:
    both = pd.concat([population().assign(model=name) for name in ("old", "new")], ignore_index=True)
    with pytest.raises(ValueError, match="no model 'older'; it has 'old', 'new'"):
        compare_models(both, metric="accuracy", models=("older", "new"))
    with pytest.raises(ValueError, match="more than once"):
        compare_models(pd.concat([both, both.iloc[:1]]), metric="accuracy", models=("old", "new"))
    both.loc[both["model"] == "new", "row"] += 10**6
    with pytest.raises(ValueError, match="no judgement in common"):
        compare_models(both, metric="accuracy", models=("old", "new"))


def test_a_hundred_thousand_people_in_seconds() -> None:
    n = 100_000
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"annotator_id": np.arange(n).repeat(2), "g": np.arange(n).repeat(2) % 4, "accuracy": rng.random(2 * n)}
    )
    interval = GroupFrame(table, metrics="accuracy", groups="g").interval("gap", n_resamples=50)
    assert interval["high"].item() < 0.02


def test_people_bootstrap_covers_and_row_bootstrap_does_not() -> None:
    """Small version of scripts/coverage_bootstrap.py: two groups whose people differ from one another."""
    rng, hits = np.random.default_rng(5), {"annotator_id": 0, "row": 0}
    for repetition in range(80):
        own = np.concatenate([rng.beta(5, 3, 24), rng.beta(7, 2, 30)])  # means 5/8 and 7/9
        people = np.repeat(np.arange(54), 20)
        table = pd.DataFrame({"annotator_id": people, "g": people >= 24, "row": np.arange(len(people))})
        table["accuracy"] = (rng.random(len(people)) < own[people]).astype(float)
        for unit in hits:
            frame = GroupFrame(table, metrics="accuracy", groups="g", annotator_column=unit)
            low, high = frame.interval("gap", seed=repetition, n_resamples=300).loc["accuracy"]
            hits[unit] += low <= 7 / 9 - 5 / 8 <= high
    assert 0.82 <= hits["annotator_id"] / 80 <= 0.98
    assert hits["row"] / 80 < 0.80


def test_overall_and_group_intervals_stay_within_what_people_have() -> None:
    """Percentiles, not moved by the bootstrap's bias: two people at .5 and 1 give .5 and 1, never 1.003."""
    table = pd.DataFrame({"annotator_id": ["a", "a", "b", "b"], "team": "t", "hit": [1.0, 0.0, 1.0, 1.0]})
    frame = GroupFrame(table, metrics="hit", groups="team")
    for stat in ("overall", "by_group"):
        ends = frame.interval(stat, n_resamples=501)
        assert (ends["low"].iloc[0], ends["high"].iloc[0]) == (0.5, 1.0)


def test_a_group_in_which_all_agree_is_said_to_show_no_spread() -> None:
    table = pd.DataFrame({"annotator_id": list("abcd"), "team": list("ttuu"), "hit": [1.0, 1.0, 0.0, 1.0]})
    notes = GroupFrame(table, metrics="hit", groups="team").notes
    assert any("In 1 of 2 groups all annotators have one and the same hit" in note for note in notes)
    assert not GroupFrame(table.assign(hit=[0, 1, 0, 1]), metrics="hit", groups="team").notes


def test_rows_by_nobody_are_refused() -> None:
    table = pd.DataFrame({"annotator_id": ["a", None, "b"], "hit": [1.0, 0.0, 1.0]})
    with pytest.raises(ValueError, match="'annotator_id' is empty in 1 of 3 rows"):
        GroupFrame(table, metrics="hit")


def test_people_in_packets_keep_estimates_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 people of two groups and the same in 400 packets a stratum: ends differ by the noise of resampling."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(4000), rng.integers(1, 6, 4000))
    own = rng.uniform(0.3, 0.9, 4000)[people]
    table = pd.DataFrame({"annotator_id": people, "group": people % 7 > 1, "topic": rng.integers(3, size=len(people))})
    table["accuracy"] = (rng.random(len(people)) < own).astype(float)
    for groups in ("group", "topic"):  # people stand in one group, or in several
        whole = GroupFrame(table, metrics="accuracy", groups=groups).intervals(STATISTICS, n_resamples=2000)
        with monkeypatch.context() as patch:
            patch.setattr("palign.evaluation.statistics.clusters.N_PACKETS", 400)
            packed = GroupFrame(table, metrics="accuracy", groups=groups)
            found = packed.intervals(STATISTICS, n_resamples=2000)
        assert packed.n_annotators == 4000 and packed.n_judgements == len(people)
        for stat in STATISTICS:
            for side in ("low", "high"):
                width = (whole[stat]["high"] - whole[stat]["low"]).to_numpy()
                moved = np.abs(found[stat][side] - whole[stat][side]).to_numpy()
                assert (moved < 0.12 * width).all(), (groups, stat)


def test_packets_of_a_stratum_are_even_and_small_strata_stay_people() -> None:
    groups = np.repeat([0, 1], [25, 3])
    clusters = Clusters(np.arange(28), groups, np.arange(28.0)[:, None], 2)
    packed = clusters.packed(10)
    assert packed.n_people == 13 and packed.strata.tolist() == [0] * 10 + [1] * 3
    assert sorted(packed.n_drawn(np.eye(13))[:10, 0].tolist()) == [2.0] * 5 + [3.0] * 5
    np.testing.assert_allclose(packed.group_means(np.ones((1, 13)))[0], clusters.group_means())
    np.testing.assert_allclose(packed.overall_means(np.ones((1, 13)))[0], [13.5])
    assert clusters.packed(25) is clusters and packed.n_annotators.tolist() == [25, 3]


def test_influences_are_derivatives() -> None:
    values = np.random.default_rng(1).uniform(0.2, 1.0, 37).round(2)
    values[:3] = values[3]  # ties
    measures = {
        "gini": inequality.gini,
        "cvar": lambda v, w: inequality.cvar(v, 0.1, w),
        "of losses": lambda v, w: inequality.cvar(v, 0.1, w, higher_is_better=False),
    }
    found = inequality.influences(values[:, None], 0.1, [True]) | {
        "of losses": inequality.influences(values[:, None], 0.1, [False])["cvar"]
    }
    for name, measure in measures.items():
        for group in range(37):
            step = np.zeros(37)
            step[group] = 1e-6
            ones = np.ones(37)
            slope = (measure(values, ones + step) - measure(values, ones - step)) / 2e-6
            assert found[name][group, 0] == pytest.approx(slope, abs=1e-6), (name, group)


def test_gini_and_cvar_over_very_many_people_are_linear_in_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    table = population(n_groups=1, n_people=2000, n_rows=3)
    metrics, stats = ["accuracy", "regret"], ["gini", "cvar", "overall"]
    whole = GroupFrame(table, metrics=metrics, groups="annotator_id").intervals(stats, n_resamples=1000)
    monkeypatch.setattr("palign.evaluation.group_frame.MANY_PEOPLE", 1999)
    found = GroupFrame(table, metrics=metrics, groups="annotator_id").intervals([*stats, "gap"], n_resamples=1000)
    for stat in stats:
        width = whole[stat]["high"] - whole[stat]["low"]
        moved = (found[stat] - whole[stat]).abs().max(axis=1)
        assert (moved < 0.15 * width).all(), (stat, moved / width)
    assert found["gap"].isna().all(axis=None)
