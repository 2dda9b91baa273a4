"""Every public data set from a small file of its published form, made by hand; what is read and what is left out."""

import csv
import gzip
import json
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palign.data.guard import guard
from palign.data.loading import load_preferences
from palign.data.preferences import Preferences
from palign.data.public_sets.tables import stream_table
from palign.data.sources import SOURCES, Source, read_source, register_source, write_source

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_source.py"
Rows = list[dict[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def read(name: str, path: Path, **options: Any) -> tuple[Rows, Counter]:
    """Rows, which must be such as `Preferences` takes, and what was left out."""
    dropped: Counter = Counter()
    rows = list(read_source(name, path, dropped, **options))
    if rows:
        assert len(Preferences.from_rows(rows)) == len(rows)
    return rows, dropped


# PRISM


def turn(number: int, role: str, content: str, score: int | None = None, chosen: bool | None = None) -> dict[str, Any]:
    return {"turn": number, "role": role, "content": content, "score": score, "if_chosen": chosen, "model_name": None}


def prism(folder: Path, n: int = 1) -> Path:
    """n conversations of one participant: four scored answers, then two."""
    conversations = []
    for c in range(n):
        history = [turn(0, "user", f"hello {c}"), turn(0, "model", "w", 10, False), turn(0, "model", "x", 90, True),
                   turn(0, "model", "y", 50, False), turn(0, "model", "x", 20, False),
                   turn(1, "user", "go on"), turn(1, "model", "p", 7, False), turn(1, "model", "q", 30, True),
                   turn(2, "user", "so"), turn(2, "model", "r", 5, True), turn(2, "model", "s", 5, False)]  # fmt: skip
        conversations.append({"conversation_id": f"c{c}", "user_id": "user0", "conversation_type": "unguided",
                              "conversation_history": history})  # fmt: skip
    write(folder / "conversations.jsonl", conversations)
    survey = {"user_id": "user0", "age": "25-34 years old", "gender": "Female", "education": None,
              "religion": {"self_described": "none", "simplified": "Non-religious"},
              "location": {"birth_region": "Africa", "reside_country": "Italy"}}  # fmt: skip
    write(folder / "survey.jsonl", [survey])
    return folder


def test_prism(tmp_path: Path) -> None:
    rows, dropped = read("prism", prism(tmp_path))
    assert dropped == {"turns of equal scores": 1}
    first, second = rows
    assert first["prompt"] == [{"role": "user", "content": "hello 0"}]
    said = [c[0]["content"] for c in first["completions"]]
    assert dict(zip(said, first["ratings"], strict=True)) == {"w": 10, "x": 20, "y": 50}  # the later score of "x"
    assert [message["content"] for message in second["prompt"]] == ["hello 0", "x", "go on"]
    assert (first["annotator_id"], first["age"], first["religion"]) == ("user0", "25-34 years old", "Non-religious")
    assert (first["birth_region"], first["reside_country"]) == ("Africa", "Italy") and "education" not in first


def test_prism_never_splits_a_conversation(tmp_path: Path) -> None:
    written, _ = write_source("prism", tmp_path / "out", path=prism(tmp_path / "in", n=60), test_share=0.3)
    parts = {part: load_preferences(tmp_path / "out", split=part) for part in ("train", "test")}
    ids = {part: set(rows.columns["conversation_id"]) for part, rows in parts.items()}
    assert sum(written.values()) == 120 and all(written.values()) and not ids["train"] & ids["test"]
    found = {f.name: f.verdict for f in guard(parts)}
    assert found["shared_conversations"] == "ok"
    write_source("prism", tmp_path / "wrong", path=tmp_path / "in", split_by="prompt")
    parts = {part: load_preferences(tmp_path / "wrong", split=part) for part in ("train", "test")}
    assert {f.name: f.verdict for f in guard(parts)}["shared_conversations"] == "stop"


# pairs that people judged


def compared(worker: str, first: str, second: str, choice: int, post: str = "p1") -> dict[str, Any]:
    return {"info": {"id": post, "post": f"text of {post}", "title": "t", "subreddit": "s", "article": None},
            "summaries": [{"text": first, "policy": "a", "note": None}, {"text": second, "policy": "b", "note": None}],
            "choice": choice, "worker": worker, "batch": "b0", "split": "train",
            "extra": {"confidence": None}}  # fmt: skip


def test_tldr(tmp_path: Path) -> None:
    rows = [compared("w1", " one", "two ", 1), compared("w2", "same", " same", 0), compared("w2", "x", " ", 0)]
    news = compared("w1", "a", "b", 0)
    news["info"] = {"id": "n", "post": None, "article": "News."}
    write(tmp_path / "comparisons" / "train" / "0000.parquet", [*rows, news])
    write(tmp_path / "axis" / "test" / "0000.parquet", [{"x": 1}])
    found, dropped = read("tldr", tmp_path)
    assert [(r["chosen"], r["rejected"], r["position"]) for r in found] == [("two", "one", 1), ("a", "b", 0)]
    assert found[0]["prompt"] == "SUBREDDIT: r/s\nTITLE: t\nPOST: text of p1\nTL;DR: "
    assert found[1]["prompt"] == "Article: News.\nTL;DR: "
    assert dropped == {"pairs of equal completions": 1, "pairs with an empty completion": 1}
    assert len(read("tldr", tmp_path, min_rows=3)[0]) == 0


def tldr_length(folder: Path) -> Path:
    """Five workers with 40 training rows: w0 and w1 mostly short, w2 mixed, w3 and w4 mostly long; v9 is new."""
    rows, short, long = [], "a b", "a b c d"
    for worker, n_long in (("w0", 2), ("w1", 8), ("w2", 20), ("w3", 33), ("w4", 38)):
        rows += [compared(worker, short, long, int(i < n_long), f"{worker}{i}") for i in range(40)]
    write(folder / "comparisons" / "train.jsonl", rows)
    held = [compared("v9", f"{short} {i}", f"{long} {i}", int(i < 2), f"v{i}") for i in range(3)]
    held += [compared("w0", short, long, 0, "v9"), compared("v9", "ab", "ba", 0, "vv")]
    write(folder / "comparisons" / "validation.jsonl", held)
    return folder


def test_tldr_by_length(tmp_path: Path) -> None:
    rows, dropped = read("tldr-length", tldr_length(tmp_path), n_each=2, min_rows=40)
    taste = {row["annotator_id"]: row["type"] for row in rows}
    assert taste == {"w0": "shorter", "w1": "shorter", "w3": "longer", "w4": "longer", "v9": "longer"}
    for row in rows:
        assert (len(row["chosen"]) > len(row["rejected"])) == (row["type"] == "longer")
    part = Counter(row["part"] for row in rows)
    assert part["unseen"] == 3 and part["train"] + part["test"] == 160 and 5 <= part["test"] <= 30
    assert dropped == {"training rows of other workers": 40, "pairs of equal length": 1}
    (tmp_path / "ids.txt").write_text("w2\nw3\n")
    named, _ = read("tldr-length", tmp_path, workers=tmp_path / "ids.txt")
    assert {row["annotator_id"] for row in named} == {"w2", "w3", "v9", "w0"}  # w0 is new to these two
    with pytest.raises(ValueError, match="10 workers with 41 rows or more are needed, and 0 have as many"):
        read("tldr-length", tmp_path, min_rows=41)
    # the guard says what this variant is
    verdicts = {f.name: f.verdict for f in guard({"train": Preferences.from_rows(rows)})}
    assert verdicts["length_sign"] == "stop"


def test_multipref(tmp_path: Path) -> None:
    def judged(who: str, said: str) -> dict[str, str]:
        return {"evaluator": who, "overall_pref": said, "helpful_pref": "B-is-slightly-better"}

    row = {"comparison_id": "1", "text": "ask", "completion_a": "aa", "completion_b": "bb", "source": "s",
           "normal_worker_annotations": [judged("7", "A-is-clearly-better"), judged("8", "Tie")],
           "expert_worker_annotations": [judged("7", "B-is-slightly-better"), judged("9", "")]}  # fmt: skip
    path = write(tmp_path / "train.parquet", [row])
    rows, dropped = read("multipref", path)
    assert [(r["annotator_id"], r["chosen"], r["annotator_kind"]) for r in rows] == [
        ("normal_7", "aa", "normal"), ("expert_7", "bb", "expert")]  # fmt: skip
    assert dropped == {"ties": 1, "judgements without a preference (overall)": 1}
    assert {r["chosen"] for r in read("multipref", path, aspect="helpful")[0]} == {"bb"}


def test_helpsteer(tmp_path: Path) -> None:
    row = {
        "domain": "code",
        "language": "python",
        "context": [{"role": "user", "content": "ask"}],
        "response1": "one",
        "response2": "two",
        "overall_preference": -1,
        "individual_preference": [{"score": -2, "reasoning": "r"}, {"score": 0}, {"score": 1}, {"score": None}],
    }
    rows, dropped = read("helpsteer", write(tmp_path / "preference" / "train.jsonl.gz", [row]).parents[1])
    assert [(r["annotator_id"], r["chosen"][0]["content"], r["position"]) for r in rows] == [
        ("slot_0", "one", 0), ("slot_2", "two", 1)]  # fmt: skip
    assert dropped == {"ties": 1, "judgements without a score": 1} and rows[0]["domain"] == "code"


def test_arena(tmp_path: Path) -> None:
    def talk(*said: str) -> Rows:
        return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(said)]

    first = {"question_id": "q1", "judge": "arena_user_3", "turn": 1, "language": "English", "winner": "model_b",
             "conversation_a": talk("ask", "aa"), "conversation_b": talk("ask", "bb")}  # fmt: skip
    later = first | {"winner": "model_a", "conversation_a": talk("ask", "same", "more", "aa"),
                     "conversation_b": talk("ask", "same", "more", "bb")}  # fmt: skip
    rest = [
        first | {"winner": "tie (bothbad)"},
        first | {"judge": None},
        first | {"conversation_b": talk("ask", "aa")},
    ]
    rows, dropped = read("arena", write(tmp_path / "train.jsonl", [first, later, *rest]))
    assert [r["chosen"][0]["content"] for r in rows] == ["bb", "aa"]
    assert [len(r["prompt"]) for r in rows] == [1, 3]
    assert dropped == {"ties": 1, "votes without a judge": 1, "pairs of equal conversations": 1}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_any_table(tmp_path: Path, suffix: str) -> None:
    given = [{"who": f"p{i}", "q": "ask", "left": "one", "right": "two", "best": best, "country": "PL"}
             for i, best in enumerate(("left", "Right", "1", "2", "both"))]  # fmt: skip
    names = {"annotator_column": "who", "prompt_column": "q", "first_column": "left", "second_column": "right"}
    path = write(tmp_path / f"t.{suffix}", given)
    rows, dropped = read("table", path, winner_column="best", **names)
    assert [r["chosen"] for r in rows] == ["one", "two", "one", "two"] and dropped == {"ties": 1}
    assert rows[0]["country"] == "PL" and "best" not in rows[0]
    with pytest.raises(ValueError, match="row 0: there is no column 'winner'; the row has who, q, left"):
        read("table", path, **names)


# surveys and simulated people


def test_ultrafeedback(tmp_path: Path) -> None:
    def written(text: str, *ratings: str) -> dict[str, Any]:
        aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
        return {
            "response": text,
            "model": "m",
            "annotations": {a: {"Rating": r, "Rationale": ""} for a, r in zip(aspects, ratings, strict=True)},
        }

    row = {"source": "evol", "instruction": "ask", "models": [], "completions": [
        written("a", "5", "1", "3", "2"), written("b", "4", "1", "N/A", "5"), written("c", "4", "1", "5", "5"),
        written("a", "1", "1", "1", "1")]}  # fmt: skip
    rows, dropped = read("ultrafeedback", write(tmp_path / "train.jsonl", [row]))
    found = {r["annotator_id"]: dict(zip(r["completions"], r["ratings"], strict=True)) for r in rows}
    assert found == {"helpfulness": {"a": 5, "b": 4, "c": 4}, "instruction_following": {"a": 3, "c": 5},
                     "truthfulness": {"a": 2, "b": 5, "c": 5}}  # fmt: skip
    assert dropped == {"aspects with one rating for all completions": 1}


def test_global_opinion(tmp_path: Path) -> None:
    row = {
        "question": "Good?",
        "options": "['Yes', 'No', \"Don't know\"]",
        "source": "GAS",
        "selections": "defaultdict(<class 'list'>, {'Italy': [0.2, 0.7, 0.1], 'Chad': [0.5, 0.5, 0.0]})",
    }
    rows, dropped = read("global-opinion", write(tmp_path / "x.csv", [row]))
    (found,) = rows
    assert (found["annotator_id"], found["country"], found["completions"]) == ("Italy", "Italy", ["Yes", "No"])
    assert found["ratings"] == [0.2, 0.7] and dropped == {"answers of a country that say nothing": 1}
    ready = row | {"options": ["Yes", "No"], "selections": {"Italy": [0.2, 0.8], "Peru": None}}
    assert len(read("global-opinion", write(tmp_path / "y.parquet", [ready]))[0]) == 1
    with pytest.raises(ValueError, match="is neither a list nor a dict"):
        read("global-opinion", write(tmp_path / "z.jsonl", [row | {"options": "__import__('os')"}]))


def test_persona(tmp_path: Path) -> None:
    def side(answer: str, n: int) -> Rows:
        return [{"question": f"Is it {answer}{i}?", "statement": f"{answer} {i}", "label_confidence": 0.9,
                 "answer_matching_behavior": f" {answer}", "answer_not_matching_behavior": " x"}
                for i in range(n)]  # fmt: skip

    write(tmp_path / "risk-averse.jsonl", [*side("Yes", 30), *side("No", 30), side("No", 1)[0]])
    write(tmp_path / "one-sided.jsonl", side("Yes", 4))
    rows, dropped = read("persona", tmp_path, people=2, rows=20)
    assert {r["annotator_id"] for r in rows} == {"risk-averse_0", "risk-averse_1"}
    assert all(r["chosen"].startswith("Yes") and r["rejected"].startswith("No") for r in rows)
    texts = {
        part: {r[c] for r in rows if r["part"] == part for c in ("chosen", "rejected")} for part in ("train", "test")
    }
    assert texts["train"] and texts["test"] and not texts["train"] & texts["test"]
    assert dropped == {"statements that stand there twice": 1, "personas with too few statements on a side": 1}


def test_polis_as_it_is_exported(tmp_path: Path) -> None:
    write(tmp_path / "comments.csv", [{"comment-id": i, "comment-body": f"s{i}"} for i in range(12)])
    votes = [{"timestamp": 1, "comment-id": i, "voter-id": v, "vote": 1 if (i + v) % 2 else -1}
             for v in (0, 1) for i in range(12)]  # fmt: skip
    write(tmp_path / "votes.csv", [*votes, votes[0] | {"vote": 0}])
    write(tmp_path / "participants-votes.csv", [{"participant": 0, "group-id": 1}, {"participant": 1, "group-id": 0}])
    rows, _ = read("polis", tmp_path, form="rankings", n_items=3, rows=5)
    assert {(r["annotator_id"], r["opinion_group"]) for r in rows} == {("voter_0", "group_1"), ("voter_1", "group_0")}
    for row in rows:
        for text, vote in zip(row["completions"], row["ratings"], strict=True):
            number, voter = int(text[1:]), int(row["annotator_id"][-1])
            assert vote == (0 if (number, voter) == (0, 0) else 1 if (number + voter) % 2 else -1)


# reading and writing


def test_the_register(tmp_path: Path) -> None:
    def shout(source: str, dropped: Counter, *, loud: int = 1) -> Any:
        yield {"annotator_id": source, "prompt": "p", "chosen": "A" * loud, "rejected": "b"}

    register_source(Source("shout", shout, "a shouter", "none"))
    try:
        assert next(read_source("shout", "x", loud=3))["chosen"] == "AAA"
        with pytest.raises(ValueError, match="shout has no option 'quiet'; it has loud"):
            read_source("shout", "x", quiet=1)
        with pytest.raises(ValueError, match="give the file or folder"):
            read_source("shout")
    finally:
        del SOURCES["shout"]
    with pytest.raises(ValueError, match="'shout' is no source; there are arena, .*tldr-length"):
        read_source("shout", "x")
    with pytest.raises(TypeError, match="not a function"):
        register_source(Source("none", "nothing", "", ""))  # type: ignore[arg-type]


def test_where_tables_are_found(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.jsonl", [{"a": 1}])
    write(tmp_path / "data" / "train-00001-of-00002.jsonl", [{"a": 2}])
    write(tmp_path / "data" / "test.jsonl", [{"a": 3}])
    assert [row["a"] for row in stream_table(tmp_path)] == [1, 2]
    assert [row["a"] for row in stream_table(tmp_path, split="test")] == [3]
    for source, words in (
        ("no/such.jsonl", "no file or folder"),
        ("./x", "no file or folder"),
        ("a/b", "on the hub|hub"),
    ):
        with pytest.raises(FileNotFoundError, match=words):
            list(stream_table(source))
    with pytest.raises(ValueError, match="holds no table 'survey'"):
        list(stream_table(tmp_path, table="survey"))
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(ValueError, match="bad.jsonl, line 2"):
        list(stream_table(tmp_path / "bad.jsonl"))


def test_streaming_reads_no_more_than_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"a": i} for i in range(10)])
    path.write_text(path.read_text() + "not json\n")
    rows = stream_table(path)
    assert [next(rows)["a"] for _ in range(10)] == list(range(10))


def test_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = tldr_length(tmp_path / "in")
    monkeypatch.setattr(sys, "argv", ["x", "tldr-length", str(tmp_path / "out"), "--input", str(source),
                                      "--n_each", "2", "--min_rows", "40"])  # fmt: skip
    runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr().out
    assert "unseen.jsonl: 3 rows" in said and "the paper's counts: train 20,969, test 2,330, unseen 4,921" in said
    unseen = load_preferences(tmp_path / "out" / "unseen.jsonl")
    assert unseen.annotators().ids == ["v9"] and "part" not in unseen.columns
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    listed = capsys.readouterr().out
    assert all(name in listed for name in SOURCES)


def test_a_source_that_gives_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [compared("w", "a", "a", 0)])
    with pytest.raises(ValueError, match="tldr gave no row; left out were {'pairs of equal completions': 1}"):
        write_source("tldr", tmp_path / "out", path=path)


def test_parts_are_shares(tmp_path: Path) -> None:
    rows = [compared("w", f"x{i}", f"y{i}", i % 2, f"post{i // 2}") for i in range(4000)]
    written, _ = write_source("tldr", tmp_path / "out", path=write(tmp_path / "t.jsonl", rows), test_share=0.2)
    assert written["test"] / 4000 == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 2000))
    again, _ = write_source("tldr", tmp_path / "again", path=tmp_path / "t.jsonl", test_share=0.2)
    assert again == written
