"""Where people stand among types, by hand; what a figure's record takes and leaves out."""

import numpy as np
import pandas as pd
import pytest

from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.type_pictures import draw_regrets, draw_type_space
from palign.models.files.mixture import MixtureRecord
from palign.models.notebook.places import place_people
from palign.pipelines.reports.fair import fair_figures


def test_three_types_are_a_triangle_and_two_a_line() -> None:
    points, corners = place_people(np.array([[1, 0, 0], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]))
    np.testing.assert_allclose(corners, [[0, 0], [1, 0], [0.5, 3**0.5 / 2]])
    np.testing.assert_allclose(points, [[0, 0], [0.75, 3**0.5 / 4], [0.5, 3**0.5 / 6]])
    points, corners = place_people(np.array([[0.25, 0.75]]))
    np.testing.assert_allclose(points, [[0.75, 0]])


def test_more_types_stand_on_a_circle_beside_those_that_people_mix_them_with() -> None:
    """0 is mixed with 2 alone and 1 with 3 alone: 0 and 2 are neighbours, and everybody is the mean of the corners."""
    weights = np.array([[0.6, 0, 0.4, 0], [0, 0.5, 0, 0.5], [1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    points, corners = place_people(weights)
    np.testing.assert_allclose(np.linalg.norm(corners, axis=1), 0.58)
    near, far = (np.linalg.norm(corners[0] - corners[k]) for k in (2, 1))
    assert near == pytest.approx(0.58 * 2**0.5) and np.linalg.norm(corners[1] - corners[3]) == pytest.approx(near)
    assert far >= near
    np.testing.assert_allclose(points[2], corners[0])
    np.testing.assert_allclose(points[0], 0.6 * corners[0] + 0.4 * corners[2])
    np.testing.assert_allclose(points[3], [0, 0], atol=1e-12)


NOTHING = {"type_space": None, "regrets": None, "training": [], "likes": [], "image_likes": []}


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {"annotator_id": ["a", "a", "b", "c"], "topic": ["x", "y", "x", "x"], "sex": [1.0, 1.0, 2.0, None]}
    )


def test_people_are_marked_by_the_first_group_in_which_everybody_has_one_value() -> None:
    data = FigureData({"a": [0.9, 0.1], "b": [0.123456, 0.876544], "z": [1, 0]})
    space = data.record(table(), "annotator_id", ["topic", "sex"], 10)["type_space"]
    assert (space["annotators"], space["group_column"], space["groups"]) == (["a", "b"], "sex", ["1", "2"])
    assert space["weights"] == [[0.9, 0.1], [0.1235, 0.8765]] and space["names"] == ["type_0", "type_1"]
    space = data.record(table(), "annotator_id", ["topic"], 10)["type_space"]
    assert (space["group_column"], space["groups"]) == (None, ["type_0", "type_1"])
    assert data.record(table(), "annotator_id", [], 1)["type_space"] is None  # more people than may be listed


def test_nothing_to_draw_is_nothing() -> None:
    assert FigureData().record(table(), "annotator_id", [], 9) == NOTHING
    pooled = FigureData(
        {"a": [1.0], "b": [1.0]}, histories={"p": pd.DataFrame({"step": [1], "objective/reward": [0]})}
    )
    assert pooled.record(table(), "annotator_id", [], 9) == NOTHING


def test_adapters_trained_beside_one_another_are_one_line() -> None:
    history = pd.DataFrame({"step": [1, 2, 1, 2], "adapter": list("aabb"), "objective/reward": [0, 1, 2, 3],
                            "objective/kl": [0, 0, 1, 1]})  # fmt: skip
    (found,) = FigureData(histories={"p": history}).record(table(), "annotator_id", [], 9)["training"]
    assert found == {"name": "p", "step": [1, 2], "reward": [1.0, 2.0], "kl": [0.5, 0.5]}


def test_a_fair_policy_gives_regrets_with_the_weights_of_its_game() -> None:
    from palign.data.annotators import AnnotatorIndex

    record = {
        "types": ["warm", "cold"], "chosen": "distill",
        "game": {"policy_weights": {"value": [0.7, 0.3]}, "type_weights": [0.4, 0.6]},
        "table": [{"name": "ensemble", "regrets": [0.1, 0.2]}, {"name": "type_0", "regrets": [0.0, 1.0]},
                  {"name": "type_1", "regrets": [2.0, 0.0]}, {"name": "distill", "regrets": [0.3, 0.4]}],
    }  # fmt: skip
    for row in record["table"]:
        ends = dict.fromkeys(("value", "low", "high"), max(row["regrets"]))
        row |= {"max_regret": ends, "mean_regret": ends, "kl": ends, "worst_type": int(np.argmax(row["regrets"]))}
    weights = np.array([[1.0, 0.0], [0.2, 0.8]])
    mixture = MixtureRecord(AnnotatorIndex(["a", "b"]), weights, np.ones(2), weights.mean(0), 0.1, 9, None)
    found = fair_figures(record, mixture)
    assert found.regrets["values"] == [[0.1, 0.0, 2.0, 0.3], [0.2, 1.0, 0.0, 0.4]]
    assert found.regrets["policy_weights"] == [None, 0.7, 0.3, None] and found.type_names == ["warm", "cold"]
    assert found.regrets["worst_type"] == [1, 1, 0, 1] and found.regrets["worst"][2]["value"] == 2.0
    pytest.importorskip("matplotlib")
    texts = [text.get_text() for text in draw_regrets(dict(found.regrets)).axes[0].texts]
    assert texts.index("ensemble") < texts.index("distill (chosen)") < texts.index("type_0") < texts.index("type_1")
    assert {"70 %", "30 %", "2.00"} <= set(texts) and "warm\n40 %" in texts


def test_small_regrets_are_told_apart() -> None:
    pytest.importorskip("matplotlib")
    record = {"types": ["a", "b"], "policies": ["p", "q"], "values": [[0.0021, 0.0], [0.0017, 0.0042]], "chosen": "p"}
    texts = {text.get_text() for text in draw_regrets(record).axes[0].texts}
    assert {"0.0021", "0.0017", "0.0042", "0.0000"} <= texts
    large = record | {"values": [[2.1, 0.0], [1.7, 4.2]]}
    assert {"2.10", "1.70", "4.20"} <= {text.get_text() for text in draw_regrets(large).axes[0].texts}


def test_names_of_two_types_stand_below_everybody() -> None:
    pytest.importorskip("matplotlib")
    share = np.random.default_rng(0).random(400)
    axes = draw_type_space(np.c_[share, 1 - share].tolist(), ["a", "b"], ["x"] * 400).axes[0]
    (people,) = (line for line in axes.lines if len(line.get_xdata()) == 400)
    np.testing.assert_allclose(people.get_xdata(), 1 - share)  # from left to right nobody is moved
    names = [text.xy[1] for text in axes.texts]
    assert max(names) < people.get_ydata().min() - 0.08 and axes.get_ylim()[0] < min(names) - 0.08
    assert people.get_ydata().max() < axes.get_ylim()[1]


def test_a_thousand_people_and_many_groups_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    groups = [f"g{number}" for number in rng.integers(12, size=1000)]
    figure = draw_type_space(rng.dirichlet(np.ones(5), 1000).tolist(), list("abcde"), groups)
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert len(labels) == 8 and labels[-1].startswith("5 further groups")
