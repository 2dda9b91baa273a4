"""report.json and report.md: strict, complete, honest about what is hidden, and text stays text."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from palign.evaluation.group_frame import GroupFrame
from palign.evaluation.pages.markdown import escape
from palign.evaluation.pages.report_keys import ReportRecord
from palign.evaluation.report import Report, write_report
from tests.worlds.typed_records import keys_seen

EVIL = "<script>alert(1)</script>"


def judgements(model: str, right: dict[int, float], n_people: int = 30, n_rows: int = 10) -> pd.DataFrame:
    """Each person of type k is right in right[k] of the rows, give or take one row by person."""
    people = np.repeat(np.arange(n_people), n_rows)
    place = np.tile(np.arange(n_rows), n_people)
    kind = people % len(right)
    correct = place < np.array([right[k] for k in kind]) * n_rows + (people // len(right)) % 3 - 1
    names = np.array([EVIL, *(f"w|{i}`_" for i in range(1, n_people))], dtype=object)
    country = np.where(people % 5 == 0, None, np.where(people % 2 == 0, "N|L", "`PL`"))
    table = {
        "model": model,
        "annotator_id": names[people],
        "row": np.arange(len(people)),
        "type": kind,
        "country": country,
    }
    return pd.DataFrame({**table, "accuracy": correct.astype(float)})


def written(model: str, gold: list[float], reward: float, kl: float) -> pd.DataFrame:
    table = judgements(model, {0: 0.5, 1: 0.5, 2: 0.5}).drop(columns="accuracy")
    noise = 0.1 * np.sin(np.arange(len(table)))
    return table.assign(gold=np.array(gold)[table["type"]] + noise, reward=reward + noise, kl=kl)


def example(tmp_path: Path, **options: object) -> Report:
    tables = [
        judgements("pal", {0: 0.9, 1: 0.8, 2: 0.7}),
        judgements("pooled", {0: 0.9, 1: 0.5, 2: 0.3}),
        written("reference", [0.0, 0.0, 0.0], 0.0, 0.0),
        written("policy", [1.0, 2.0, -0.5], 1.0, 2.5),
    ]
    return write_report(tables, output_dir=tmp_path, group_columns=["type", "country"], n_resamples=200, **options)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return example(tmp_path_factory.mktemp("report"), extra={"seconds": 1.5, "bad": float("nan")})


def found(data: dict, section: int, model: str, groups: list[str], metric: str) -> dict:
    record = next(m for m in data["sections"][section]["models"] if m["model"] == model)
    return next(frame for frame in record["frames"] if frame["groups"] == groups)["metrics"][metric]


def test_json_is_strict_and_equals_the_frames(report: Report) -> None:

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    data = json.loads(report.json_path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert data == report.data
    keys_seen(data, ReportRecord)  # with policies; tests/evaluation/pages/test_report_keys.py has all keys
    assert data["schema_version"] == 3 and data["extra"] == {"seconds": 1.5, "bad": None}
    assert [s["name"] for s in data["sections"]] == ["reward models", "policies"]
    table = judgements("pal", {0: 0.9, 1: 0.8, 2: 0.7})
    frame = GroupFrame(table, metrics="accuracy", groups="country")
    record = found(data, 0, "pal", ["country"], "accuracy")
    assert [row["group"] for row in record["by_group"]] == ["N|L", "`PL`", "(missing)"]
    for row in record["by_group"]:
        mask = table["country"].isna() if row["group"] == "(missing)" else table["country"] == row["group"]
        assert row["value"] == pytest.approx(table.loc[mask, "accuracy"].mean())
        assert row["n_annotators"] == table.loc[mask, "annotator_id"].nunique()
        assert row["n_judgements"] == mask.sum()
        assert row["low"] <= row["value"] <= row["high"]
    assert record["gap"]["value"] == pytest.approx(frame.gap()["accuracy"])
    assert record["overall"]["value"] == pytest.approx(table["accuracy"].mean())
    people = found(data, 0, "pal", ["annotator_id"], "accuracy")
    assert len(people["by_group"]) == 30 and people["by_group"][0]["low"] is None
    own = table.groupby("annotator_id")["accuracy"].mean()
    assert people["quantiles"]["0.5"] == pytest.approx(own.median())
    assert people["cvar"]["value"] == pytest.approx(np.sort(own)[:3].mean())  # the worst tenth of thirty people
    assert 0 < people["cvar"]["if_alike"] < people["overall"]["value"] and people["gini"]["if_alike"] > 0
    pages = [path.read_text(encoding="utf-8") for path in (report.markdown_path, report.html_path)]
    assert all(f"{people['cvar']['if_alike']:.3f}" in page for page in pages)
    assert all("Only what goes beyond that is unequal service" in page for page in pages)


def test_it_concludes_and_then_says_who_is_worst_served(report: Report) -> None:
    assert re.match(
        r"pal: worst served is type 2 \(10 annotators\), whose accuracy is 0\.\d+ \(90 % interval", report.headline[0]
    )
    assert "below the best-served, type 0" in report.headline[0]
    difference = next(s for s in report.headline if s.startswith("pal against pooled on the same judgements"))
    expected = np.mean([0, 0.3, 0.4])
    assert f"accuracy {expected:+.3f}" in difference
    lines = report.markdown_path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Fairness report" and lines[2].startswith("Judged by 300 judgements of 30 annotators, pal")
    assert "worst served is type 2" in lines[4]
    text = "\n".join(lines)
    assert text.index("worst served") < text.index("What they do not show") < text.index("## Reward models")


def test_policies_are_set_against_the_reference_with_kl(report: Report) -> None:
    comparisons = {(c["metric"], tuple(c["groups"])): c for c in report.data["sections"][1]["comparisons"]}
    gold = {row["group"]: row for row in comparisons["gold", ("type",)]["rows"] if row["stat"] == "by_group"}
    assert [gold[k]["difference"] for k in "012"] == pytest.approx([1.0, 2.0, -0.5])
    assert found(report.data, 1, "policy", ["type"], "kl")["overall"]["value"] == pytest.approx(2.5)
    assert found(report.data, 1, "policy", ["type"], "kl")["higher_is_better"] is False
    warning = next(s for s in report.headline if s.startswith("Warning"))
    assert "type 2 the reward rose by 1.000 and gold utility fell by 0.500" in warning
    assert sum(s.startswith("Warning") for s in report.headline) == 1  # no country lost gold
    assert "**Warning**" in report.markdown_path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("n_people", "gold", "warned"), [(5, -0.5, True), (4, -0.5, False), (5, -1e-9, False)])
def test_exploited_is_said_of_some_people_whose_gold_fell(
    tmp_path: Path, n_people: int, gold: float, warned: bool
) -> None:
    """The same for everybody, so that intervals have no width and end where gold is."""
    people = np.repeat(np.arange(2 * n_people), 3)
    table = pd.DataFrame(
        {"annotator_id": people, "row": np.arange(len(people)), "type": np.where(people % 2, "a", "b")}
    )
    tables = [
        table.assign(model="reference", gold=0.0, reward=0.0),
        table.assign(model="prompt", gold=gold, reward=1.0),
    ]
    headline = write_report(tables, output_dir=tmp_path, n_resamples=30).headline
    assert any("exploited" in sentence for sentence in headline) == warned


def test_a_report_of_single_people_says_how_many_completions_there_are(tmp_path: Path) -> None:
    people = ["a", "a", "b"]
    table = pd.DataFrame({"model": "prompt", "annotator_id": people, "row": range(3), "reward": [0.0, 1.0, 2.0]})
    report = write_report(table, output_dir=tmp_path, n_resamples=30)
    assert "of 2 annotators (3 completions) it is" in report.headline[0]
    text = report.markdown_path.read_text(encoding="utf-8")
    assert "| model | metric | annotators | judgements |" in text and "| prompt | reward | 2 | 3 |" in text


def test_a_policy_is_set_against_the_one_for_everybody_too(tmp_path: Path) -> None:
    golds = {"reference": 0.0, "none": 1.0, "prompt": 1.5}
    tables = [written(name, [gold] * 3, 0.0, 0.0) for name, gold in golds.items()]
    long_note = "word " * 60 + "end"
    report = write_report(tables, output_dir=tmp_path, n_resamples=50, notes=[long_note])
    pairs = {(c["first"], c["second"]): c for c in report.data["sections"][0]["comparisons"] if c["metric"] == "gold"}
    assert set(pairs) == {("reference", "none"), ("reference", "prompt"), ("none", "prompt")}
    overall = next(row for row in pairs["none", "prompt"]["rows"] if row["stat"] == "overall")
    assert overall["difference"] == pytest.approx(0.5)
    text = report.markdown_path.read_text(encoding="utf-8")
    assert "none − reference | prompt − reference | prompt − none |" in text
    assert long_note in text  # a sentence is not cut


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    tables = [judgements(f"[m]({EVIL})", {0: 0.9, 1: 0.4}).assign(team=EVIL)]
    report = write_report(
        tables,
        output_dir=tmp_path,
        group_columns=["team"],
        title=f"A {EVIL} | title",
        n_resamples=50,
        notes=[f"note {EVIL}"],
        extra={EVIL: "a | b\n# c"},
    )
    text = report.markdown_path.read_text(encoding="utf-8")
    assert "<" not in text
    assert EVIL in json.loads(report.json_path.read_text())["title"]
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") in {
                text.splitlines()[i].count("|")
                for i in range(len(text.splitlines()))
                if text.splitlines()[i].startswith("| ---")
            }
    assert "](" not in text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a|b", "a&#124;b"),
        ("`x`", "&#96;x&#96;"),
        ("<b>", "&#60;b&#62;"),
        ("a\nb\tc", "a b c"),
        ("_*_", "&#95;&#42;&#95;"),
        ("log_likelihood of type_0", "log_likelihood of type_0"),
        ("_a_b_ a__b", "&#95;a_b&#95; a&#95;&#95;b"),
        ('people\'s "x"', 'people\'s "x"'),
        ("https://x.y", "https:&#47;&#47;x.y"),
        ("www.x.y", "www&#46;x.y"),
        ("\u202eabc", "abc"),
        ("é 😀", "é 😀"),
        ("&lt;", "&#38;lt;"),
        ("x" * 500, "x" * 119 + "…"),
    ],
)
def test_escape(raw: str, shown: str) -> None:
    assert escape(raw) == shown


def test_small_groups_and_single_people_are_hidden_on_request(tmp_path: Path) -> None:
    report = example(tmp_path, min_group_size=7)
    record = found(report.data, 0, "pal", ["country"], "accuracy")
    hidden = [row for row in record["by_group"] if row["n_annotators"] < 7]
    assert hidden and all(row["value"] is None and row["low"] is None for row in hidden)
    people = found(report.data, 0, "pal", ["annotator_id"], "accuracy")
    assert people["by_group"] == [] and people["worst"]["group"] is None and people["worst"]["value"] is None
    text = report.json_path.read_text() + report.markdown_path.read_text(encoding="utf-8")
    assert "alert" not in text and "w|3" not in text
    assert "fewer than 7" in text


@pytest.mark.parametrize("n_people", [1, 2])
def test_hardly_anybody(tmp_path: Path, n_people: int) -> None:
    table = judgements("pal", {0: 0.9}, n_people=n_people)
    report = write_report(table, output_dir=tmp_path / "new" / "folder", n_resamples=50)
    assert "no group by type is ranked: a rank takes a value of type and 5" in report.headline[0]
    overall = found(report.data, 0, "pal", ["type"], "accuracy")["overall"]
    assert (overall["low"] is None) is (n_people == 1)
    bare = write_report(table.drop(columns=["type", "country"]), output_dir=tmp_path, n_resamples=50)
    assert f"of {n_people} annotators" in bare.headline[0]


def test_rows_that_do_not_pair_are_reported_unpaired(tmp_path: Path) -> None:
    other = judgements("pooled", {0: 0.5, 1: 0.5}).assign(row=lambda t: t["row"] + 10_000)
    report = write_report([judgements("pal", {0: 0.9, 1: 0.8}), other], output_dir=tmp_path, n_resamples=50)
    assert report.data["sections"][0]["comparisons"] == []
    assert "no judgement in common" in report.data["sections"][0]["notes"][0]


def test_what_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    table = judgements("pal", {0: 0.9, 1: 0.8})
    for change, message in (
        ({"group_columns": ["contry"]}, "no column 'contry'. Did you mean 'country'"),
        ({"metrics": ["f1"]}, "none of the metrics f1"),
        ({"tables": table.assign(accuracy=[np.nan, *table["accuracy"][1:]])}, "is nan in row 0"),
        ({"tables": table.drop(columns="model")}, "no column 'model'"),
        ({"tables": table.iloc[:0]}, "no rows"),
        ({"tables": []}, "no table"),
    ):
        with pytest.raises(ValueError, match=message):
            write_report(change.pop("tables", table), output_dir=tmp_path / "out", n_resamples=20, **change)
    assert not (tmp_path / "out").exists()


def test_a_gap_that_chance_can_explain_is_called_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(40), 10)
    table = pd.DataFrame({"model": "m", "annotator_id": people, "row": np.arange(400), "team": people % 4})
    same = table.assign(accuracy=rng.integers(0, 2, 400).astype(float))
    report = write_report(same, output_dir=tmp_path, group_columns=["team"], n_resamples=200)
    assert report.headline[0].endswith("and chance alone can show a gap of this size.")
    apart = same.assign(accuracy=(rng.random(400) < 0.2 + 0.2 * table["team"]).astype(float))
    report = write_report(apart, output_dir=tmp_path, group_columns=["team"], n_resamples=200)
    assert "chance" not in report.headline[0] and "gap 0." in report.headline[0]


def test_groups_that_nobody_has_and_values_of_mixed_types(tmp_path: Path) -> None:
    table = judgements("pal", {0: 0.9, 1: 0.8}).drop(columns=["type"])
    table["country"] = [None, np.nan, pd.NA, "", " "] * (len(table) // 5)
    table["age"] = [3, 3.0, "3", True, "b"] * (len(table) // 5)
    report = write_report(table, output_dir=tmp_path, group_columns=["country", "age"], n_resamples=50)
    assert "worst served is age" in report.headline[0]  # the gap that chance does not explain leads
    alone = write_report(table, output_dir=tmp_path / "alone", group_columns=["country"], n_resamples=50)
    assert "no group by country is ranked" in alone.headline[0]  # everybody is in "(missing)"
    groups = [row["group"] for row in found(report.data, 0, "pal", ["age"], "accuracy")["by_group"]]
    assert groups == ["3", "True", "b"]
    assert report.html_path.exists()


def test_groups_that_are_served_alike_and_ties_for_the_worst_place(tmp_path: Path) -> None:
    table = pd.DataFrame({"model": "m", "annotator_id": range(6), "row": range(6), "team": list("aabbcc")})
    same = write_report(table.assign(accuracy=1.0), output_dir=tmp_path, group_columns=["team"], n_resamples=20,
                        min_ranked_size=1)  # fmt: skip
    assert "all 3 groups by team that can be ranked have the same" in same.headline[0]
    many = pd.concat(
        [table.assign(annotator_id=table["annotator_id"] + 6 * k, row=table["row"] + 6 * k) for k in range(9)]
    )
    tied = many.assign(accuracy=[0.0, 1.0, 1.0, 0.0, 1.0, 1.0] * 9)
    report = write_report(tied, output_dir=tmp_path, group_columns=["team"], n_resamples=100)
    assert "team a (18 annotators; 1 other group is served as badly)" in report.headline[0]


def test_reward_models_without_accuracy_among_the_metrics_are_still_compared(tmp_path: Path) -> None:
    tables = [judgements(name, {0: 0.9, 1: 0.8}).assign(log_likelihood=-1.0) for name in ("pooled", "pal")]
    report = write_report(tables, output_dir=tmp_path, metrics=["log_likelihood"], n_resamples=20)
    assert [section["name"] for section in report.data["sections"]] == ["reward models"]
    assert report.data["sections"][0]["comparisons"]


def test_without_any_group_nothing_is_said_of_the_worst_group(tmp_path: Path) -> None:
    tables = [judgements(name, {0: 0.9, 1: 0.8}).drop(columns=["type", "country"]) for name in ("pooled", "pal")]
    report = write_report(tables, output_dir=tmp_path, n_resamples=20)
    against = next(words for words in report.headline if "against" in words)
    assert against.endswith("overall.") and "worst-served group" not in against


def test_a_column_called_model_is_the_users_own(tmp_path: Path) -> None:
    """A score table has it as declared_model; asking for `model` must not group by the report's own column."""
    table = judgements("pal", {0: 0.9, 1: 0.8})
    table["declared_model"] = ["gpt", "llama"] * (len(table) // 2)
    report = write_report(table, output_dir=tmp_path, group_columns=["model"], n_resamples=20)
    assert report.data["settings"]["opens_with"] == ["declared_model"]
