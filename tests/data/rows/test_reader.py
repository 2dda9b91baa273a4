"""Bad input: every fault is named with its row, its column, what was found and what to do, before anything trains."""

import math
import time

import numpy as np
import pytest

from palign.data.preferences import Preferences

GOOD = {"annotator_id": "a", "prompt": "p", "chosen": "x", "rejected": "y"}
LIST = {"annotator_id": "a", "prompt": "p", "completions": ["x", "y", "z"]}
VECTOR = {"annotator_id": "a", "chosen_index": 0, "rejected_index": 1}


def messages(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


TEXT_FAULTS = {
    "missing id": ({**GOOD, "annotator_id": None}, TypeError, "annotator_id", "id is missing.*--annotator_column"),
    "empty id": ({**GOOD, "annotator_id": ""}, ValueError, "annotator_id", "id is missing"),
    "blank id": ({**GOOD, "annotator_id": "  "}, ValueError, "annotator_id", "id is '  '"),
    "NaN id": ({**GOOD, "annotator_id": math.nan}, ValueError, "annotator_id", "id is nan"),
    "bool id": ({**GOOD, "annotator_id": True}, TypeError, "annotator_id", "id is True"),
    "one completion": ({**GOOD, "rejected": None}, ValueError, "rejected", "one completion only.*drop the row"),
    "one in the list": ({**LIST, "completions": ["x"]}, ValueError, "completions", "only one completion is there"),
    "none in the list": ({**LIST, "completions": []}, ValueError, "completions", "no completions are there"),
    "nothing": ({"annotator_id": "a", "prompt": "p"}, ValueError, "chosen", "neither 'chosen' and 'rejected' nor"),
    "equal": ({**GOOD, "rejected": "x"}, ValueError, "rejected", "chosen and rejected are the same, 'x'.*Drop it"),
    "equal conversations": (
        {**GOOD, "chosen": messages("x"), "rejected": [{"content": "x", "role": "assistant"}]},
        ValueError, "rejected", "chosen and rejected are the same",
    ),
    "equal in the list": ({**LIST, "completions": ["x", "y", "x"]}, ValueError, "completions", "positions 0 and 2"),
    "NaN rating": (
        {**LIST, "ratings": [1, math.nan, 2]}, ValueError, "ratings", "position 1: a rating must be finite, found nan"
    ),
    "infinite rating": ({**LIST, "ratings": [1, 2, math.inf]}, ValueError, "ratings", "position 2.*found inf"),
    "text rating": ({**LIST, "ratings": [1, "2", 3]}, TypeError, "ratings", r"position 1.*found '2' \(str\)"),
    "two ratings of three": ({**LIST, "ratings": [1, 2]}, ValueError, "ratings", "2 ratings for 3 completions"),
    "one rating of three": ({**LIST, "ratings": [1]}, ValueError, "ratings", "1 rating for 3 completions"),
    "no rating of three": ({**LIST, "ratings": []}, ValueError, "ratings", "0 ratings for 3 completions"),
    "ratings no list": ({**LIST, "ratings": 3}, TypeError, "ratings", r"a list of ratings is needed, found 3 \(int\)"),
    "n_ranked 0": ({**LIST, "n_ranked": 0}, ValueError, "n_ranked", "0 of 3 completions.*allowed is 1 … 3"),
    "n_ranked 1.5": ({**LIST, "n_ranked": 1.5}, TypeError, "n_ranked", "whole number is needed, found 1.5"),
    "n_ranked text": ({**LIST, "n_ranked": "2"}, TypeError, "n_ranked", "whole number is needed, found '2'"),
    "both orders": ({**LIST, "n_ranked": 1, "ratings": [1, 2, 3]}, ValueError, "ratings", "'n_ranked' as well"),
    "both forms": ({**LIST, **GOOD}, ValueError, "completions", "gives 'chosen' as well as 'completions'.*not both"),
    "number for a text": ({**GOOD, "chosen": 3}, TypeError, "chosen", r"a text or a list.*found 3 \(int\)"),
    "dict for a list": ({**LIST, "completions": {"a": 1}}, TypeError, "completions", "a list of completions"),
    "text for a list": ({**LIST, "completions": "x, y"}, TypeError, "completions", "a list of completions.*'x, y'"),
    "prompt a number": ({**GOOD, "prompt": 1.5}, TypeError, "prompt", r"found 1.5 \(float\)"),
    "message without role": ({**GOOD, "chosen": [{"content": "x"}]}, TypeError, "chosen", "message 0 must be"),
    "half an emoji": (
        {**GOOD, "chosen": "ab\ud83d"}, ValueError, "chosen", r"half a surrogate pair, '.ud83d', stands at character 2"
    ),
    "half an emoji in a list": ({**LIST, "completions": ["x", "\ude00"]}, ValueError, "completions", "at character 0"),
    "half an emoji in the prompt": ({**GOOD, "prompt": messages("\ud83d")}, ValueError, "prompt", "half a surrogate"),
    "half an emoji in the id": ({**GOOD, "annotator_id": "a\ud83d"}, ValueError, "annotator_id", "half a surrogate"),
    "too long": (
        {**GOOD, "chosen": "x" * 1_000_000}, ValueError, "chosen",
        "a text of 1,000,000 characters; the limit is 100,000.*--max_characters",
    ),
    "too long a conversation": (
        {**GOOD, "prompt": messages("x" * 60_000) * 2}, ValueError, "prompt", "a text of 120,000 characters"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", TEXT_FAULTS)
@pytest.mark.parametrize("row", [0, 3])
def test_faults_of_texts(fault: str, row: int) -> None:
    bad, error, column, words = TEXT_FAULTS[fault]
    rows = [GOOD] * row + [bad] + [GOOD, LIST]
    with pytest.raises(error) as caught:
        Preferences.from_rows(rows, source="f.jsonl")
    assert str(caught.value).startswith(f"f.jsonl, row {row} (counting from 0), column '{column}'")
    assert caught.match(words) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


VECTOR_FAULTS = {
    "beyond the end": ({**VECTOR, "chosen_index": 5}, ValueError, "chosen_index", "5 is no row.*0 … 4"),
    "negative": ({**VECTOR, "rejected_index": -1}, ValueError, "rejected_index", "-1 is no row"),
    "a fraction": ({**VECTOR, "chosen_index": 0.5}, TypeError, "chosen_index", r"whole number\), found 0.5 \(float\)"),
    "a text": ({**VECTOR, "chosen_index": "0"}, TypeError, "chosen_index", r"found '0' \(str\)"),
    "a bool": ({**VECTOR, "chosen_index": True}, TypeError, "chosen_index", "found True"),
    "missing": ({**VECTOR, "rejected_index": None}, ValueError, "rejected_index", "one completion only"),
    "equal": ({**VECTOR, "rejected_index": 0}, ValueError, "rejected_index", "chosen and rejected are the same, 0"),
    "prompt": ({**VECTOR, "prompt_index": 7}, ValueError, "prompt_index", "7 is no row"),
    "in a list": (
        {"annotator_id": "a", "completion_indices": [0, 1, None]}, TypeError, "completion_indices", "nothing is there"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", VECTOR_FAULTS)
def test_faults_of_vector_rows(fault: str) -> None:
    bad, error, column, words = VECTOR_FAULTS[fault]
    rows = [{**VECTOR, "prompt_index": 0}, {"annotator_id": "b", "completion_indices": [0, 1]}, bad]
    with pytest.raises(error) as caught:
        Preferences.from_rows(rows, embeddings=5)
    assert str(caught.value).startswith(f"row 2 (counting from 0), column '{column}'") and caught.match(words)


def test_all_ratings_tie_in_one_row_and_in_all() -> None:
    tied = {"annotator_id": "a", "completions": ["x", "y"], "ratings": [1, 1]}
    with pytest.raises(ValueError, match="^In the only row all ratings tie, so nothing is said"):
        Preferences.from_rows([tied])
    with pytest.raises(ValueError, match="^f: in each of the 3 rows all ratings tie"):
        Preferences.from_rows([tied] * 3, source="f")


def test_blanks_around_ids_are_kept_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    names = [" a", "a", "b c", "d\t", " a", " e", "f "]
    with caplog.at_level("WARNING"):
        prefs = Preferences.from_rows([{**GOOD, "annotator_id": name} for name in names], source="f.csv")
    assert prefs.annotator_ids.tolist() == names
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("f.csv: 4 annotator ids begin or end with a blank (' a', 'd\\t', ' e', …)")
    caplog.clear()
    with caplog.at_level("WARNING"):
        Preferences.from_rows([GOOD, {**GOOD, "annotator_id": " a"}])
    assert caplog.messages[0].startswith("1 annotator id begins or ends with a blank (' a'), kept letter for letter")


def test_whole_floats_are_indices() -> None:
    prefs = Preferences.from_rows([{**VECTOR, "rejected_index": 4.0}], embeddings=np.int64(5))
    assert prefs.item_indices.tolist() == [[0, 4]]


def test_a_wrong_type_far_down_is_found_and_named() -> None:
    rows = [{**GOOD, "chosen": f"x{i}"} for i in range(10_000)]
    rows[7312] = {**GOOD, "chosen": ["x"]}
    with pytest.raises(TypeError, match=r"row 7312 \(counting from 0\), column 'chosen': message 0 .* found 'x'"):
        Preferences.from_rows(rows)


@pytest.mark.parametrize("name", ["a.b/c", "with space", "😀", "<script>alert(1)</script>", "../..", "x" * 5000])
def test_any_text_is_an_id(name: str) -> None:
    assert Preferences.from_rows([{**GOOD, "annotator_id": name}]).annotators().ids == [name]


@pytest.mark.parametrize(
    ("rows", "names", "words"),
    [
        (
            [{"worker": 1, "chosen": "x", "rejected": "y"}],
            {},
            "no column 'annotator_id'.*'worker'.*--annotator_column worker",
        ),
        ([{"annotatorid": 1, "chosen": "x"}], {}, "Did you mean 'annotatorid'"),
        ([GOOD], {"annotator_column": "worker"}, "no column 'worker'.*'annotator_id', 'prompt'.*--annotator_column"),
        ([GOOD], {"prompt_column": "Promt"}, "no column 'Promt'. Did you mean 'prompt'.*--prompt_column"),
        ([{"annotator_id": 1, "chosen": "x"}], {}, "no column 'rejected'.*--rejected_column"),
        ([{"annotator_id": 1, "better": "x", "worse": "y"}], {}, "no column 'chosen'.*'better', 'worse'"),
        ([VECTOR], {}, "no column 'chosen'.*give the file of vectors with --embeddings"),
        ([], {}, "There are no rows"),
    ],
)
def test_whole_columns_that_are_missing(rows: list, names: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Preferences.from_rows(rows, **names)


def test_rows_without_vectors_are_named_when_vectors_are_given() -> None:
    with pytest.raises(
        ValueError, match="no column 'chosen_index'.*'chosen_index' and 'rejected_index', or 'completion_i"
    ):
        Preferences.from_rows([GOOD], embeddings=5)


def test_wrong_arguments_and_rows_that_are_no_dicts() -> None:
    with pytest.raises(TypeError, match="'anotator_column' is not an argument.*annotator_column"):
        Preferences.from_rows([GOOD], anotator_column="x")
    with pytest.raises(TypeError, match=r"row 1 \(counting from 0\) is 'x', not a dict"):
        Preferences.from_rows([GOOD, "x"])


def test_other_names_for_every_column() -> None:
    rows = [
        {"who": 1, "q": "p", "good": "x", "bad": "y", "several": None, "stars": None},
        {"who": 2, "q": "p", "good": None, "bad": math.nan, "several": ["x", "y"], "stars": [1, 2]},
    ]
    names = {"annotator": "who", "prompt": "q", "chosen": "good", "rejected": "bad", "completions": "several"}
    names = {f"{name}_column": column for name, column in names.items()} | {"ratings_column": "stars"}
    prefs = Preferences.from_rows(rows, **names)
    assert prefs.item_indices.tolist() == [[0, 1], [1, 0]] and prefs.columns == {}


def test_any_length_is_taken_when_asked_for() -> None:
    rows = [{**GOOD, "chosen": "x" * 1_000_000}]
    assert len(Preferences.from_rows(rows, max_characters=None)) == 1
    assert len(Preferences.from_rows(rows, max_characters=1_000_000)) == 1


def test_empty_completions_and_prompts_are_texts() -> None:
    prefs = Preferences.from_rows([{**GOOD, "rejected": "", "prompt": None}])
    assert prefs.items == [(0, "x"), (0, "")] and prefs.prompts == [""]


def test_a_hundred_thousand_rows_in_seconds() -> None:
    rows = [{**GOOD, "annotator_id": i % 500, "chosen": f"x{i}", "rejected": f"y{i}"} for i in range(100_000)]
    start = time.process_time()
    assert len(Preferences.from_rows(rows)) == 100_000
    assert time.process_time() - start < 15  # about 2 on an idle core


def test_a_dataset_of_the_datasets_library() -> None:
    datasets = pytest.importorskip("datasets")
    prefs = Preferences.from_rows(datasets.Dataset.from_list([GOOD, {**GOOD, "annotator_id": "b"}]))
    assert prefs.annotators().ids == ["a", "b"] and prefs.items == [(0, "x"), (0, "y")]
