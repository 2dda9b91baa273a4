"""Pairs, best-of-M and rankings are one thing: ranks by hand, selections, and the way back to rows."""

import numpy as np
import pytest

from palign.data.preferences import Preferences

ROWS = [
    {"annotator_id": "a", "prompt": "p", "chosen": "x", "rejected": "y", "country": "NL"},
    {"annotator_id": 7, "prompt": "p", "completions": ["y", "z", "x", "w"], "n_ranked": 1},
    {"annotator_id": "7", "prompt": "q", "completions": ["x", "y", "z"]},
    {"annotator_id": "a", "completions": ["x", "y", "z", "w"], "ratings": [1, 5, 1, 2.5], "country": "BE"},
    {"annotator_id": "b", "prompt": "q", "completions": ["z", "y", "x", "w"], "n_ranked": 2},
]


def test_every_form_becomes_ranks() -> None:
    prefs = Preferences.from_rows(ROWS)
    assert prefs.annotator_ids.tolist() == ["a", "7", "7", "a", "b"]
    # ratings 1, 5, 1, 2.5 of x, y, z, w: y is best, w second, x and z tie; best first, ties as they stood
    assert prefs.ranks.tolist() == [[0, 1, -1, -1], [0, 1, 1, 1], [0, 1, 2, -1], [0, 1, 2, 2], [0, 1, 2, 2]]
    assert prefs.prompts == ["p", "q", ""] and prefs.prompt_indices.tolist() == [0, 0, 1, 2, 1]
    assert prefs.n_items.tolist() == [2, 4, 3, 4, 4]
    texts = [[prefs.items[i] for i in row if i >= 0] for row in prefs.item_indices]
    assert texts[0] == [(0, "x"), (0, "y")] and texts[3] == [(2, "y"), (2, "w"), (2, "x"), (2, "z")]
    assert len(prefs.items) == len(set(prefs.items)) == 4 + 4 + 4
    assert prefs.column("country").tolist() == ["NL", None, None, "BE", None]
    assert (prefs.item_indices.dtype, prefs.ranks.dtype) == (np.int64, np.int16) and prefs.is_text


def test_there_and_back_again() -> None:
    prefs = Preferences.from_rows(ROWS)
    rows = prefs.to_rows()
    assert rows[0] == ROWS[0] and rows[1] == {**ROWS[1], "annotator_id": "7"}
    assert rows[3] == {
        "annotator_id": "a", "prompt": "", "completions": ["y", "w", "x", "z"], "n_ranked": 2, "country": "BE"
    }  # fmt: skip
    again = Preferences.from_rows(rows)
    for name in ("annotator_ids", "item_indices", "ranks", "prompt_indices"):
        np.testing.assert_array_equal(getattr(again, name), getattr(prefs, name))


def test_ties_at_the_top_come_back_as_ratings() -> None:
    rows = [{"annotator_id": "a", "completions": ["x", "y", "z"], "ratings": [3, 1, 3]}]
    prefs = Preferences.from_rows(rows)
    assert prefs.ranks.tolist() == [[0, 0, 1]]
    assert prefs.to_rows()[0] | {"prompt": None} == {
        "annotator_id": "a", "prompt": None, "completions": ["x", "z", "y"], "ratings": [1, 1, 0]
    }  # fmt: skip
    assert Preferences.from_rows(prefs.to_rows()).ranks.tolist() == [[0, 0, 1]]


def test_rows_that_tie_entirely_are_dropped_with_one_warning(caplog) -> None:
    tied = {"annotator_id": "t", "completions": ["x", "y"], "ratings": [2, 2]}
    prefs = Preferences.from_rows([ROWS[0], tied, ROWS[2], tied], source="f.jsonl")
    assert len(prefs) == 2 and "t" not in prefs.annotators() and prefs.column("country").tolist() == ["NL", None]
    assert [r.getMessage() for r in caplog.records] == ["f.jsonl: 2 of 4 rows dropped: all their ratings tie."]
    with pytest.raises(ValueError, match="In each of the 2 rows all ratings tie"):
        Preferences.from_rows([tied, tied])


def test_conversations_share_prompts_and_lose_what_the_prompt_says() -> None:
    def said(*texts: str) -> list[dict]:
        return [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(texts)]

    answers = [[{"role": "assistant", "content": text}] for text in ("yes", "no")]
    rows = [
        {"annotator_id": 1, "prompt": said("hi"), "chosen": answers[0], "rejected": answers[1]},
        {"annotator_id": 2, "prompt": None, "chosen": said("hi", "no"), "rejected": said("hi", "yes")},  # implicit
        {"annotator_id": 3, "prompt": "hi", "chosen": said("hi", "no"), "rejected": said("hi", "yes")},
        {"annotator_id": 4, "prompt": said("hi"), "chosen": "no", "rejected": "yes"},
    ]
    prefs = Preferences.from_rows(rows)
    assert prefs.prompts == [said("hi")] and prefs.items == [(0, answers[0]), (0, answers[1])]
    assert prefs.item_indices.tolist() == [[0, 1], [1, 0], [1, 0], [1, 0]]
    alone = Preferences.from_rows([{"annotator_id": 1, "chosen": answers[0], "rejected": answers[1]}])
    assert alone.prompts == [[]] and alone.items == [(0, answers[0]), (0, answers[1])]


def test_rows_that_name_vectors() -> None:
    rows = [
        {"annotator_id": "a", "chosen_index": 3, "rejected_index": 0, "prompt_index": 9, "margin": 0.5},
        {"annotator_id": "b", "completion_indices": [4, 2, 9], "prompt": "kept as a column"},
        {"annotator_id": "b", "completion_indices": [4, 2, 9], "ratings": [1, 3, 3]},
    ]
    prefs = Preferences.from_rows(rows, embeddings=10)
    assert not prefs.is_text and prefs.prompts is None
    assert prefs.item_indices.tolist() == [[3, 0, -1], [4, 2, 9], [2, 9, 4]]
    assert prefs.ranks.tolist() == [[0, 1, -1], [0, 1, 2], [0, 0, 1]]
    assert prefs.prompt_indices.tolist() == [9, -1, -1] and prefs.column("margin").tolist() == [0.5, None, None]
    assert prefs.to_rows()[0] == rows[0] and prefs.to_rows()[2]["ratings"] == [1, 1, 0]


def test_selections_share_texts_and_keep_order() -> None:
    prefs = Preferences.from_rows(ROWS)
    assert prefs.annotators().ids == ["a", "7", "b"]
    some = prefs.select([4, 0])
    assert some.annotator_ids.tolist() == ["b", "a"] and some.items is prefs.items
    assert some.column("country").tolist() == [None, "NL"]
    np.testing.assert_array_equal(prefs.select(prefs.n_items == 4).prompt_indices, [0, 2, 1])
    assert prefs.take_annotators([7, "b"]).annotator_ids.tolist() == ["7", "7", "b"]
    assert len(prefs.select([])) == 0
    with pytest.raises(ValueError, match="mask over 5 rows"):
        prefs.select(np.array([True, False]))
    with pytest.raises(ValueError, match="'nobody' not among the 3 known"):
        prefs.take_annotators(["nobody"])


def test_a_column_that_is_not_there_offers_the_nearest() -> None:
    with pytest.raises(ValueError, match="no column 'contry'. Did you mean 'country'"):
        Preferences.from_rows(ROWS).column("contry")


def test_arrays_equal_rows() -> None:
    ids, chosen, rejected = np.array([5, 3, 5]), np.array([0, 4, 2]), np.array([1, 0, 0])
    fast = Preferences.from_arrays(ids, chosen, rejected, columns={"type": np.array([1, 0, 1])})
    slow = Preferences.from_rows(
        [
            {"annotator_id": i, "chosen_index": c, "rejected_index": r, "type": t}
            for i, c, r, t in zip(ids, chosen, rejected, [1, 0, 1], strict=True)
        ],
        embeddings=True,
    )
    for name in ("annotator_ids", "item_indices", "ranks", "prompt_indices"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))
        assert getattr(fast, name).dtype == getattr(slow, name).dtype
    assert fast.column("type").tolist() == slow.column("type").tolist() and fast.to_rows() == slow.to_rows()
    with_prompts = Preferences.from_arrays(ids, chosen, rejected, prompt_index=np.array([2, -1, 0]))
    assert with_prompts.prompt_indices.tolist() == [2, -1, 0]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"rejected_index": [1, 4, 0]},
            ValueError,
            r"Row 1 \(counting from 0\): chosen_index and rejected_index are both 4",
        ),
        ({"chosen_index": [0, 4, -2]}, ValueError, r"chosen_index, row 2 \(counting from 0\): -2 is below 0"),
        ({"chosen_index": [0.0, 4.0, 2.0]}, TypeError, "chosen_index must hold whole numbers .*float64"),
        ({"chosen_index": [0, 4]}, ValueError, r"chosen_index must have one entry for each of the 3.*\(2,\)"),
        ({"annotator_ids": ["a", "", "b"]}, ValueError, "position 1"),
        ({"columns": {"g": np.array([1, 2])}}, ValueError, r"columns\['g'\]"),
    ],
)
def test_arrays_that_do_not_fit(change: dict, error: type, words: str) -> None:
    good = {"annotator_ids": [5, 3, 5], "chosen_index": [0, 4, 2], "rejected_index": [1, 0, 0]}
    with pytest.raises(error, match=words):
        Preferences.from_arrays(**(good | change))
