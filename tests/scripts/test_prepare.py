"""Every prepare_*.py on files small enough to check by eye, run as its docstring says."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from palign.data.loading import load_preferences

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process, from FOLDER into FOLDER/out, and give back what it said."""

    def run_script(name: str, folder: Path, *flags: str) -> str:
        monkeypatch.syspath_prepend(str(SCRIPTS))
        monkeypatch.setattr(sys, "argv", [name, str(folder), str(folder / "out"), *flags])
        runpy.run_path(str(SCRIPTS / f"prepare_{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def rows_of(folder: Path) -> list[dict]:
    return [row for split in ("train", "test") for row in load_preferences(folder / "out", split=split).to_rows()]


def test_llmfao(tmp_path, run) -> None:
    pd.DataFrame({"prompt": [8], "text": ["Haiku?"], "slug": ["k8s"], "type": ["reflexion"]}).to_csv(
        tmp_path / "prompts.csv", index=False
    )
    pd.DataFrame({"resp": [5, 3, 9], "text": ["five", "", "NA"]}).to_csv(tmp_path / "responses.csv.gz", index=False)
    judged = [(0, 5, 3, "left"), (0, 5, 9, "right"), (0, 3, 9, "tie"), (1, 9, 3, "left"), (1, 9, 5, "right")]
    pd.DataFrame(
        [
            {
                "id": 1,
                "prompt": 8,
                "worker": w,
                "model_x": 0,
                "model_y": 1,
                "resp_left": a,
                "resp_right": b,
                "winner": x,
            }
            for w, a, b, x in judged
        ]
    ).to_csv(tmp_path / "comparisons_public.csv", index=False)
    said = run("llmfao", tmp_path, "--test_share", "0.5")
    rows = rows_of(tmp_path)
    assert "left out: 1 ties" in said and len(rows) == 4 and "out/test.jsonl: 2 rows by 2 annotators" in said
    pairs = {(r["annotator_id"], r["chosen"], r["rejected"], r["chosen_index"], r["rejected_index"]) for r in rows}
    assert pairs == {
        ("worker_0", "five", "", 0, 1),
        ("worker_0", "NA", "five", 2, 0),
        ("worker_1", "NA", "", 2, 1),
        ("worker_1", "five", "NA", 0, 2),
    }
    assert {(r["prompt"], r["prompt_type"]) for r in rows} == {("Haiku?", "reflexion")}
    with pytest.raises(ValueError, match="needs at least two"):
        run("llmfao", tmp_path, "--split", "prompt")


def test_ukp(tmp_path, run) -> None:
    pd.DataFrame({"arg": ["1", "a2", "3", "4"], "topic": "t_yes", "text": ["one", "two", "two", "three"]}).to_csv(
        tmp_path / "arguments.csv.gz", index=False
    )
    judged = [("1", "a2", "w1", "a1"), ("1", "3", "w1", "a2"), ("1", "3", "w1", "equal"), ("a2", "3", "w1", "a1")]
    judged += [("1", "4", "w1", "a1")]  # another pair, without which nothing could be held out
    pd.DataFrame(
        [{"topic": "is-it-so_yes", "arg1": a, "arg2": b, "worker": w, "label": x} for a, b, w, x in judged]
        + [{"topic": "is-it-so_yes", "arg1": "1", "arg2": "3", "worker": "w2", "label": "a1"}]
    ).to_csv(tmp_path / "judgments.csv.gz", index=False)
    said = run("ukp", tmp_path, "--min_judgments", "4", "--test_share", "0.5")
    for words in ("1 judgments of workers with fewer than 4", "1 ties", "1 pairs of equal arguments"):
        assert f"left out: {words}" in said
    rows = rows_of(tmp_path)
    assert {(r["annotator_id"], r["chosen"], r["rejected"]) for r in rows} == {
        ("w1", "one", "two"),
        ("w1", "two", "one"),
        ("w1", "one", "three"),
    }
    assert {(r["prompt"], r["topic"]) for r in rows} == {("Debate: is it so. Side: yes. Argument:\n", "is-it-so_yes")}


@pytest.mark.parametrize("form", ["rankings", "ratings"])
def test_squality(tmp_path, run, form: str) -> None:
    responses = {"bart": {"response": "b"}, "dpr": {"response": "d"}, "human": {"response": "h"}}
    story = {"passage-id": "50", "questions": {"0": responses, "1": responses}}
    (tmp_path / "all-responses.jsonl").write_text(json.dumps(story) + "\n")
    rating = {"bart": 45, "dpr": 10, "human": 45}
    judged = [
        {"passage": "50", "question": q, "worker": "3", "rank": {"bart": 2, "dpr": 3, "human": 1}, "rating": rating}
        for q in ("0", "1")
    ]
    (tmp_path / "rankings.json").write_text(json.dumps(judged))
    run("squality", tmp_path, "--form", form, "--split", "prompt", "--test_share", "0.5")
    rows = sorted(rows_of(tmp_path), key=lambda row: row["prompt"])
    assert [row["prompt"] for row in rows] == [f"Story 50, question {q}. Summary:\n" for q in (0, 1)]
    assert {(r["annotator_id"], tuple(r["completions"]), r["systems"]) for r in rows} == {
        ("rater_3", ("h", "b", "d"), "human, bart, dpr")
    }
    # the ranks are strict; by the ratings the first two tie
    assert [row.get("ratings") for row in rows] == ([[1, 1, 0]] * 2 if form == "ratings" else [None] * 2)


@pytest.fixture
def polis(tmp_path) -> Path:
    """Voter 0 agrees with even and disagrees with odd statements of 40, voter 1 likes all, voter 2 is in no group."""
    statements = pd.DataFrame({"statement": range(40), "text": [f"s{i}" for i in range(40)]})
    statements.to_csv(tmp_path / "town.hall.statements.csv", index=False)
    votes = [{"user": 0, "group": 1, "statement": i, "vote": 1 if i % 2 == 0 else -1} for i in range(40)]
    votes += [{"user": 1, "group": 0, "statement": i, "vote": 1} for i in range(40)]
    votes += [{"user": 2, "group": None, "statement": i, "vote": [1, 0, -1][i % 3]} for i in range(30)]
    votes += [{"user": 3, "group": 0, "statement": i, "vote": [1, 0, -1][i % 3]} for i in range(3)]
    pd.DataFrame(votes).to_csv(tmp_path / "town.hall.votes.csv.gz", index=False)
    return tmp_path


def number(text: str) -> int:
    return int(text[1:])


def test_polis_pairs(polis: Path, run) -> None:
    said = run("polis", polis, "--conversation", "hall", "--rows", "20", "--test_share", "0.25")
    assert "1 voters with fewer than 10 votes" in said and "1 voters who voted alike on everything" in said
    train, test = (load_preferences(polis / "out", split=split) for split in ("train", "test"))
    assert train.annotators().ids == ["voter_0", "voter_2"] and len(train) == 40
    assert train.prompts == ["Conversation: town.hall. Statement:\n"]
    judged = {"train": set(), "test": set()}
    for name, part in (("train", train), ("test", test)):
        for row in part.to_rows():
            if row["annotator_id"] == "voter_0":
                judged[name] |= {row["chosen"], row["rejected"]}
                assert number(row["chosen"]) % 2 == 0 and number(row["rejected"]) % 2 == 1
                assert row["opinion_group"] == "group_1"
            else:
                assert number(row["chosen"]) % 3 < number(row["rejected"]) % 3 and "opinion_group" not in row
    assert judged["test"] and not judged["train"] & judged["test"]


def test_polis_rankings(polis: Path, run) -> None:
    run("polis", polis, "--conversation", "town", "--form", "rankings", "--n_items", "3", "--rows", "10")
    train = load_preferences(polis / "out", split="train")
    assert (train.n_items == 3).all()
    for row, ranks in zip(train.to_rows(), train.ranks, strict=True):
        numbers = np.array([number(text) for text in row["completions"]])
        votes_fall_with = numbers % 2 if row["annotator_id"] == "voter_0" else numbers % 3
        assert np.unique(votes_fall_with, return_inverse=True)[1].tolist() == ranks.tolist()
    assert len({tuple(row) for row in train.item_indices.tolist()}) > 10


def test_polis_names_what_there_is(polis: Path, run) -> None:
    with pytest.raises(ValueError, match="no conversation in .* match 'x'; there are town.hall"):
        run("polis", polis, "--conversation", "x")


@pytest.mark.parametrize("name", ["llmfao", "ukp", "squality"])
def test_a_folder_without_the_files(tmp_path, run, name: str) -> None:
    with pytest.raises(ValueError, match=r"lacks .*these files are read"):
        run(name, tmp_path)


def test_a_script_starts_as_its_docstring_says() -> None:
    command = [sys.executable, str(SCRIPTS / "prepare_polis.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Computational Democracy Project" in done.stdout


OF_ROWS = sorted(path for path in SCRIPTS.glob("prepare_[!c]*.py") if path.stem != "prepare_smollm2")


@pytest.mark.parametrize("path", OF_ROWS, ids=lambda path: path.stem)
def test_every_script_names_its_licence(path: Path) -> None:
    assert "CC BY 4.0" in path.read_text() and "attribution" in path.read_text().lower()


def test_the_script_of_a_model_names_its_licence_and_refuses_a_full_folder(tmp_path: Path) -> None:
    script = SCRIPTS / "prepare_smollm2.py"
    assert "Apache-2.0" in script.read_text()
    (tmp_path / "kept").write_text("")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "prepare_smollm2.py: error: " in done.stderr and "Traceback" not in done.stderr
