"""The guard on rows that were read otherwise than they were meant, and on vectors that say nothing."""

import numpy as np
import pandas as pd
import pytest

from palign.data.guard import guard, main
from palign.data.guards.people import check_position, find_positions
from palign.data.loading import load_preferences
from palign.data.preferences import Preferences


def table(n: int = 40, **more) -> pd.DataFrame:
    cells = {"rater": [f"r{i % 8}" for i in range(n)], "question": [f"q{i}" for i in range(n)]}
    cells |= {"answer_a": [f"a {i * 7 % 11} x" for i in range(n)], "answer_b": [f"b {i * 5 % 13} y" for i in range(n)]}
    return pd.DataFrame(cells | {"winner": (["A", "B", "tie", "B"] * n)[:n]} | more)


def verdicts(prefs: Preferences, **options) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in guard({"rows": prefs}, **options)}


TRAP = {"annotator_column": "rater", "prompt_column": "question", "chosen_column": "answer_a"}
TRAP |= {"rejected_column": "answer_b"}
RIGHT = {"annotator_column": "rater", "prompt_column": "question", "first_column": "answer_a"}
RIGHT |= {"second_column": "answer_b", "winner_column": "winner"}


@pytest.mark.parametrize("winners", [["A", "B", "tie", "B"], ["A", "B", "A", "B"], [0, 1, 1, 0], [-2, 3, 0, 1]])
def test_a_winner_column_that_is_not_used_stops(winners: list) -> None:
    frame = table().assign(winner=winners * 10)
    assert verdicts(load_preferences(frame, **TRAP))["winners_used"] == "stop"
    assert verdicts(load_preferences(frame, **RIGHT))["winners_used"] == "ok"


def test_chosen_and_rejected_with_ties_among_the_winners() -> None:
    frame = table().rename(columns={"answer_a": "chosen", "answer_b": "rejected"})
    names = {"annotator_column": "rater", "prompt_column": "question"}
    assert verdicts(load_preferences(frame, **names))["winners_used"] == "stop"
    frame["winner"] = ["A", "B"] * 20  # where the chosen one stood, perhaps
    assert verdicts(load_preferences(frame, **names))["winners_used"] == "ok"


@pytest.mark.parametrize("column", ["label", "position", "reason", "winner_text"])
def test_columns_that_name_no_winner(column: str) -> None:
    values = {"label": 1, "position": "left", "reason": "A", "winner_text": "A is better"}
    frame = table().drop(columns="winner").assign(**{column: values[column]})
    assert verdicts(load_preferences(frame, **TRAP))["winners_used"] == "ok"


def test_positions_are_known_from_the_winner_column() -> None:
    prefs = load_preferences(table().assign(winner=(["A"] * 9 + ["B"]) * 4), **RIGHT)
    name, position = find_positions(prefs)
    assert name == "position" and position.sum() == 4
    assert verdicts(prefs)["position"] == "look"
    assert check_position(prefs).message.startswith("As the answers stood in the file, the first of the two")
    named = load_preferences(table().assign(winner=(["A"] * 9 + ["B"]) * 4, place="left"), **RIGHT)
    assert "'position'" not in check_position(named).message  # no column of that name is in the file


def test_positions_in_a_column_with_ties() -> None:
    frame = table().rename(columns={"answer_a": "chosen", "answer_b": "rejected", "rater": "annotator_id"})
    assert find_positions(load_preferences(frame))[1].tolist()[:4] == [0, 1, -1, 1]


def test_a_constant_label_is_silent() -> None:
    frame = table().drop(columns="winner").assign(label=1)
    assert find_positions(load_preferences(frame, **TRAP)) is None


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.zeros((60, 4)), "all 60 vectors are zero"),
        (np.full((60, 4), 0.3), "all 60 vectors are alike"),
        (np.r_[np.random.default_rng(0).normal(size=(59, 4)), np.full((1, 4), 1e30)], "vector 59 .* of all variance"),
    ],
)
def test_vectors_that_say_nothing(vectors: np.ndarray, words: str, tmp_path, capsys) -> None:
    rows = [{"annotator_id": i % 5, "chosen_index": i, "rejected_index": (i + 1) % 60} for i in range(60)]
    (finding,) = (f for f in guard({"rows": Preferences.from_rows(rows, embeddings=60)}, embeddings=vectors) if f.name == "vectors")  # noqa: E501  # fmt: skip
    assert finding.verdict == "stop"
    np.save(tmp_path / "v.npy", vectors.astype(np.float32))
    pd.DataFrame(rows).to_json(tmp_path / "r.jsonl", orient="records", lines=True)
    assert main([str(tmp_path / "r.jsonl"), "--embeddings", str(tmp_path / "v.npy")]) == 1
    out = capsys.readouterr().out
    assert (
        out.startswith("read r.jsonl: 60 rows → 60 preferences of 5 people") and finding.message.split(":")[0] in out
    )


def test_vectors_that_differ() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 4)) * 1e200
    rows = [{"annotator_id": i % 5, "chosen_index": i, "rejected_index": (i + 1) % 60} for i in range(60)]
    assert verdicts(Preferences.from_rows(rows, embeddings=60), embeddings=vectors)["vectors"] == "ok"


def test_the_command_takes_every_option_of_reading(tmp_path, capsys) -> None:
    table().assign(winner=[0, 1] * 20).to_csv(tmp_path / "t.csv", index=False, sep=";")
    flags = [word for name, column in RIGHT.items() for word in (f"--{name}", column)]
    assert main([str(tmp_path / "t.csv"), *flags, "--winner_values", "first=1", "second=0"]) == 0
    assert "'0' → answer_b (20)" in capsys.readouterr().out
    assert main([str(tmp_path / "t.csv")]) == 2
    assert "the whole command line is: palign guard" in capsys.readouterr().err
