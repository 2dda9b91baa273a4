"""What a report concludes, and what types like."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from palign.data.preferences import Preferences
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
    assert first.count("“sunny") == 3 and "likes “sunny" in first and "Words of what it likes: sunny;" in first
    assert "likes “rainy" in second and "of what it does not: sunny" in second
    assert type_likes(["only"], texts, scores[:, :1], np.arange(40)) == []


def test_people_without_a_row_held_out_are_counted() -> None:
    def rows(*people: str) -> Preferences:
        return Preferences.from_rows(
            [{"annotator_id": p, "prompt": "q", "chosen": "a", "rejected": "b"} for p in people]
        )

    assert people_in_no_number(rows("a", "b"), rows("a", "b")) == []
    (sentence,) = people_in_no_number(rows("a", "b", "c"), rows("a"))
    assert sentence.startswith("2 of the 3 annotators")
