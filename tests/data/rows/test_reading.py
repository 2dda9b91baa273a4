"""Other people's files: read right, or one sentence; and what was read can be checked at a glance."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from palign.data.loading import load_preferences
from palign.data.preferences import Preferences
from palign.data.rows.reading import similar_groups

NAMES = {"annotator_column": "rater", "prompt_column": "question", "first_column": "answer_a"}
NAMES |= {"second_column": "answer_b", "winner_column": "winner"}


def judged(*winners: Any, **more: Any) -> pd.DataFrame:
    """One row for each winner: two answers that name their side."""
    rows = [{"rater": f"r{i % 3}", "question": f"q{i}", "answer_a": f"left {i}", "answer_b": f"right {i}", "winner": w}
            for i, w in enumerate(winners)]  # fmt: skip
    return pd.DataFrame(rows).assign(**more)


def sides(prefs: Preferences) -> list[str]:
    """Which side was preferred, row by row."""
    return [row["chosen"].split()[0] for row in prefs.to_rows()]


WINNERS = {
    "letters": (["A", "b", "B ", "a"], "left right right left"),
    "A is better": (["A is better", "B is better", "Tie"], "left right"),
    "Left is better": (["Left is better", "Right is better", "About the same"], "left right"),
    "A>B": (["A>B", "A<B", "B > A", "A=B", "A>>B"], "left right right left"),
    "response_1": (["response_1", "response_2", "both bad"], "left right"),
    "model_a": (["model_a", "model_b", "tie (bothbad)", "both_bad"], "left right"),
    "1 and 2": ([1, 2, 1], "left right left"),
    "1.0 and 2.0": ([1.0, 2.0, 2.0], "left right right"),
    "texts of 1.0 and 2.0": (["1.0", "2.0", "2.0"], "left right right"),
    "0 and 1": ([0, 1, 1], "left right right"),
    "first and second": (["First", "SECOND", "draw"], "left right"),
    "objects": ([{"selected": "left"}, {"selected": "right"}], "left right"),
    "objects as texts": (['{"selected": "left"}', '{"selected": "right"}'], "left right"),
    "names of the columns": (["answer_a", "answer_b"], "left right"),
    "the texts themselves": (["right 0", "left 1"], "right left"),
    "strength": ([-3, 2, 0, -1, 1], "left right left right"),
    "verdicts of a judge": (["[[A]]", "[[B]]", "[[A=B]]"], "left right"),
    "a worse one": (["A is worse", "B is worse"], "right left"),
    "degrees": (["A is slightly better", "B is much better", "neither"], "left right"),
}


@pytest.mark.parametrize("kind", WINNERS)
def test_a_winner_in_every_form(kind: str) -> None:
    winners, expected = WINNERS[kind]
    prefs = load_preferences(judged(*winners), **NAMES)
    assert " ".join(sides(prefs)) == expected
    n_ties = len(winners) - len(expected.split())
    assert sum(prefs.reading.left_out.values()) == n_ties and prefs.reading.n_rows == len(winners)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz"])
@pytest.mark.parametrize("kind", ["0 and 1", "A>B", "strength", "the texts themselves"])
def test_a_winner_in_every_kind_of_file(tmp_path: Path, suffix: str, kind: str) -> None:
    winners, expected = WINNERS[kind]
    frame, path = judged(*winners), tmp_path / f"j.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix.startswith("json"):
        frame.to_json(path, orient="records", lines=suffix == "jsonl")
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    assert " ".join(sides(load_preferences(path, **NAMES))) == expected


def test_numbers_say_which_side_they_were_taken_for() -> None:
    text = str(load_preferences(judged(0, 1, 1), **NAMES).reading)
    assert "0 means answer_a and 1 answer_b" in text and "'0' → answer_a (1)" in text and "'1' → answer_b (2)" in text
    strong = load_preferences(judged(-3, 0, 2), **NAMES)
    assert "a negative winner means answer_a is better" in str(strong.reading)
    assert strong.columns["strength"].tolist() == [3, 2] and strong.columns["position"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("winners", "shown"),
    [
        ([0, 0], r"0 \(2\)"),
        ([0, 1, 2], r"0 \(1\), 1 \(1\), 2 \(1\)"),
        ([1, 1], r"1 \(2\)"),
        ([0, 0.5, 1], r"0.5 \(1\)"),
        (["A", "B", "unsure", "unsure", "?"], r"unsure \(2\), \? \(1\)"),
        ([True, False], r"true \(1\), false \(1\)"),
        (["Alice", "Bob"], r"Alice \(1\), Bob \(1\)"),
    ],
)
@pytest.mark.parametrize("mode", ["stop", "drop"])
def test_what_is_not_understood_is_listed_with_counts(winners: list, shown: str, mode: str) -> None:
    with pytest.raises(ValueError, match=rf"not understood: .*{shown}.*--winner_values first="):
        load_preferences(judged(*winners), bad_rows=mode, **NAMES)


def test_the_user_says_what_values_mean() -> None:
    given = {"winner_values": ["first=1", "second=0", "tie=0.5"]}
    assert sides(load_preferences(judged(0, 1, 0.5), **NAMES, **given)) == ["right", "left"]
    given = {"winner_values": {"first": True, "second": False}}
    assert sides(load_preferences(judged(True, False), **NAMES, **given)) == ["left", "right"]
    with pytest.raises(ValueError, match="must say both sides"):
        load_preferences(judged(0, 1), **NAMES, winner_values=["first=1"])
    with pytest.raises(ValueError, match="two sides"):
        load_preferences(judged(0, 1), **NAMES, winner_values=["first=1", "second=1.0"])


def test_names_of_models_win() -> None:
    frame = judged("gpt", "llama", "tie", model_a=["gpt", "gpt", "gpt"], model_b=["llama", "llama", "llama"])
    assert sides(load_preferences(frame, **NAMES)) == ["left", "right"]


def test_a_word_that_a_row_gives_to_the_other_side_is_not_guessed() -> None:
    frame = judged("A", "B").assign(answer_a=["B", "x"], answer_b=["A", "y"])
    with pytest.raises(ValueError, match=r"not understood: A \(1\)"):
        load_preferences(frame, **NAMES)


@pytest.mark.parametrize("column", ["winner_model_a,winner_model_b,winner_tie", "winner"])
def test_three_columns_of_marks(column: str) -> None:
    marks = {"winner_model_a": [1, 0, 0], "winner_model_b": [0, 1, 0], "winner_tie": [0, 0, 1]}
    frame = judged("", "", "").drop(columns="winner").assign(**marks)
    assert sides(load_preferences(frame, **NAMES | {"winner_column": column})) == ["left", "right"]
    frame.loc[1, "winner_model_a"] = 1
    with pytest.raises(ValueError, match="one of three columns must be 1"):
        load_preferences(frame, **NAMES | {"winner_column": column})


def test_the_summary_is_the_one_of_the_documentation(tmp_path: Path) -> None:
    judged("A", "B", "tie", "A").to_csv(tmp_path / "judgements.csv", index=False)
    lines = load_preferences(tmp_path / "judgements.csv", **NAMES).reading.lines()
    assert lines[0] == "read judgements.csv: 4 rows → 3 preferences of 2 people (1 tie: no preference)"
    assert lines[1].split() == ["who", "rater", "2", "values,", "e.g.", "'r0'"]
    assert lines[2].split() == ["prompt", "question", "plain", "text"]
    assert lines[3].split(None, 1)[1] == "winner = 'A' → answer_a (2), 'B' → answer_b (1), 'tie' (1)"
    assert lines[4] == '  first row: r0 · "q0" · preferred "left 0" · over "right 0"'


# files


def test_separators_are_sniffed_and_said(tmp_path: Path) -> None:
    for separator in ";\t|":
        path = tmp_path / "a.csv"
        judged("A", "B").assign(question=["x, y, z", "u, v"]).to_csv(path, sep=separator, index=False)
        prefs = load_preferences(path, **NAMES)
        assert prefs.prompts == ["x, y, z", "u, v"] and "the cells are separated by" in str(prefs.reading)
    text = "sep=;\n" + judged("A", "B").to_csv(sep=";", index=False)
    (tmp_path / "a.csv").write_text(text)
    assert len(load_preferences(tmp_path / "a.csv", **NAMES)) == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_marks_of_an_encoding(tmp_path: Path, encoding: str) -> None:
    text = judged("A", "B").assign(question=["ü😀", "v"]).to_csv(index=False)
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "a.csv").write_bytes((mark + text).encode(encoding))
    assert load_preferences(tmp_path / "a.csv", **NAMES).prompts == ["ü😀", "v"]


def test_lines_that_end_in_a_comma(tmp_path: Path) -> None:
    head, *lines = judged("A", "B").to_csv(index=False).splitlines()
    (tmp_path / "a.csv").write_text("\n".join([head, *(f"{line}," for line in lines)]))
    with pytest.raises(ValueError, match="a.csv, line 2: 6 cells, header has 5, and so it is on all of the 2 lines"):
        load_preferences(tmp_path / "a.csv", **NAMES)
    (tmp_path / "a.csv").write_text("\n".join(f"{line}," for line in [head, *lines]))
    assert len(load_preferences(tmp_path / "a.csv", **NAMES)) == 2  # an empty column without a name


def test_a_comma_too_many_names_its_line(tmp_path: Path) -> None:
    head, *lines = judged("A", "B", "A").to_csv(index=False).splitlines()
    lines[0] = lines[0].replace("left 0", "left, 0")
    (tmp_path / "a.csv").write_text("\n".join([head, *lines]))
    with pytest.raises(ValueError, match=r"a.csv, line 2 \(counting from 1\): 6 cells, header has 5"):
        load_preferences(tmp_path / "a.csv", **NAMES)
    prefs = load_preferences(tmp_path / "a.csv", bad_rows="drop", **NAMES)
    assert len(prefs) == 2 and "dropped 1 bad rows" in str(prefs.reading)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('rater,question\na,"never closed\nb,c\n', "a.csv, line 2: not CSV"),
        ("rater,rater\na,b\n", "names the column 'rater' twice"),
        ("rater,\na,b\n", "column 2 has no name in the header, and its cells are not empty"),
    ],
)
def test_csv_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_preferences(tmp_path / "a.csv", **NAMES)


def test_line_breaks_in_cells_do_not_move_line_numbers(tmp_path: Path) -> None:
    frame = judged("A", "B", "A").assign(question=["one\ntwo\nthree", "q", "q"], answer_b=["x", None, "z"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match=r"row 1 \(counting from 0\), column 'answer_b'.*\(line 5 of the file\)"):
        load_preferences(tmp_path / "a.csv", **NAMES)


def test_workbooks(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    frame = judged(1, 2, 2).assign(rater=[7, 8, 7], answer_a=[3.0, "x", "y"])
    with pd.ExcelWriter(tmp_path / "a.xlsx", engine="openpyxl") as book:
        frame.to_excel(book, sheet_name="votes", index=False)
    prefs = load_preferences(tmp_path / "a.xlsx", **NAMES)
    assert prefs.annotators().ids == ["7", "8"] and prefs.to_rows()[0]["chosen"] == "3"
    assert "sheet 'votes'" in str(prefs.reading)
    book = openpyxl.load_workbook(tmp_path / "a.xlsx")
    book.create_sheet("notes").append(["a note"])
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(ValueError, match="several sheets or none: 'votes', 'notes'.*--dataset_split SHEET"):
        load_preferences(tmp_path / "a.xlsx", **NAMES)
    assert len(load_preferences(tmp_path / "a.xlsx", split="votes", **NAMES)) == 3


def test_a_packed_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palign.data.rows.files.ALWAYS_ALLOWED", 10_000)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a" * 10_000_000))
    with pytest.raises(ValueError, match="a.csv.gz unpacks to more than"):
        load_preferences(tmp_path / "a.csv.gz", **NAMES)


def test_a_folder_of_a_configuration_and_arrow(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "set" / "default").mkdir(parents=True)
    judged("A", "B").to_parquet(tmp_path / "set" / "default" / "train-00000-of-00001.parquet")
    assert len(load_preferences(tmp_path / "set", **NAMES)) == 2
    datasets.Dataset.from_pandas(judged("A", "B")).save_to_disk(tmp_path / "saved")
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    assert len(load_preferences(arrow, **NAMES)) == 2
    (tmp_path / "set" / "other").mkdir()
    judged("A").to_csv(tmp_path / "set" / "other" / "x.csv")
    with pytest.raises(ValueError, match="several folders of data .default, other.; give one"):
        load_preferences(tmp_path / "set", **NAMES)


def test_ids_that_became_numbers_do_not_merge_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    frame = judged("A", "B").assign(rater=["007", "7"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert load_preferences(tmp_path / "a.csv", **NAMES).annotators().ids == ["007", "7"]
    read = datasets.Dataset.from_csv(str(tmp_path / "a.csv"), cache_dir=str(tmp_path / "cache"))
    assert read["rater"][:] == [7, 7]
    read.save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: read)  # as a CSV on the hub comes
    for data in (read, tmp_path / "saved", "org/name"):
        with pytest.raises(ValueError, match="'007' and '7' would be one person now"):
            load_preferences(data, **NAMES)
    datasets.Dataset.from_pandas(frame).save_to_disk(tmp_path / "texts")
    assert load_preferences(tmp_path / "texts", **NAMES).annotators().ids == ["007", "7"]


def test_a_damaged_folder_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_pandas(judged("A", "B")).save_to_disk(tmp_path / "saved")
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(ValueError, match="is no readable folder of the datasets library"):
        load_preferences(tmp_path / "saved", **NAMES)
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="is no readable folder of the datasets library"):
        load_preferences(tmp_path / "saved", **NAMES)


# bad rows


def test_all_bad_rows_in_one_list(tmp_path: Path) -> None:
    rows = judged(*"ABABABAB").to_dict("records")
    for row in (1, 3, 5, 6):
        rows[row]["answer_b"] = None
    rows[2]["rater"] = None
    rows[7]["winner"] = None
    text = "".join(json.dumps(row) + "\n" for row in rows) + "{oops\n"
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError) as caught:
        load_preferences(tmp_path / "a.jsonl", **NAMES)
    message = str(caught.value)
    assert message.startswith("a.jsonl: 7 of 9 rows are bad: 4 × column 'answer_b': nothing is there")
    assert "(lines 2, 4, 6, …)" in message and "(line 3)" in message and "--bad_rows drop" in message
    assert "no winner is there (line 8)" in message and "not JSON" in message and "\n" not in message
    prefs = load_preferences(tmp_path / "a.jsonl", bad_rows="drop", **NAMES)
    assert len(prefs) == 2 and "dropped 7 bad rows" in str(prefs.reading)


def test_hard_values_end_in_a_sentence(tmp_path: Path) -> None:
    base = {"annotator_id": "a", "completions": ["x", "y"]}
    texts = {
        "deep": "[" * 100_000,
        "huge rating": json.dumps(base | {"ratings": [1, 10**400]}),
        "digits": '{"annotator_id": "a", "completions": ["x", "y"], "ratings": [1, ' + "9" * 5000 + "]}",
        "infinite": '{"annotator_id": "a", "completions": ["x", "y"], "n_ranked": Infinity}',
        "not a number": '{"annotator_id": "a", "completions": ["x", "y"], "n_ranked": NaN, "ratings": [NaN, 1]}',
    }
    for name, text in texts.items():
        for suffix in ("jsonl", "json"):
            (tmp_path / f"a.{suffix}").write_text(text if suffix == "jsonl" else f"[{text}]")
            with pytest.raises((ValueError, TypeError)) as caught:
                load_preferences(tmp_path / f"a.{suffix}")
            assert "a.json" in str(caught.value) and len(str(caught.value)) < 600, name


def test_ids_that_hardly_differ_are_named() -> None:
    prefs = load_preferences(judged("A", "B", "A").assign(rater=["Ann", "ann", "ann "]), **NAMES)
    assert "1 ids differ only by case or outer blanks" in str(prefs.reading) and len(prefs.annotators()) == 3


# conversations


def say(*texts: str, first: str = "user") -> list[dict[str, str]]:
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


SYSTEM = [{"role": "system", "content": "be kind"}]
FORMS = {
    "answers as messages": ("ask", say("x", first="assistant"), say("y", first="assistant"), say("ask")),
    "whole conversations": ("ask", say("ask", "x"), say("ask", "y"), say("ask")),
    "with a system message": ("ask", SYSTEM + say("ask", "x"), SYSTEM + say("ask", "y"), SYSTEM + say("ask")),
    "the prompt is the last question": (
        "ask", say("hi", "ho", "ask", "x"), say("hi", "ho", "ask", "y"), say("hi", "ho", "ask"),
    ),
    "the prompt is the first question": (
        "ask", say("ask", "ho", "more", "x"), say("ask", "ho", "more", "y"), say("ask", "ho", "more"),
    ),
    "a system message in the prompt only": (SYSTEM + say("ask"), say("ask", "x"), say("ask", "y"), SYSTEM + say("ask")),  # noqa: E501
    "a system message before the answer": (
        "ask", SYSTEM + say("x", first="assistant"), SYSTEM + say("y", first="assistant"), SYSTEM + say("ask"),
    ),
    "no prompt": (None, say("ask", "x"), say("ask", "y"), say("ask")),
    "parts": (
        "ask", [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}], say("y", first="assistant"), say("ask"),  # noqa: E501
    ),
    "JSON": ("ask", json.dumps(say("ask", "x")), json.dumps(say("ask", "y")), say("ask")),
    "Python": ("ask", str(say("ask", "x")), str(say("ask", "y")), say("ask")),
    "everything as texts": (json.dumps(say("ask")), json.dumps(say("ask", "x")), str(say("ask", "y")), say("ask")),
    "ShareGPT": (
        None, [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "x"}],
        [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "y"}], say("ask"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_one_reading_of_conversations(form: str) -> None:
    prompt, chosen, rejected, expected = FORMS[form]
    prefs = Preferences.from_rows([{"annotator_id": "a", "prompt": prompt, "chosen": chosen, "rejected": rejected}])
    assert prefs.prompts == [expected]
    assert [text for _, text in prefs.items] == [say("x", first="assistant"), say("y", first="assistant")]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "words"),
    [
        ("another", say("ask", "x"), say("ask", "y"), "the prompt .'another'. is not among the messages"),
        ("ask", say("one", "x"), say("two", "y"), "conversations begin with different messages"),
        (
            "ask",
            "[{'role': 'user', 'content': 'x'} {'role'",
            "y",
            "looks like a list of messages and cannot be parsed",
        ),
        (
            "ask",
            [{"role": "assistant", "content": [{"type": "image", "image": "u"}]}],
            say("y"),
            "a part that is no text",
        ),
    ],
)
def test_conversations_that_cannot_be_reconciled(prompt: Any, chosen: Any, rejected: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Preferences.from_rows([{"annotator_id": "a", "prompt": prompt, "chosen": chosen, "rejected": rejected}])


# orders


def test_ranks_and_ratings() -> None:
    row = {"annotator_id": "a", "prompt": "p", "completions": ["x", "y", "z"]}
    assert Preferences.from_rows([row | {"ranks": [2, 1, 2]}]).to_rows()[0]["completions"] == ["y", "x", "z"]
    prefs = Preferences.from_rows([row | {"place": [3, 1, 2]}], ranks_column="place")
    assert prefs.to_rows()[0]["completions"] == ["y", "z", "x"] and "by place (1 is best)" in str(prefs.reading)


@pytest.mark.parametrize("column", ["scores", "rank", "ranking", "overall_score"])
def test_an_order_that_nobody_named_is_asked_for(column: str) -> None:
    row = {"annotator_id": "a", "prompt": "p", "completions": ["x", "y"], column: [1, 2]}
    with pytest.raises(
        ValueError, match=f"'{column}' stands beside 'completions'.*--ratings_column {column}.*--ranks"
    ):
        Preferences.from_rows([row])


def test_votes_one_a_row(tmp_path: Path) -> None:
    votes = [("a", 1, 1), ("a", 2, -1), ("a", 3, 0), ("b", 1, -1), ("b", 2, 1), ("c", 3, 1)]
    pd.DataFrame(votes, columns=["person", "statement", "vote"]).to_csv(tmp_path / "v.csv", index=False)
    pd.DataFrame({"id": [1, 2, 3], "text": ["one", "two", "three"]}).to_csv(tmp_path / "items.csv", index=False)
    names = {"annotator_column": "person", "item_column": "statement", "vote_column": "vote"}
    prefs = load_preferences(tmp_path / "v.csv", items_name=str(tmp_path / "items.csv"), **names)
    assert [row.get("completions", [row.get("chosen"), row.get("rejected")]) for row in prefs.to_rows()] == [
        ["one", "three", "two"], ["two", "one"],
    ]  # fmt: skip
    assert "6 votes of 3 people became 2 rankings" in str(prefs.reading)
    with pytest.raises(ValueError, match="1 is no text. Give the items' texts in a second file"):
        load_preferences(pd.read_csv(tmp_path / "v.csv"), **names)


def test_votes_as_a_matrix(tmp_path: Path) -> None:
    pd.DataFrame({"id": [0, 1, 2], "text": ["zero", "one", "two"]}).to_csv(tmp_path / "items.csv", index=False)
    (tmp_path / "m.csv").write_text("participant,group,0,1,2\n7,A,1,-1,\n8,B,0,0,5\n")
    prefs = load_preferences(
        tmp_path / "m.csv", annotator_column="participant", items_name=str(tmp_path / "items.csv")
    )
    first, second = prefs.to_rows()
    assert (first["chosen"], first["rejected"], first["group"]) == ("zero", "one", "A")
    assert second["completions"] == ["two", "zero", "one"] and prefs.ranks[1].tolist() == [0, 1, 1]


def test_bad_votes_in_one_list(tmp_path: Path) -> None:
    lines = ["a,x,1", "a,y,perhaps", "a,z,0", ",x,1", "b,x,oh", "b,y,1", "b,z,-1", "b,z,1,1"]
    (tmp_path / "v.csv").write_text("who,what,vote\n" + "\n".join(lines[:7]) + "\n")
    names = {"annotator_column": "who", "item_column": "what", "vote_column": "vote"}
    with pytest.raises(
        ValueError, match=r"3 of 7 rows are bad: 2 × column 'vote': .*\(lines 3, 6\); 1 × column 'who'"
    ):
        load_preferences(tmp_path / "v.csv", **names)
    prefs = load_preferences(tmp_path / "v.csv", bad_rows="drop", **names)
    assert len(prefs) == 2 and "dropped 3 bad rows" in str(prefs.reading)
    (tmp_path / "v.csv").write_text("who,what,vote\n" + "\n".join([lines[0], lines[2], lines[7]]) + "\n")
    with pytest.raises(ValueError, match="line 4 .*: 4 cells, header has 3"):
        load_preferences(tmp_path / "v.csv", **names)


def test_the_newer_vote_counts(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("who,what,vote,timestamp\na,x,-1,9\na,x,1,2\na,y,0,3\n")
    names = {"annotator_column": "who", "item_column": "what", "vote_column": "vote"}
    (row,) = load_preferences(tmp_path / "v.csv", **names).to_rows()
    assert (row["chosen"], row["rejected"]) == ("y", "x")
    (tmp_path / "v.csv").write_text("who,what,vote\na,x,-1\na,x,1\na,y,0\n")
    with pytest.raises(ValueError, match="votes again on an item of the same person"):
        load_preferences(tmp_path / "v.csv", **names)


# proposals


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            ["rater", "question", "answer_a", "answer_b", "winner"],
            "two answers and a winner; the whole command line is: palign guard .*j.csv --annotator_column rater "
            "--prompt_column question --first_column answer_a --second_column answer_b --winner_column winner ",
        ),
        (
            ["worker_id", "prompt", "response_1", "response_2", "preference"],
            "--annotator_column worker_id --first_column response_1 --second_column response_2 --winner_column "
            "preference",
        ),
        (
            ["user", "instruction", "better", "worse", "note"],
            "--annotator_column user --prompt_column instruction --chosen_column better --rejected_column worse",
        ),
    ],
)
def test_a_whole_command_line_is_proposed(tmp_path: Path, columns: list[str], words: str) -> None:
    frame = judged("A", "B", "A").set_axis(columns, axis=1)
    frame.to_csv(tmp_path / "j.csv", index=False)
    with pytest.raises(ValueError, match=words):
        load_preferences(tmp_path / "j.csv")


# one reading for rewards and policies


@pytest.mark.parametrize("form", FORMS)
def test_policies_read_the_prompt_that_rewards_read(tmp_path: Path, form: str) -> None:
    from palign.trainers.policy.rows import read_prompt_rows

    prompt, chosen, rejected, expected = FORMS[form]
    row = {"annotator_id": "a", "prompt": prompt, "chosen": chosen, "rejected": rejected}
    (tmp_path / "r.jsonl").write_text(json.dumps(row) + "\n")
    (read,) = read_prompt_rows(str(tmp_path / "r.jsonl"))
    assert read == {"prompt": expected, "annotator_id": "a"}
    assert load_preferences(tmp_path / "r.jsonl").prompts == [expected]


def test_policies_read_tables_with_a_winner(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from palign.trainers.policy.rows import read_prompt_rows

    judged("A", "tie", "B").assign(country="PL").to_csv(tmp_path / "j.csv", index=False, sep=";")
    rows = read_prompt_rows(str(tmp_path / "j.csv"), group_columns=["country"], **NAMES)
    assert [row["prompt"] for row in rows] == ["q0", "q1", "q2"] and rows[0]["country"] == "PL"
    assert "read j.csv: 3 rows → 3 prompts of 3 people" in capsys.readouterr().out


def test_a_slip_among_winners_is_shown_with_its_line_and_is_not_called_a_tie(tmp_path: Path) -> None:
    lines = ["annotator_id,prompt,answer_a,answer_b,winner"]
    lines += [f"w,p,x{n},y{n},{'CBA'[n % 3] if n == 6 else 'AB'[n % 2]}" for n in range(9)]
    (tmp_path / "judged.csv").write_text("\n".join(lines) + "\n")
    columns = {"first_column": "answer_a", "second_column": "answer_b", "winner_column": "winner"}
    for bad_rows in ("stop", "drop"):
        with pytest.raises(ValueError) as error:
            load_preferences(tmp_path / "judged.csv", **columns, bad_rows=bad_rows)
        text = str(error.value)
        assert "not understood: C (1) (line 8 of the file)" in text
        assert "--winner_values first=A second=B tie=VALUE" in text and "tie=C" not in text
        assert "empty it and say --bad_rows drop" in text


def test_a_proposed_command_line_is_whole(tmp_path: Path) -> None:
    """Who judged is in it: as it was given, as it looks, or as a word to put a name in place of."""
    rows = [{"Desk": "d1", "question": "q", "answer_a": "x", "answer_b": "y", "winner": winner} for winner in "AB"]
    with pytest.raises(ValueError, match="palign guard FILE --annotator_column WHO_JUDGED --prompt_column question"):
        Preferences.from_rows(rows)
    with pytest.raises(ValueError, match="palign guard FILE .*--annotator_column Desk"):
        Preferences.from_rows(rows, annotator_column="Desk")
    employees = [{"Employee": row.pop("Desk"), **row} for row in map(dict, rows)]
    with pytest.raises(ValueError, match="palign guard FILE --annotator_column Employee"):
        Preferences.from_rows(employees)


def test_empty_prompts_are_counted() -> None:
    rows = judged("A", "B", "A").assign(question=["q", None, "r"])
    notes = load_preferences(rows, **NAMES).reading.notes
    assert "1 rows have no prompt: 'question' is empty there" in notes


def test_groups_that_differ_by_case_or_blanks_are_named() -> None:
    assert similar_groups("team", ["Care", "care", "Care ", None, "Shop"]) == [
        "groups of 'team' differ only by case or outer blanks, and are kept as different groups: 'Care' and 'care' "
        "and 'Care '"
    ]
    assert similar_groups("team", ["Care", "Shop", 3]) == []
