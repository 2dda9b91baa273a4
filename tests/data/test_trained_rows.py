"""Rows that a model was trained on are known again, and left out of reports."""

import json
from pathlib import Path

import numpy as np
import pytest

from palign.data.preferences import Preferences
from palign.data.trained_rows import (
    TRAINED_ROWS,
    hash_judgements,
    read_trained_rows,
    save_trained_rows,
    write_held_out,
)
from palign.evaluation.judging.kinds import recognise
from palign.evaluation.judging.unseen_rows import unseen_rows
from tests.worlds.judged_models import make_model


def pairs(n: int, *, start: int = 0, turned: bool = False) -> Preferences:
    rows = []
    for i in range(start, start + n):
        better, worse = (f"yes {i}", f"no {i}")[:: -1 if turned else 1]
        rows.append({"annotator_id": i % 3, "prompt": f"question {i}", "chosen": better, "rejected": worse})
    return Preferences.from_rows(rows)


def test_a_judgement_is_known_whichever_way_it_went_and_wherever_it_stands() -> None:
    first, second = pairs(6), pairs(6, turned=True)
    assert hash_judgements(first).tolist() == hash_judgements(second).tolist()
    shuffled = first.select([4, 1, 5])
    assert hash_judgements(shuffled).tolist() == hash_judgements(first)[[4, 1, 5]].tolist()
    assert len(set(hash_judgements(first).tolist())) == 6


@pytest.mark.parametrize("change", [{"annotator_id": "other"}, {"prompt": "other"}, {"chosen": "other"}])
def test_another_person_prompt_or_answer_is_another_judgement(change: dict[str, str]) -> None:
    row = {"annotator_id": "p", "prompt": "q", "chosen": "a", "rejected": "b"}
    one, two = (Preferences.from_rows([each]) for each in (row, row | change))
    assert hash_judgements(one)[0] != hash_judgements(two)[0]


def test_conversations_and_vectors_have_hashes_too() -> None:
    talk = [{"role": "user", "content": "q"}]
    rows = [{"annotator_id": "p", "prompt": talk, "chosen": [{"role": "assistant", "content": c}],
             "rejected": [{"role": "assistant", "content": "no"}]} for c in ("a", "b")]  # fmt: skip
    assert len(set(hash_judgements(Preferences.from_rows(rows)).tolist())) == 2
    vectors = Preferences.from_rows(
        [{"annotator_id": "p", "chosen_index": a, "rejected_index": b} for a, b in ((0, 1), (1, 0), (0, 2))],
        embeddings=3,
    )
    first, turned, other = hash_judgements(vectors).tolist()
    assert first == turned != other
    assert hash_judgements(vectors.select([])).shape == (0,)


def test_what_was_dealt_counts_as_trained_on_unless_held_out(tmp_path: Path) -> None:
    dealt = pairs(9)
    save_trained_rows(tmp_path, dealt.select(range(5)), dealt=dealt, held_out=dealt.select([7, 8]))
    known = np.isin(hash_judgements(dealt), read_trained_rows(tmp_path))
    assert known.tolist() == [True] * 7 + [False] * 2  # 5 and 6 lie across, in neither part


def test_no_id_and_no_text_is_in_the_file(tmp_path: Path) -> None:
    row = {"annotator_id": "anna@example.org", "prompt": "secret question", "chosen": "aye", "rejected": "nay"}
    save_trained_rows(tmp_path, Preferences.from_rows([row]))
    held = (tmp_path / TRAINED_ROWS).read_bytes()
    assert b"anna" not in held and b"secret" not in held and b"aye" not in held


def test_a_broken_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / TRAINED_ROWS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a list of hashes of training rows"):
        read_trained_rows(tmp_path)
    assert read_trained_rows(tmp_path / "elsewhere") is None


def test_training_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = make_model("pal", tmp_path)
    source, rows = recognise(str(folder)), pairs(8)
    left = unseen_rows([source], rows)
    assert left.n_left_out == 0 and "keeps no hashes" in left.notes[0]  # as models of before
    save_trained_rows(folder, rows.select(range(6)))
    left = unseen_rows([source], rows)
    assert left.rows.to_rows() == rows.select([6, 7]).to_rows() and left.n_left_out == 6
    assert "6 of the 8 rows are training rows" in " ".join(left.notes) and not left.has_training_rows
    kept = unseen_rows([source], rows, on_training_rows=True)
    assert len(kept.rows) == 8 and kept.has_training_rows and "judged here, too" in kept.notes[0]
    with pytest.raises(ValueError, match="held_out.jsonl.*--on_training_rows"):
        unseen_rows([source], rows.select(range(6)))


def test_rows_held_out_come_back_as_they_were(tmp_path: Path) -> None:
    rows = Preferences.from_rows(
        [
            {
                "annotator_id": "p",
                "prompt": "q",
                "completions": ["a", "b", "c"],
                "ratings": [2, 2, 1],
                "age": np.int64(7),
            }
        ]
    )
    write_held_out(tmp_path, rows)
    again = Preferences.from_rows([json.loads(line) for line in (tmp_path / "held_out.jsonl").open(encoding="utf-8")])
    assert again.to_rows() == rows.to_rows()
