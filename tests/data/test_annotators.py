"""Ids of any kind are one text per person, and people keep their rows."""

import json
import math

import numpy as np
import pytest

from palign.data.annotators import MANY, AnnotatorIndex, canonical_id, canonical_ids

STRANGE = ["a.b/c", "with space", "😀", "<script>alert(1)</script>", "ö", "-1", "007", "../x", "\ud800", '"quoted"\n']


@pytest.mark.parametrize("value", [7, np.int64(7), np.uint8(7), 7.0, np.float32(7), "7", np.str_("7")])
def test_one_person_under_every_kind_of_seven(value: object) -> None:
    assert canonical_id(value) == "7" and type(canonical_id(value)) is str


@pytest.mark.parametrize(
    ("value", "text"), [("007", "007"), ("7.5", "7.5"), (-3, "-3"), (10**20, str(10**20)), (1e3, "1000")]
)
def test_other_ids_keep_their_letters(value: object, text: str) -> None:
    assert canonical_id(value) == text


@pytest.mark.parametrize("value", ["", "  \t", math.nan, math.inf, np.float64("nan")])
def test_no_id_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="Every row needs the id of the person who judged"):
        canonical_id(value)


@pytest.mark.parametrize("value", [2.5, np.float64(-0.5), np.float32(1e-9)])
def test_a_fraction_is_no_id(value: float) -> None:
    with pytest.raises(ValueError, match="a number with a fraction. Give a whole number"):
        canonical_id(value)
    for n_good in (2, MANY):
        with pytest.raises(ValueError, match=rf"fraction.*position {n_good}, counting from 0"):
            canonical_ids(np.array([1.0] * n_good + [value]))


@pytest.mark.parametrize("value", [None, True, np.True_, ["a"], b"a", {"id": 1}])
def test_what_is_no_id_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="must be a text or a number"):
        canonical_id(value)


@pytest.mark.parametrize("n_copies", [1, MANY])
def test_many_ids_at_once_equal_one_by_one(n_copies: int) -> None:
    for values in (np.array([3, 1, 3, 2]), np.array([5.0, 2.0, 5.0]), ["b", "a", "b"], np.array(["b", "a"])):
        many = np.tile(values, n_copies) if isinstance(values, np.ndarray) else values * n_copies
        assert canonical_ids(many).tolist() == [canonical_id(value) for value in many]


@pytest.mark.parametrize("n_good", [2, MANY])
def test_a_bad_id_among_many_is_named_by_its_position(n_good: int) -> None:
    with pytest.raises(ValueError, match=rf"empty.*position {n_good}, counting from 0"):
        canonical_ids(["a"] * n_good + [" "])
    with pytest.raises(TypeError, match=rf"True \(bool\).*position {n_good}"):
        canonical_ids([1] * n_good + [True])
    with pytest.raises(ValueError, match=rf"nan.*position {n_good}"):
        canonical_ids(np.array([1.0] * n_good + [math.nan]))
    with pytest.raises(TypeError, match="as a list"):
        canonical_ids("abc")


def test_rows_are_given_in_order_and_kept() -> None:
    index = AnnotatorIndex(["z", 7, "a"])
    assert (len(index), index.ids, index.index("7"), index.index(7.0)) == (3, ["z", "7", "a"], 1, 1)
    assert 7 in index and "z" in index and "b" not in index and None not in index
    assert index.add([3, "b"]).tolist() == [3, 4]
    assert index.indices(["b", 7, "b"]).tolist() == [4, 1, 4]
    assert index.indices([]).tolist() == [] and index.indices([]).dtype == np.int64


def test_strangers_are_an_error_that_names_three_or_the_number_asked_for() -> None:
    index = AnnotatorIndex(["a", "b"])
    assert index.indices(["b", "x", "a"], unknown=-1).tolist() == [1, -1, 0]
    with pytest.raises(ValueError, match="Annotators 'w', 'x', 'y' and 1 more not among the 2 known"):
        index.indices(["w", "x", "a", "y", "z", "w"])
    with pytest.raises(ValueError, match="Annotator 'q' not among"):
        index.index("q")
    assert index.indices(["q"] * 3, unknown=-1).tolist() == [-1] * 3


def test_nobody_has_two_rows() -> None:
    with pytest.raises(ValueError, match="'7' is named twice"):
        AnnotatorIndex([7, "7"])
    index = AnnotatorIndex(["a"])
    with pytest.raises(ValueError, match="'a' is in the index already"):
        index.add(["b", "a"])
    assert index.ids == ["a"]


def test_strange_ids_survive_the_file(tmp_path) -> None:
    path = tmp_path / "annotators.json"
    AnnotatorIndex(STRANGE).save(path)
    assert AnnotatorIndex.load(path) == AnnotatorIndex(STRANGE)
    AnnotatorIndex(["ö", "b"]).save(path)
    assert json.loads(path.read_text(encoding="utf-8")) == ["ö", "b"] and "ö" in path.read_text(encoding="utf-8")
    AnnotatorIndex().save(path)
    assert len(AnnotatorIndex.load(path)) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [("{}", "holds an object"), ("[1,", "not JSON"), ('["a", "a"]', "there twice"), ("[1]", "'1' is no text")],
)
def test_a_file_that_is_no_index(tmp_path, content: str, words: str) -> None:
    path = tmp_path / "annotators.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        AnnotatorIndex.load(path)


def test_many_people() -> None:
    index = AnnotatorIndex(np.arange(200_000))
    rows = index.indices(np.array([199_999, 0, 123_456] * 10_000))
    assert rows[:3].tolist() == [199_999, 0, 123_456] and len(rows) == 30_000
