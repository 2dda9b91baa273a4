"""What is asked of the fair policy, by hand, in both readings of "within 15 % of the optimum"."""

import pytest

from tests.worlds.scripts import load_script

SUMMARY = {
    "chosen/gold/worst": 1.4, "chosen/gold/mean": 1.5, "room/optimum": 1.6, "room/gold_single": 0.8,
    "room/single": 0.7, "pooled/gold/mean": 1.2, "reference/gold/mean": 0.7, "maxmin/gold/chosen_more/value": 0.0,
    "maxmin/gold/chosen_more/low": 0.0,
} | {
    f"{name}/gold/chosen_more/{end}": value
    for name in ("pooled", "reference", "uniform", "type_0")
    for end, value in (("value", 0.5), ("low", 0.4))
}  # fmt: skip


def test_both_readings_of_the_optimum() -> None:
    """From .6 at the reference 1.4 is .8 of the way to 1.6, and .875 of 1.6. Other routes need not be beaten."""
    found = load_script("measure_fair_policy").asked(SUMMARY)
    assert (found["share_of_way"], found["share_of_value"]) == pytest.approx((0.8, 0.875))
    assert found["mean_below"] == pytest.approx(-0.6)
    assert (found["is_reached"], found["is_reached_by_value"]) == (0.0, 1.0)
    assert "more/maxmin" not in found and found["more_low/type_0"] == 0.4
