"""Exports of tools and public sets, each from a small file of its form made by hand; recognised, and said."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from palign.data.loading import load_preferences
from palign.data.preferences import Preferences


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(r) + "\n" for r in rows))
    return path


def orders(prefs: Preferences) -> list[tuple[str, list[str], list[int]]]:
    """(who, items best first, ranks) of each row."""
    texts = [item if isinstance(item, str) else item[-1]["content"] for _, item in prefs.items]
    n = prefs.n_items
    return [(prefs.annotator_ids[i], [texts[k] for k in prefs.item_indices[i, : n[i]]], prefs.ranks[i, : n[i]].tolist())  # noqa: E501
            for i in range(len(prefs))]  # fmt: skip


# Argilla 2


def argilla(**responses: list[dict[str, Any]]) -> dict[str, Any]:
    fields = {"instruction": "ask", "response-1": "one", "response-2": "two", "response-3": "three"}
    return {"id": "r1", "fields": fields, "metadata": {"topic": "t"}, "suggestions": {}, "responses": responses,
            "vectors": {}, "_server_id": "s"}  # fmt: skip


def test_argilla_to_json(tmp_path: Path) -> None:
    ranking = [{"value": ["response-2", "response-1", "response-3"], "user_id": "u1"},
               {"value": [{"value": "response-1", "rank": 1}, {"value": "response-3", "rank": 1},
                          {"value": "response-2", "rank": 2}], "user_id": "u2"}]  # fmt: skip
    prefs = load_preferences(written(tmp_path / "records.json", [argilla(ranking=ranking)]))
    assert orders(prefs) == [("u1", ["two", "one", "three"], [0, 1, 2]), ("u2", ["one", "three", "two"], [0, 0, 1])]
    assert prefs.prompts == ["ask"] and prefs.columns["topic"].tolist() == ["t", "t"]
    assert "read as 'argilla' by its form" in str(prefs.reading)


def test_argilla_to_datasets_with_drafts_and_labels(tmp_path: Path) -> None:
    row = {"id": "r1", "status": "completed", "_server_id": "s", "prompt": "ask", "response_a": "one", "response_b": "two",  # noqa: E501
           "preference.responses": ["response_b", "response_a", "tie", "response_a"],
           "preference.responses.users": ["u1", "u2", "u3", "u4"],
           "preference.responses.status": ["submitted", "draft", "submitted", "discarded"],
           "preference.suggestion": None}  # fmt: skip
    for name in ("r.json", "r.jsonl", "r.parquet"):
        prefs = load_preferences(written(tmp_path / name, [row]))
        assert orders(prefs) == [("u1", ["two", "one"], [0, 1])]
        text = str(prefs.reading)
        assert "1 draft answers" in text and "1 discarded answers" in text and "1 ties" in text


def test_argilla_answers_about_an_empty_field(tmp_path: Path) -> None:
    record = argilla(best=[{"value": "response-2", "user_id": "u1"}], order=[
        {"value": ["response-2", "response-1", "response-3"], "user_id": "u2"}])  # fmt: skip
    record["fields"] |= {"response-1": None}
    prefs = load_preferences(written(tmp_path / "r.json", [record, argilla(best=[{"value": "response-1", "user_id": "u"}])]))  # noqa: E501  # fmt: skip
    assert ("u2", ["two", "three"], [0, 1]) in orders(prefs)
    record["responses"] = {"best": [{"value": "response-2", "user_id": "u1"}]}
    record["fields"] |= {"response-3": None}
    prefs = load_preferences(written(tmp_path / "r.json", [record, argilla(best=[{"value": "response-1", "user_id": "u"}])]))  # noqa: E501  # fmt: skip
    assert prefs.annotators().ids == ["u"] and "1 answers about a field that is empty" in str(prefs.reading)


def test_argilla_labels_that_call_sides(tmp_path: Path) -> None:
    record = argilla(
        preference=[{"value": "A", "user_id": "u1", "status": "submitted"}, {"value": "B", "user_id": "u2"}]
    )
    record["fields"] = {"prompt": "ask", "answer_a": "one", "answer_b": "two"}
    prefs = load_preferences(written(tmp_path / "r.json", [record]))
    assert orders(prefs) == [("u1", ["one", "two"], [0, 1]), ("u2", ["two", "one"], [0, 1])]


# Label Studio


def task(*annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"prompt": "ask", "text1": "one", "text2": "two"} | data, "annotations": list(annotations),  # noqa: E501
            "predictions": []}  # fmt: skip


def annotation(who: Any, value: dict[str, Any], kind: str = "pairwise", **more: Any) -> dict[str, Any]:
    result = {"id": "x", "from_name": "pw", "to_name": "txt-1,txt-2", "type": kind, "value": value}
    return {"id": 7, "completed_by": who, "was_cancelled": False, "result": [result]} | more


def test_label_studio_pairwise(tmp_path: Path) -> None:
    rows = [task(annotation(3, {"selected": "right"}), annotation({"id": 4, "email": "a@b.c"}, {"selected": "left"}),
                 annotation(5, {"selected": "left"}, was_cancelled=True), {"id": 8, "completed_by": 6, "result": []})]  # noqa: E501  # fmt: skip
    prefs = load_preferences(written(tmp_path / "export.json", rows))
    assert orders(prefs) == [("3", ["two", "one"], [0, 1]), ("a@b.c", ["one", "two"], [0, 1])]
    assert "1 skipped annotations" in str(prefs.reading) and prefs.prompts == ["ask"]


def test_label_studio_ranker(tmp_path: Path) -> None:
    items = [{"id": "a", "title": "A", "body": "one"}, {"id": "b", "title": "B", "body": "two"}]
    rows = [task(annotation(1, {"ranker": ["b", "a"]}, "ranker"), annotation(2, {"ranker": {"rank": ["a", "b"]}}, "ranker"),  # noqa: E501
                 annotation(3, {"ranker": {"_": ["a"], "good": ["b"]}}, "ranker"), items=items)]  # fmt: skip
    prefs = load_preferences(written(tmp_path / "export.json", rows))
    assert orders(prefs) == [("1", ["two", "one"], [0, 1]), ("2", ["one", "two"], [0, 1])]
    assert "buckets" in str(prefs.reading)


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_label_studio_min_and_csv(tmp_path: Path, suffix: str) -> None:
    row = {"id": 1, "prompt": "ask", "text1": "one", "text2": "two", "annotator": 9, "annotation_id": 3, "lead_time": 2.5,  # noqa: E501
           "created_at": "2026-01-01", "updated_at": "2026-01-01"}  # fmt: skip
    rows = [
        row | {"pw": "left"},
        row | {"pw": '[{"selected": "right"}]' if suffix == "csv" else {"selected": "right"}},
    ]
    prefs = load_preferences(written(tmp_path / f"export.{suffix}", rows))
    assert orders(prefs) == [("9", ["one", "two"], [0, 1]), ("9", ["two", "one"], [0, 1])]


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_label_studio_rankings_in_min_and_csv(tmp_path: Path, suffix: str) -> None:
    """As the converter writes them: the list of results under the tag's name; in CSV lists are JSON in a cell."""
    items = [{"id": "a", "title": "A", "body": "one"}, {"id": "b", "title": "B", "body": "two"}]
    lists = {"items": items, "rank": [{"ranker": {"rank": ["b", "a"]}}]}
    row = {"annotation_id": 3, "annotator": "9", "created_at": "2026-01-01", "id": 1, "lead_time": 2.5, "prompt": "ask",  # noqa: E501
           "updated_at": "2026-01-01", **(lists if suffix == "json" else {k: json.dumps(v) for k, v in lists.items()})}  # noqa: E501  # fmt: skip
    assert orders(load_preferences(written(tmp_path / f"x.{suffix}", [row]))) == [("9", ["two", "one"], [0, 1])]


def test_label_studio_fields_that_nothing_names(tmp_path: Path) -> None:
    row = task(annotation(3, {"selected": "right"}))
    row["data"] = {"prompt": "ask", "ours": "one", "theirs": "two"}
    path = written(tmp_path / "export.json", [row])
    with pytest.raises(ValueError, match="nothing says which two were compared.*--first_column"):
        load_preferences(path)
    prefs = load_preferences(path, source="label-studio", first_column="ours", second_column="theirs")
    assert orders(prefs) == [("3", ["two", "one"], [0, 1])]


# PrefLib


def test_preflib_of_today_and_of_before(tmp_path: Path) -> None:
    new = "# FILE NAME: x.toi\n# TITLE: Cities\n# NUMBER ALTERNATIVES: 3\n# ALTERNATIVE NAME 1: Rome\n"
    new += "# ALTERNATIVE NAME 2: Oslo, north\n# ALTERNATIVE NAME 3: Bern\n2: 3,{1,2}\n1: 2,1\n4: 1\n"
    (tmp_path / "x.toi").write_text(new)
    prefs = load_preferences(tmp_path / "x.toi")
    assert orders(prefs) == [
        ("voter_1", ["Bern", "Rome", "Oslo, north"], [0, 1, 1]), ("voter_2", ["Bern", "Rome", "Oslo, north"], [0, 1, 1]),  # noqa: E501
        ("voter_3", ["Oslo, north", "Rome"], [0, 1]),
    ]  # fmt: skip
    assert "4 ballots that compare nothing" in str(prefs.reading)
    (tmp_path / "y.soc").write_text("2\n1,Rome\n2,Oslo\n3,3,2\n2,1,2\n1,2,1\n")
    assert [order for _, order, _ in orders(load_preferences(tmp_path / "y.soc"))] == [["Rome", "Oslo"]] * 2 + [
        ["Oslo", "Rome"]
    ]
    (tmp_path / "z.soc").write_text(new + "1: 9,1\n")
    with pytest.raises(ValueError, match="line 10: alternative 9 has no name"):
        load_preferences(tmp_path / "z.soc")


# Polis


@pytest.mark.parametrize("name", ["participant-votes.csv", "participants-votes.csv"])
def test_polis_of_today(tmp_path: Path, name: str) -> None:
    comments = [{"timestamp": 1, "comment-id": i, "author-id": 0, "comment-body": f"s{i}"} for i in range(20)]
    written(tmp_path / "comments.csv", comments)
    votes = [{"timestamp": 100 + i, "datetime": "x", "comment-id": i, "voter-id": 5, "vote": 1 if i < 10 else -1}
             for i in range(20)]  # fmt: skip
    late = votes[0] | {"timestamp": 900, "vote": -1}  # the newer vote stands first
    written(tmp_path / "votes.csv", [late, *votes])
    (tmp_path / name).write_text(
        "participant,group-id,n-comments,n-votes,n-agree,n-disagree,0,1\n5,1,0,20,9,11,-1,1\n"
    )
    prefs = load_preferences(tmp_path)
    better = {items[0] for _, items, _ in orders(prefs)}
    assert "s0" not in better and better <= {f"s{i}" for i in range(1, 10)}
    assert set(prefs.columns["opinion_group"]) == {"group_1"} and "read as 'polis'" in str(prefs.reading)


# arenas


def talk(*texts: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def part(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "image": None, "mimeType": None}]


VOTE = {"model_a": "m", "model_b": "n", "language": "English"}


@pytest.mark.parametrize(
    ("more", "who"), [({"judge": "arena_user_1"}, "arena_user_1"), ({"judge_hash": "ab12"}, "ab12"), ({}, "unknown")]
)
def test_arenas_of_conversations(tmp_path: Path, more: dict, who: str) -> None:
    a, b = talk(part("ask"), part("one")), talk(part("ask"), part("two"))
    rows = [
        VOTE | more | {"winner": w, "conversation_a": a, "conversation_b": b} for w in ("model_b", "tie", "both_bad")
    ]
    prefs = load_preferences(written(tmp_path / "train.jsonl", rows))
    assert orders(prefs) == [(who, ["two", "one"], [0, 1])] and prefs.prompts == [talk("ask")]
    assert "2 ties" in str(prefs.reading) and ("no column says who judged" in str(prefs.reading)) == (who == "unknown")
    rows[0]["winner"] = "perhaps"
    with pytest.raises(ValueError, match="row 0 .*'perhaps' is not understood"):
        load_preferences(written(tmp_path / "train.jsonl", rows))


def test_the_arena_of_three_columns(tmp_path: Path) -> None:
    row = {"id": 1, "model_a": "m", "model_b": "n", "prompt": json.dumps(["hi", "ask"]),
           "response_a": json.dumps(["ho", "one"]), "response_b": json.dumps(["ho", "two"])}  # fmt: skip
    marks = [(0, 1, 0), (0, 0, 1)]
    rows = [row | dict(zip(("winner_model_a", "winner_model_b", "winner_tie"), m, strict=True)) for m in marks]
    prefs = load_preferences(written(tmp_path / "train.csv", rows))
    assert orders(prefs) == [("unknown", ["two", "one"], [0, 1])] and prefs.prompts == [talk("hi", "ho", "ask")]


# public sets


def test_community_alignment_reads_all_four(tmp_path: Path) -> None:
    row = {"conversation_id": "c", "assigned_lang": "en", "annotator_id": "p1", "annotator_age": "18-30",
           "first_turn_prompt": "ask", "first_turn_preferred_response": "response_c",
           **{f"first_turn_response_{side}": f"{side}<|end_of_text|>" for side in "abcd"},
           "second_turn_prompt": "more", "second_turn_preferred_response": "response_a",
           **{f"second_turn_response_{side}": f"{side}2" for side in "abcd"},
           "third_turn_prompt": None, "third_turn_preferred_response": None}  # fmt: skip
    for name in ("x.jsonl", "x.csv"):
        prefs = load_preferences(written(tmp_path / name, [row]))
        assert orders(prefs) == [
            ("p1", ["c", "a", "b", "d"], [0, 1, 1, 1]), ("p1", ["a2", "b2", "c2", "d2"], [0, 1, 1, 1]),
        ]  # fmt: skip
        assert prefs.prompts == [talk("ask"), talk("ask", "c", "more")]
        assert prefs.columns["annotator_age"].tolist() == ["18-30", "18-30"]


PUBLIC = {
    "shp": (
        [{"post_id": "p", "domain": "askculinary_train", "history": "ask", "human_ref_A": "one", "human_ref_B": "two",
          "labels": label, "score_A": 1, "score_B": 2} for label in (1, 0)],
        [("r/askculinary", ["one", "two"], [0, 1]), ("r/askculinary", ["two", "one"], [0, 1])],
    ),
    "oasst": (
        [{"message_id": "q", "parent_id": None, "user_id": "w", "text": "ask", "role": "prompter", "rank": None, "lang": "en",  # noqa: E501
          "message_tree_id": "q"},
         *({"message_id": m, "parent_id": "q", "user_id": "w", "text": text, "role": "assistant", "rank": rank, "lang": "en",  # noqa: E501
            "message_tree_id": "q"} for m, text, rank in (("a", "one", 2.0), ("b", "two", 0.0), ("c", "three", 1.0)))],
        [("volunteers", ["two", "three", "one"], [0, 1, 2])],
    ),
    "personal-llm": (
        [{"prompt": "ask", "subset": "s", "response_1": "one", "response_2": "two", "response_1_model": "m",
          "response_2_model": "n", "response_1_gemma_2b": 0.5, "response_2_gemma_2b": 1.5, "response_1_mistral_ray":
          3.0,
          "response_2_mistral_ray": -1.0}],
        [("gemma_2b", ["two", "one"], [0, 1]), ("mistral_ray", ["one", "two"], [0, 1])],
    ),
    "reward-bench-2": (
        [{"id": "1", "prompt": "ask", "chosen": ["one", "two"], "rejected": ["three"], "num_correct": 2,
          "num_incorrect": 1, "subset": "Ties"}],
        [("reward-bench-2", ["one", "two", "three"], [0, 0, 1])],
    ),
    "helpsteer": (
        [{"domain": "g", "language": "en", "context": talk("ask"), "response1": "one", "response2": "two",
          "overall_preference": 1,
          "individual_preference": [{"score": 2, "reasoning": ""}, {"score": -1}, {"score": 0}]}],
        [("slot_0", ["two", "one"], [0, 1]), ("slot_1", ["one", "two"], [0, 1])],
    ),
    "multipref": (
        [{"text": "ask", "completion_a": "one", "completion_b": "two", "source": "s",
          "normal_worker_annotations": [{"evaluator": "n1", "overall_pref": "B-is-slightly-better"}],
          "expert_worker_annotations": [{"evaluator": "e1", "overall_pref": "A-is-clearly-better"}]}],
        [("normal_n1", ["two", "one"], [0, 1]), ("expert_e1", ["one", "two"], [0, 1])],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("how", ["json", "jsonl", "frame", "named"])
def test_public_sets_are_recognised(tmp_path: Path, name: str, how: str) -> None:
    rows, expected = PUBLIC[name]
    data = pd.DataFrame(rows) if how == "frame" else written(tmp_path / f"x.{'json' if how == 'named' else how}", rows)
    prefs = load_preferences(data, **({"source": name} if how == "named" else {}))
    assert orders(prefs) == expected and f"read as {name!r}" in str(prefs.reading)


def test_ultrafeedback_is_recognised(tmp_path: Path) -> None:
    def answer(text: str, rating: str) -> dict[str, Any]:
        return {"response": text, "model": "m", "annotations": {"helpfulness": {"Rating": rating}}}

    row = {
        "source": "s",
        "instruction": "ask",
        "models": ["m"],
        "completions": [answer("one", "2"), answer("two", "5")],
    }
    prefs = load_preferences(written(tmp_path / "u.jsonl", [row]))
    assert orders(prefs) == [("helpfulness", ["two", "one"], [0, 1])]


def arena(**more: Any) -> dict[str, Any]:
    return {"model_a": "x", "model_b": "y", "winner": "model_a", "judge": "j", "conversation_a": talk("ask", "one"),
            "conversation_b": talk("ask", "two")} | more  # fmt: skip


def test_an_arena_names_the_model_that_won(tmp_path: Path) -> None:
    """Also where a model's name is a word for a side: "y" by itself is the second."""
    rows = [arena(model_a="gpt", model_b="llama", winner="llama"), arena(model_a="y", model_b="x", winner="y")]
    prefs = load_preferences(written(tmp_path / "a.json", rows))
    assert [order for _, order, _ in orders(prefs)] == [["two", "one"], ["one", "two"]]


ODD = {
    "arena": ([arena(), arena(winner="claude")], "the winner 'claude' is not understood"),
    "arena that asks two things": (
        [arena(), arena(conversation_b=talk("else", "two"))], "the two conversations begin with different messages",
    ),
    "helpsteer": (
        [PUBLIC["helpsteer"][0][0], PUBLIC["helpsteer"][0][0] | {"individual_preference": [{"score": "high"}]}],
        "the score 'high' is not understood; numbers from -3",
    ),
    "multipref": (
        [PUBLIC["multipref"][0][0], PUBLIC["multipref"][0][0]
         | {"normal_worker_annotations": [{"evaluator": "n", "overall_pref": "A is better"}]}],
        "the preference 'A is better' is not understood",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_word_of_a_public_set_that_is_not_understood_is_never_dropped(tmp_path: Path, name: str) -> None:
    rows, words = ODD[name]
    path = written(tmp_path / "a.json", rows)
    with pytest.raises(ValueError, match=f"row 1 .*{words}"):
        load_preferences(path)
    prefs = load_preferences(path, bad_rows="drop")
    assert len(prefs) and "dropped 1 bad rows" in str(prefs.reading)


def test_letters_among_preflib_numbers(tmp_path: Path) -> None:
    head = "# ALTERNATIVE NAME 1: A\n# ALTERNATIVE NAME 2: B\n"
    (tmp_path / "a.soi").write_text(head + "2: 1,2\n1: x,2\n")
    with pytest.raises(ValueError, match="a.soi, line 4: 'x' is no number of an alternative"):
        load_preferences(tmp_path / "a.soi")
    (tmp_path / "a.soi").write_text(head + "2: 1,2\n1: x,2\n1: 9,1\n1: 1,1\n")
    with pytest.raises(ValueError, match="line 4: 'x'.*; line 5: alternative 9 has no name.*; line 6: .* twice"):
        load_preferences(tmp_path / "a.soi")
    prefs = load_preferences(tmp_path / "a.soi", bad_rows="drop")
    assert len(prefs) == 2 and "3 lines that are no ballots" in str(prefs.reading)


def test_all_bad_records_of_an_export_in_one_list(tmp_path: Path) -> None:
    """Labels that nobody knows in records 2 and 4, none in record 3: one list, and dropped on request."""
    shp = {"history": "ask", "human_ref_A": "one", "human_ref_B": "two", "domain": "x_train"}
    rows = [shp | {"labels": 0}, shp | {"labels": 1}, shp | {"labels": 2}, shp | {"label": 1}, shp | {"labels": 2}]
    path = written(tmp_path / "shp.json", rows)
    with pytest.raises(ValueError) as caught:
        load_preferences(path)
    said = str(caught.value)
    assert said.startswith("shp.json: 3 of 5 rows are bad: 2 × SHP: labels is 2") and "(rows 2, 4)" in said
    assert "1 × the record is not of the form of 'shp'" in said and said.endswith("with --bad_rows drop.")
    prefs = load_preferences(path, bad_rows="drop")
    assert orders(prefs) == [("r/x", ["two", "one"], [0, 1]), ("r/x", ["one", "two"], [0, 1])]
    assert "dropped 3 bad rows" in str(prefs.reading) and "the file has 5 records" in str(prefs.reading)


def test_bad_lines_of_a_csv_export_are_named_as_an_editor_counts(tmp_path: Path) -> None:
    row = {"id": 1, "prompt": "ask\nagain", "text1": "one", "text2": "two", "annotator": 9, "annotation_id": 3, "lead_time": 2}  # noqa: E501  # fmt: skip
    rows = [row | {"pw": "left"}, row | {"pw": '{"selected": "up"}'}, row | {"pw": '{"selected": "down"}'}]
    with pytest.raises(ValueError, match=r"2 of 3 rows are bad.*\(lines 4, 6\)"):
        load_preferences(written(tmp_path / "export.csv", rows))


def test_replies_that_answer_each_other_come_to_an_end(tmp_path: Path) -> None:
    base = {"role": "assistant", "text": "a", "rank": 0}
    rows = [base | {"message_id": "a", "parent_id": "b"}, base | {"message_id": "b", "parent_id": "a", "text": "b"},
            base | {"message_id": "c", "parent_id": "a", "text": "c", "rank": 1},
            base | {"message_id": "d", "parent_id": "a", "text": "d", "rank": 2}]  # fmt: skip
    assert orders(load_preferences(written(tmp_path / "oasst.json", rows)))[0][1] == ["b", "c", "d"]


def test_columns_that_are_named_are_not_recognised(tmp_path: Path) -> None:
    rows = [VOTE | {"winner": "model_a", "judge": "j", "conversation_a": talk("ask", "one"),
                    "conversation_b": talk("ask", "two")}]  # fmt: skip
    names = {"annotator_column": "judge", "first_column": "conversation_a", "second_column": "conversation_b"}
    prefs = load_preferences(written(tmp_path / "x.jsonl", rows), winner_column="winner", **names)
    assert orders(prefs) == [("j", ["one", "two"], [0, 1])] and "read as" not in str(prefs.reading)


def test_an_export_that_is_none(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", [{"a": 1}])
    with pytest.raises(
        ValueError, match="--source is 'nothing', which is no export known here; there are arena, argilla"
    ):
        load_preferences(path, source="nothing")
    with pytest.raises(ValueError, match="x.jsonl, read as 'arena': row 0 .*winner_model_a"):
        load_preferences(path, source="arena")


def test_an_answer_that_is_missing_leaves_no_half_file(tmp_path: Path) -> None:
    from palign.data.sources import write_source

    row = {"annotator_id": "a", "prompt": "p", "response_a": "x", "response_b": "y", "winner": "a"}
    path = written(tmp_path / "t.jsonl", [row] * 5 + [row | {"response_b": None}])
    with pytest.raises(
        ValueError, match=r"row 5 \(counting from 0\), column 'response_b': a text is needed, found None"
    ):
        write_source("table", tmp_path / "out", path=path)
    assert list((tmp_path / "out").iterdir()) == []
