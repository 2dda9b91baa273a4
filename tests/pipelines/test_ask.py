"""The sheet: written, filled in, and read back as the same comparison."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from palign.data.arguments import DataArguments
from palign.functional.evidence.questions import QuestionChoice
from palign.pipelines.arguments.ask import AskArguments
from palign.pipelines.ask import candidate_pairs, given_answers, question_sheet

TURN = [{"role": "user", "content": "What, then?"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("winner", ["first", "second", "tie", ""])
def test_conversations_come_back_as_they_were(winner: str, tmp_path: Path) -> None:
    row = {"annotator_id": "z", "prompt": TURN, "completions": [answer("tea, or\nnot"), answer('"milk"')]}
    (tmp_path / "pool.jsonl").write_text(json.dumps(row) + "\n")
    data = DataArguments(dataset_name=str(tmp_path / "pool.jsonl"), guard="off")
    pairs = candidate_pairs(AskArguments(), data, None)
    choice = QuestionChoice(torch.tensor([0]), torch.tensor([0.5]))
    path = tmp_path / "questions.csv"
    path.write_text(question_sheet({"ana": choice}, pairs, data), encoding="utf-8")
    lines = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
    assert lines[0]["annotator_id"] == "ana" and lines[0]["information"] == "0.5000"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerow({**lines[0], "winner": winner})
    answers = given_answers(AskArguments(answers_name=str(path)), data, None)
    if winner == "":
        assert answers.rows is None and answers.asked is None and answers.ids == []
        return
    assert answers.ids == ["ana"] and answers.asked.prompts == [TURN]
    shown = [pairs.items[item][1] for item in pairs.item_indices[0]]
    if winner == "tie":
        assert answers.rows is None and len(answers.asked) == 1
        return
    judged = [answers.rows.items[item][1] for item in answers.rows.item_indices[0]]
    assert judged == (shown if winner == "first" else shown[::-1])


def test_vectors_are_asked_by_their_rows(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text(
        json.dumps({"chosen_index": 3, "rejected_index": 5, "prompt_index": 1}) + "\n"
    )
    data = DataArguments(dataset_name=str(tmp_path / "pool.jsonl"), guard="off")
    vectors = np.zeros((6, 2), dtype=np.float32)
    pairs = candidate_pairs(AskArguments(), data, vectors)
    choice = QuestionChoice(torch.tensor([0]), torch.tensor([0.5]))
    sheet = question_sheet({"ana": choice}, pairs, data)
    first, second = pairs.item_indices[0]
    assert sheet.splitlines()[1] == f"ana,1,{first},{second},0.5000,"
    (tmp_path / "filled.csv").write_text(sheet.replace("0.5000,", "0.5000,second"))
    rows = given_answers(AskArguments(answers_name=str(tmp_path / "filled.csv")), data, vectors).rows
    assert rows.item_indices.tolist() == [[second, first]] and rows.prompt_indices.tolist() == [1]


def test_what_a_spreadsheet_would_compute_is_said(tmp_path: Path, capsys) -> None:
    (tmp_path / "pool.jsonl").write_text(json.dumps({"chosen": "=1+1", "rejected": "two"}) + "\n")
    data = DataArguments(dataset_name=str(tmp_path / "pool.jsonl"), guard="off")
    pairs = candidate_pairs(AskArguments(), data, None)
    question_sheet({"ana": QuestionChoice(torch.tensor([0]), torch.tensor([0.5]))}, pairs, data)
    assert "texts that a spreadsheet would compute ('=1+1')" in capsys.readouterr().out
