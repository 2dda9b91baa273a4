"""Who said how much: refused, warned of, or enough."""

import pytest

from palign.data.preferences import Preferences
from palign.data.vote_counts import count_or_auto, count_votes, written_count


def pairs(counts: dict[str, int]) -> Preferences:
    return Preferences.from_rows(
        {"annotator_id": name, "prompt": "p", "chosen": f"a{name}{i}", "rejected": f"b{name}{i}"}
        for name, n in counts.items()
        for i in range(n)
    )


def ranked(counts: dict[str, int], n_ranked: int | None) -> Preferences:
    further = {} if n_ranked is None else {"n_ranked": n_ranked}
    return Preferences.from_rows(
        {"annotator_id": name, "prompt": "p", "completions": [f"{c}{name}{i}" for c in "abc"], **further}
        for name, n in counts.items()
        for i in range(n)
    )


def test_median_kind_and_busiest_by_hand() -> None:
    found = count_votes(pairs({"a": 8, "b": 10, "c": 30}), 2)
    assert (found.kind, found.n_annotators, found.median) == ("binary", 3, 10.0)
    assert found.largest_share == pytest.approx(30 / 48)
    assert len(found.warnings) == 1 and "30 of the 48 rows" in found.warnings[0]


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (pairs({"a": 9, "b": 9}), "binary"),
        (ranked({"a": 9, "b": 9}, 1), "best-of-M"),
        (ranked({"a": 9, "b": 9}, None), "ranking"),
    ],
)
def test_kinds(rows: Preferences, kind: str) -> None:
    found = count_votes(rows, 2)
    assert found.kind == kind and found.warnings == ()


def test_a_ranking_with_ties_at_the_bottom_is_best_of_m() -> None:
    rows = Preferences.from_rows(
        {"annotator_id": n, "prompt": "p", "completions": [f"{c}{n}{i}" for c in "abc"], "ratings": [5, 1, 1]}
        for n in "xy"
        for i in range(6)
    )
    assert count_votes(rows, 2).kind == "best-of-M"


@pytest.mark.parametrize(
    ("rows", "needed"), [(pairs({"a": 7, "b": 7}), "77%"), (ranked({"a": 4, "b": 4}, 1), "86%"),
                         (ranked({"a": 2, "b": 2}, None), "93%")]
)  # fmt: skip
def test_too_few_votes_are_warned_of_with_what_to_expect(rows: Preferences, needed: str) -> None:
    (warning,) = count_votes(rows, 2).warnings
    assert needed in warning
    assert count_votes(rows, 1).warnings == ()  # plain DPO asks nothing of the number of votes


def test_single_binary_votes_are_refused_for_types_and_taken_for_plain_dpo() -> None:
    rows = pairs({"a": 1, "b": 1, "c": 1})
    for n_types in (2, None):
        with pytest.raises(ValueError, match="single binary votes"):
            count_votes(rows, n_types)
    assert count_votes(rows, 1).median == 1
    assert count_votes(ranked({"a": 1, "b": 1}, None), 2).warnings  # one ranking a person can show types


def test_one_annotator_and_too_many_types() -> None:
    with pytest.raises(ValueError, match="one annotator.*--annotator_column"):
        count_votes(pairs({"a": 9}), None)
    with pytest.raises(ValueError, match="n_types is 3, and the rows come from 2 annotators"):
        count_votes(pairs({"a": 9, "b": 9}), 3)
    with pytest.raises(ValueError, match="no rows"):
        count_votes(pairs({"a": 1}).select([]), 1)


def test_auto_needs_people_to_hold_out() -> None:
    rows = pairs({f"p{i}": 9 for i in range(7)} | {"once": 1})
    with pytest.raises(ValueError, match="only 7 annotators have two rows or more.*--n_types 2"):
        count_votes(rows, None)
    assert count_votes(pairs({f"p{i}": 9 for i in range(8)}), None).n_annotators == 8


def test_one_busy_annotator_among_many_idle_ones() -> None:
    rows = pairs({"busy": 1000} | {f"p{i}": 2 for i in range(20)})
    found = count_votes(rows, 2)
    assert any("1,000 of the 1,040" in warning for warning in found.warnings)
    assert any("median annotator gave 2" in warning for warning in found.warnings)


def test_a_number_or_auto() -> None:
    """One parser of `n_types` and `n_prototypes`; files keep text."""
    for given, expected in ((3, 3), ("3", 3), ("12", 12), (1, 1), ("auto", None), (None, None)):
        assert count_or_auto(given) == expected
        assert count_or_auto(written_count(expected)) == expected
    for given in ("many", "0", 0, -2, "1.5", 1.5, True, "", "²", "Auto"):
        with pytest.raises(ValueError, match="n_types is .*a whole number from 1 on, or 'auto'"):
            count_or_auto(given)
