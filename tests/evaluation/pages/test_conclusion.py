"""What a report concludes, and what types like."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from palign.data.preferences import Preferences
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.sentences import likes_sentence
from palign.evaluation.pages.type_likes import type_likes
from palign.evaluation.report import write_report
from palign.pipelines.reports.reward import people_in_no_number


def table(right: dict[str, float], n_people: int = 40, n_rows: int = 20, seed: int = 0) -> pd.DataFrame:
    """Models that are right with a probability each, on the same judgements."""
    rng, parts = np.random.default_rng(seed), []
    luck = rng.random(n_people * n_rows)
    for name, share in right.items():
        people = np.repeat(np.arange(n_people), n_rows)
        accuracy = (luck < share).astype(float)
        parts.append(pd.DataFrame({
            "model": name, "annotator_id": [f"p{i}" for i in people], "row": np.arange(len(people)),
            "accuracy": accuracy, "log_likelihood": np.where(accuracy > 0, -0.3, -1.5),
        }))  # fmt: skip
    return pd.concat(parts)


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ({"pooled": 0.6, "pal": 0.8}, ": better than pooled. Against pooled: +"),
        (
            {"pooled": 0.7, "pal": 0.7},
            ": no better than pooled, as far as these rows show. Against pooled: +0.0 points",
        ),
        ({"pooled": 0.8, "pal": 0.6}, ": worse than pooled. Against pooled: -"),
        ({"pooled": 0.3, "pal": 0.5}, ": no better than a coin, as far as these rows show; better than pooled."),
        ({"pooled": 0.3, "pal": 0.3}, ": worse than a coin; no better than pooled, as far as these rows show."),
    ],
)
def test_the_first_sentence_concludes(tmp_path: Path, right: dict[str, float], expected: str) -> None:
    report = write_report(table(right), output_dir=tmp_path, n_resamples=200)
    (sentence,) = report.conclusion
    assert sentence.startswith("Judged by 800 judgements of 40 annotators, pal orders")
    assert expected in sentence
    assert sentence.split(" (")[0] in report.markdown_path.read_text(encoding="utf-8")
    page = report.html_path.read_text(encoding="utf-8")
    assert page.index("Judged by 800") < page.index("Every other model" if "Every other" in page else "<h2>")


def test_a_baseline_below_a_coin_is_named(tmp_path: Path) -> None:
    report = write_report(table({"pooled": 0.3, "pal": 0.8}), output_dir=tmp_path / "poor", n_resamples=50)
    assert "fewer than a coin (0.500): compare with the coin as well." in report.conclusion[0]
    report = write_report(table({"pooled": 0.6, "pal": 0.8}), output_dir=tmp_path / "fair", n_resamples=50)
    assert "coin" not in report.conclusion[0]


def test_baselines_of_one_verdict_stand_together(tmp_path: Path) -> None:
    models = table({"pooled": 0.8, "linear start": 0.8, "em": 0.8})
    report = write_report(
        models, output_dir=tmp_path, n_resamples=200, baseline=("pooled", "linear start"), main="em",
        judgements="held-out judgements", remarks=["one adapter for all"],
    )  # fmt: skip
    (sentence,) = report.conclusion
    assert sentence.startswith("Judged by 800 held-out judgements of 40 annotators, em orders")
    assert (
        "): no better than pooled and linear start, as far as these rows show; one adapter for all. Against"
        in sentence
    )


def test_the_gap_that_leads_is_one_that_chance_does_not_explain(tmp_path: Path) -> None:
    rows = table({"pal": 0.75}, n_people=80)
    person = rows["annotator_id"].str[1:].astype(int)
    rows["coin"], rows["side"] = np.where(person % 2, "heads", "tails"), np.where(person < 40, "left", "right")
    rows.loc[person < 40, "accuracy"] = (np.arange(40 * 20) % 20 < 12).astype(float)  # .6, of the others .75
    options = {"group_columns": ["coin", "side"], "n_resamples": 200, "output_dir": tmp_path}
    assert "side left" in write_report(rows, **options).headline[0]
    rows["accuracy"] = (person * 7 + rows["row"]) % 4 > 0
    assert "by coin" in write_report(rows.assign(accuracy=rows["accuracy"].astype(float)), **options).headline[0]


def lonely(n_small: int = 1) -> pd.DataFrame:
    """Two countries of twenty people, a third of `n_small` whom everything fails, and rows without a country."""
    rows = table({"pal": 0.8})
    person = rows["annotator_id"].str[1:].astype(int)
    rows["country"] = np.where(person % 2, "PL", "PT").astype(object)
    rows.loc[person < n_small, "country"] = "IS"
    rows.loc[person.between(30, 36), "country"] = None
    rows.loc[person < n_small, "accuracy"] = 0.0
    rows.loc[person.between(30, 36), "accuracy"] = 1.0
    return rows


def test_one_person_takes_no_headline_and_missing_is_never_best(tmp_path: Path) -> None:
    report = write_report(lonely(), output_dir=tmp_path, group_columns=["country"], n_resamples=200)
    stats = report.data["sections"][0]["models"][0]["frames"][1]["metrics"]["accuracy"]
    rows = {row["group"]: row for row in stats["by_group"]}
    assert rows["IS"]["value"] == 0.0 and rows["(missing)"]["value"] == 1.0  # listed, with their numbers
    assert [name for name, row in rows.items() if row["is_ranked"]] == ["PL", "PT"]
    assert {stats["worst"]["group"], stats["best"]["group"]} == {"PL", "PT"} and stats["gap"]["low"] is not None
    assert "IS" not in report.headline[0] and "(missing)" not in report.headline[0]
    text = report.markdown_path.read_text(encoding="utf-8")
    assert "| IS (not ranked) | 1 |" in text and "fewer than 5 annotators are listed and not ranked" in text
    page = report.html_path.read_text(encoding="utf-8")
    assert page.count("not ranked</span>") == 4  # two groups, by two metrics
    asked = write_report(lonely(), output_dir=tmp_path, group_columns=["country"], min_ranked_size=1, n_resamples=50)
    assert asked.data["sections"][0]["models"][0]["frames"][1]["metrics"]["accuracy"]["worst"]["group"] == "IS"
    five = write_report(lonely(5), output_dir=tmp_path, group_columns=["country"], n_resamples=200)
    assert "worst served is country IS (5 annotators)" in five.headline[0]


def test_a_gap_of_chance_names_nobody_worst_served(tmp_path: Path) -> None:
    rows = table({"pal": 0.75})
    rows["coin"] = np.where(rows["annotator_id"].str[1:].astype(int) < 19, "heads", "tails")
    report = write_report(rows, output_dir=tmp_path, group_columns=["coin"], n_resamples=200)
    assert "By coin no group is surely served worse than another" in report.headline[0]
    assert "▼ Worst served" not in report.html_path.read_text(encoding="utf-8")


def test_a_type_leads_where_chance_explains_every_gap_that_was_asked_for(tmp_path: Path) -> None:
    rows = table({"pal": 0.75}, n_people=80)
    person = rows["annotator_id"].str[1:].astype(int)
    rows["coin"], rows["type"] = np.where(person % 2, "heads", "tails"), np.where(person < 40, "left", "right")
    rows["accuracy"] = ((person * 7 + rows["row"]) % 4 > 0).astype(float)
    rows.loc[person < 40, "accuracy"] = ((person * 7 + rows["row"]) % 5 > 1).astype(float)  # .6, of the others .75
    report = write_report(rows, output_dir=tmp_path, group_columns=["coin"], n_resamples=200)
    assert "worst served is type left" in report.headline[0]


def test_what_the_report_is_made_of_and_which_way_is_better(tmp_path: Path) -> None:
    facts = {"data": "judgements.csv: 9 rows → 8 preferences", "backbone": "tiny | <b>"}
    rows = table({"pal": 0.8}).assign(toxicity=0.1)
    report = write_report(
        rows, output_dir=tmp_path, facts=facts, metrics=["accuracy", "toxicity"], n_resamples=50,
    )  # fmt: skip
    assert report.data["facts"]["judged"] == "800 judgements of 40 annotators"
    assert report.data["facts"]["made"].startswith(report.data["date"])
    page, text = (path.read_text(encoding="utf-8") for path in (report.html_path, report.markdown_path))
    for shown in ("judgements.csv: 9 rows → 8 preferences", "800 judgements of 40 annotators", report.data["date"]):
        assert shown in page and shown in text
    assert "tiny | &lt;b&gt;" in page and "- backbone: tiny &#124; &#60;b&#62;" in text
    for shown in (page, text):
        assert "More is better of accuracy; less is better of toxicity." in shown
    assert page.index("Judged by 800") < page.index("judgements.csv") < page.index("What these numbers are")


def test_the_conclusion_and_the_sentences_after_it_have_the_same_intervals(tmp_path: Path) -> None:
    rows = table({"pooled": 0.6, "pal": 0.75})
    person = rows["annotator_id"].str[1:].astype(int)
    rows["type"], rows["country"] = np.where(person % 2, "x", "y"), np.where(person < 12, "PL", "PT")
    rows.loc[person < 12, "accuracy"] *= (np.arange((person < 12).sum()) % 3 > 0).astype(float)
    report = write_report(rows, output_dir=tmp_path, group_columns=["country"], n_resamples=200)
    overall = report.data["sections"][0]["models"][1]["frames"][2]["metrics"]["accuracy"]["overall"]
    interval = f"{overall['low']:.3f} to {overall['high']:.3f}"
    assert (
        f"(90 % interval {interval})" in report.conclusion[0] and f"(90 % interval {interval})" in report.headline[0]
    )
    (compared,) = [row for c in report.data["sections"][0]["comparisons"] for row in c["rows"]
                   if (c["groups"], c["metric"], row["stat"]) == (["country"], "accuracy", "overall")]  # fmt: skip
    assert f"{100 * compared['low']:+.1f} to {100 * compared['high']:+.1f}" in report.conclusion[0]


def test_how_rows_were_read_is_folded_away(tmp_path: Path) -> None:
    notes = ["read a.csv: 3 rows → 3 preferences", "  who      rater   3 values <b>", "K = 2 was chosen."]
    report = write_report(table({"pal": 0.8}), output_dir=tmp_path, notes=notes, n_resamples=20)
    page, text = (path.read_text(encoding="utf-8") for path in (report.html_path, report.markdown_path))
    inside = re.search(r"<details class=\"reading\">(.*?)</details>", page).group(1)
    assert "read a.csv" in inside and "3 values &lt;b&gt;" in inside and "K = 2" not in inside
    assert "- who rater 3 values &#60;b&#62;" in text and "\nK = 2 was chosen.\n" in text


def test_what_types_like_is_a_table_and_stands_at_the_corners(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    weights = {f"p{i}": np.eye(4)[i % 4] for i in range(40)}
    names = [f"prototype_{k}" for k in range(4)]
    likes = [
        {
            "type": name,
            "most": ["a <b> text"],
            "least": ["bad"],
            "words": ["sun", "sea"] if k else [],
            "other_words": [],
        }
        for k, name in enumerate(names)
    ]
    figures = FigureData(weights, names, likes=likes)
    report = write_report(table({"pal": 0.8}), output_dir=tmp_path, figures=figures, n_resamples=20)
    page, text = (path.read_text(encoding="utf-8") for path in (report.html_path, report.markdown_path))
    picture = page[page.index("Annotators among the types") :]
    assert picture.count(">sun, sea</text>") == 3 and ">“a &lt;b&gt; text”</text>" in picture
    assert "<h2>What each type likes</h2>" in page and "“a &lt;b&gt; text”" in page and "<b>" not in page
    assert "prototype_1 against the others: likes “a &#60;b&#62; text” most" in text and "&#95;" not in text


def test_one_model_alone_concludes_without_a_comparison(tmp_path: Path) -> None:
    (sentence,) = write_report(table({"pal": 0.9}), output_dir=tmp_path, n_resamples=200).conclusion
    assert "pooled" not in sentence and "0.9" in sentence


def test_policies_have_no_such_sentence(tmp_path: Path) -> None:
    policies = pd.DataFrame({"model": "prompt", "annotator_id": ["a", "b"], "row": [0, 1], "gold": [1.0, 2.0]})
    assert write_report(policies, output_dir=tmp_path, n_resamples=50).conclusion == []


def test_what_types_like() -> None:
    texts = [f"{word} number {i}" for i in range(20) for word in ("sunny", "rainy")]
    sunny = np.array([text.startswith("sunny") for text in texts])
    scores = np.stack([np.where(sunny, 1.0, 0.0), np.where(sunny, 0.0, 1.0)], 1) + 5.0
    first, second = type_likes(["type_0", "type_1"], texts, scores, np.repeat(np.arange(20), 2))
    assert len(first["most"]) == 3 and all(text.startswith("sunny") for text in first["most"])
    assert first["words"] == ["sunny"] and first["other_words"] == ["rainy"] and second["words"] == ["rainy"]
    sentence = likes_sentence(second)
    assert sentence.count("“rainy") == 3 and "likes “rainy" in sentence and "of what it does not: sunny." in sentence
    assert type_likes(["only"], texts, scores[:, :1], np.arange(40)) == []


def test_people_without_a_row_held_out_are_counted() -> None:
    def rows(*people: str) -> Preferences:
        return Preferences.from_rows(
            [{"annotator_id": p, "prompt": "q", "chosen": "a", "rejected": "b"} for p in people]
        )

    assert people_in_no_number(rows("a", "b"), rows("a", "b")) == []
    (sentence,) = people_in_no_number(rows("a", "b", "c"), rows("a"))
    assert sentence.startswith("2 of the 3 annotators")
