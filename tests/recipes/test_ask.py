"""`palign ask`: from rows to a sheet, from the sheet that was filled in to the next one, and to a model that knows."""

import csv
import json
from pathlib import Path

import pytest
import torch

from palign.cli.command import load_recipe
from palign.data.loading import load_preferences
from palign.models.pal import PALRewardModel

SAVED = Path(__file__).parents[1] / "saved"
TEXTS = ["tea", "milk", "rain", "sun", "cat", "dog", "red", "tea milk", "sun rain", "-cat"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Rows that name nobody."""
    path = tmp_path / "pool.jsonl"
    pairs = [{"prompt": "What?", "chosen": a, "rejected": b} for a, b in zip(TEXTS, TEXTS[1:], strict=False)]
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return path


def ask(*flags: str) -> dict[str, float]:
    return load_recipe("ask").main(["--model_path", str(SAVED / "pal_text"), *flags])


def lines_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "questions.csv").open(encoding="utf-8", newline="")))


def fill(folder: Path, winners: list[str]) -> Path:
    """The sheet with winners in its lines, in order."""
    lines = lines_of(folder)
    with (folder / "filled.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        for line, winner in zip(lines, winners, strict=True):
            writer.writerow({**line, "winner": winner})
    return folder / "filled.csv"


def test_from_rows_to_questions_to_a_model_that_knows(rows: Path, tmp_path: Path, capsys) -> None:
    first = ["--dataset_name", str(rows), "--annotators", "ana", "ben", "--output_dir", str(tmp_path / "one")]
    summary = ask(*first)
    assert summary["n_questions"] == 6 and summary["n_pairs"] == len(TEXTS) - 1
    assert json.loads((tmp_path / "one" / "summary.json").read_text()) == summary
    printed = capsys.readouterr().out
    assert "rows are questions, nobody's" in printed and "Write first, second or tie" in printed
    sheet = fill(tmp_path / "one", ["first", "B", "tie", "second", "", "A is better"])
    again = ["--answers_name", str(sheet), "--output_dir", str(tmp_path / "two"), "--save_path", str(tmp_path / "pal")]
    summary = ask("--dataset_name", str(rows), *again)
    assert summary["n_answers"] == 4 and summary["n_people"] == 2
    printed = capsys.readouterr().out
    assert "1 of 6 questions are ties" in printed and "1 of 6 questions have no winner yet" in printed
    before = {
        (line["annotator_id"], frozenset((line["first"], line["second"]))) for line in lines_of(tmp_path / "one")
    }
    after = {(line["annotator_id"], frozenset((line["first"], line["second"]))) for line in lines_of(tmp_path / "two")}
    open_question = lines_of(tmp_path / "one")[4]
    may_recur = {(open_question["annotator_id"], frozenset((open_question["first"], open_question["second"])))}
    assert not (before - may_recur) & after
    model, old = PALRewardModel.from_pretrained(tmp_path / "pal"), PALRewardModel.from_pretrained(SAVED / "pal_text")
    assert model.annotators.ids == [*old.annotators.ids, "ana", "ben"]
    answers = load_preferences(
        [line for line in csv.DictReader(sheet.open(encoding="utf-8")) if line["winner"]],
        first_column="first", second_column="second", winner_column="winner",
    )  # fmt: skip
    fit = old.fit_annotators(answers)
    torch.testing.assert_close(model.weights_for(fit.ids), fit.weights, atol=1e-5, rtol=0)


def test_one_list_for_a_panel(rows: Path, tmp_path: Path) -> None:
    flags = ["--annotators", "ana", "ben", "--together", "true", "--n_questions", "2", "--output_dir", str(tmp_path)]
    assert ask("--dataset_name", str(rows), *flags)["n_questions"] == 2
    assert [line["annotator_id"] for line in lines_of(tmp_path)] == ["", ""]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --model_path REWARD_MODEL, and --dataset_name ROWS"),
        (["--dataset_name", "x", "--n_questions", "0"], "--n_questions is 0; ask at least one"),
        (["--dataset_name", "x", "--max_pairs", "0"], "--max_pairs is 0"),
        (["--dataset_name", "x", "--save_path", "y"], "--save_path adds people by their answers"),
    ],
)
def test_what_is_missing_is_said(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        ask(*flags, "--output_dir", str(tmp_path / "out"))
    assert message in str(error.value)


def test_a_winner_that_names_no_side(rows: Path, tmp_path: Path) -> None:
    ask("--dataset_name", str(rows), "--output_dir", str(tmp_path / "one"))
    sheet = fill(tmp_path / "one", ["first", "the green one", ""])
    with pytest.raises(ValueError, match=r"filled.csv, line 3: winner is 'the green one'; write first, second or tie"):
        ask("--dataset_name", str(rows), "--answers_name", str(sheet), "--output_dir", str(tmp_path / "two"))
