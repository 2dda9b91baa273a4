"""Odd files of users: each is read right, or ends in one sentence that says where and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from palign.data.guard import main as guard
from palign.data.loading import load_preferences

NAMES = {"annotator_column": "rater", "prompt_column": "question", "first_column": "answer_a"}
NAMES |= {"second_column": "answer_b", "winner_column": "winner"}
HEAD = "rater,question,answer_a,answer_b,winner"
FLAGS = [word for name, column in NAMES.items() for word in (f"--{name}", column)]


def table(*winners: str, head: str = HEAD) -> str:
    """A CSV of one row for each winner; the answers name their side."""
    return "\n".join([head, *(f"r{i % 2},q{i},left {i},right {i},{w}" for i, w in enumerate(winners))]) + "\n"


def sides(path: Path, text: str | bytes, **reading: Any) -> str:
    """Which side was preferred, row by row, as one text."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return " ".join(row["chosen"].split()[0] for row in load_preferences(path, **(NAMES | reading)).to_rows())


def talk(*contents: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(contents)]


READ = {
    "semicolons and line breaks in quotes": (
        'rater;question;answer_a;answer_b;winner\nr1;"how; do\nI ""boil""";"left;\n1";right 1;A\nr2;q;left 2;right 2;B\n',  # noqa: E501
        "left; right",
    ),
    "tabs in a .csv": (table("A", "B").replace(",", "\t"), "left right"),
    "tabs behind a mark": (b"\xef\xbb\xbf" + table("A", "B").replace(",", "\t").encode(), "left right"),
    "blank lines": (table("A", "B").replace("\n", "\n\n"), "left right"),
    "line ends of an old Mac": (table("A", "B").replace("\n", "\r"), "left right"),
    "blanks in the header": (table("A", "B", head="rater , question, answer_a,answer_b , winner"), "left right"),
    "options": (table("Option A", "Option B", "no preference", "Both"), "left right"),
    "wins": (table("A wins", "B won", "Answer 1", "prefer second"), "left right left right"),
    "strong and slight": (table("Strongly prefer A", "Slightly prefer B", "about equal"), "left right"),
    "verdicts": (table("A >> B", "A << B", "A is much better"), "left right left"),
}


@pytest.mark.parametrize(
    ("kind", "suffix"), [*((kind, "csv") for kind in READ), *((kind, "tsv") for kind in READ if "tabs" in kind)]
)
def test_odd_tables_that_are_read(kind: str, suffix: str, tmp_path: Path) -> None:
    text, expected = READ[kind]
    assert sides(tmp_path / f"a.{suffix}", text) == expected


REFUSED = {
    "likert of seven": (table("1", "7", "4"), r"3 rows name a winner .*1 \(1\), 7 \(1\), 4 \(1\).*--winner_values"),
    "three numbers": (table("1", "2", "3"), r"not understood: 1 \(1\), 2 \(1\), 3 \(1\)"),
    "another language": (table("links", "rechts"), r"not understood: links \(1\), rechts \(1\)"),
    "signs": (table("👈", "👉"), "not understood: 👈"),
    "a blank winner": (table("A", "", "B"), r"row 1 .*no winner is there.*\(line 3 of the file\)"),
    "files behind one another": (table("A", "B") + table("A"), "line 4 .*the header once more"),
    "a column twice": (table("A", head="rater,question,answer_a,answer_a,winner"), "'answer_a' twice"),
    "single quotes": (f"{HEAD}\nr1,'a, b',left,right,A\n", "line 2: 6 cells, header has 5"),
    "a pointer of LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", "pointer of Git LFS"),
    "a web page": ("<!DOCTYPE html><html><body>404</body></html>\n", "is a web page and not the data"),
    "another encoding": (table("A").replace("left", "café").encode("latin-1"), "line 2: not UTF-8"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_odd_tables_that_are_refused_in_one_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, words = REFUSED[kind]
    with pytest.raises((ValueError, TypeError), match=words):
        sides(tmp_path / "a.csv", text)
    assert guard([str(tmp_path / "a.csv"), *FLAGS]) == 2  # the command says the same, and no traceback
    out, err = capsys.readouterr()
    assert len((out + err).strip().splitlines()) == 1 and "Traceback" not in out + err


@pytest.mark.parametrize("column", ["a_is_better", "winner_model_b", "first wins", "answer_a_wins", "a_minus_b"])
@pytest.mark.parametrize("numbers", [("0", "1"), ("-1", "2")])
def test_a_column_that_speaks_of_one_answer_is_asked_about(
    column: str, numbers: tuple[str, str], tmp_path: Path
) -> None:
    """1 under "a_is_better" means the first; 0 and 1 by themselves are read the other way round."""
    text = table(*numbers, head=HEAD.replace("winner", column))
    with pytest.raises(ValueError, match=f"'{column}' speaks of one answer: does 1 mean that it is so"):
        sides(tmp_path / "a.csv", text, winner_column=column)
    values = [f"first={numbers[1]}", f"second={numbers[0]}"]
    assert sides(tmp_path / "a.csv", text, winner_column=column, winner_values=values) == "right left"


def test_a_winner_column_that_python_does_not_use_is_said(tmp_path: Path) -> None:
    """The trap: `--chosen_column answer_a` where the winner column says otherwise; in a command the guard stops."""
    path = tmp_path / "a.csv"
    path.write_text(table("A", "B", "B", "tie"))
    names = {"annotator_column": "rater", "prompt_column": "question"}
    pair = {"chosen_column": "answer_a", "rejected_column": "answer_b"}
    said = str(load_preferences(path, **names, **pair).reading)
    assert "'winner' looks as if it named winners, and is not used" in said
    assert "not used" not in str(load_preferences(path, **NAMES).reading)


def test_ranks_below_zero_are_no_ranks(tmp_path: Path) -> None:
    row = {"annotator_id": "a", "completions": ["x", "y", "z"], "ranks": [1, -1, 2]}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=r"column 'ranks': a rank is -1; ranks count up.*not ranked"):
        load_preferences(tmp_path / "a.json", ranks_column="ranks")


def test_messages_that_hold_more_than_text_or_other_roles(tmp_path: Path) -> None:
    row = {"annotator_id": "a", "prompt": [{"role": "human", "content": "hi"}]}
    row |= {"chosen": [{"role": "gpt", "content": "x", "tool_calls": None}], "rejected": [{"role": "bot", "content": "y"}]}  # noqa: E501  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (read,) = load_preferences(tmp_path / "a.json").to_rows()
    assert read["prompt"] == talk("hi") and read["chosen"] == [{"role": "assistant", "content": "x"}]
    row["chosen"][0]["tool_calls"] = [{"name": "search"}]
    (tmp_path / "a.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match="column 'chosen': message 0 holds 'tool_calls', which is no text"):
        load_preferences(tmp_path / "a.json")


def test_a_header_that_comes_again_is_dropped_on_request(tmp_path: Path) -> None:
    assert sides(tmp_path / "a.csv", table("A", "B") + table("A"), bad_rows="drop") == "left right left"


def test_a_winner_that_is_no_model_of_its_row(tmp_path: Path) -> None:
    head = "rater,question,answer_a,answer_b,model_a,model_b,winner"
    lines = [head, "r,q,left,right,gpt,llama,gpt", "r,q2,left,right,llama,gpt,gpt", "r,q3,left,right,gpt,llama,claude"]
    with pytest.raises(ValueError, match=r"1 row names a winner that is not understood: claude \(1\)"):
        sides(tmp_path / "a.csv", "\n".join(lines) + "\n")
    assert sides(tmp_path / "a.csv", "\n".join(lines[:3]) + "\n") == "left right"


def test_marks_that_disagree_or_are_missing_are_listed(tmp_path: Path) -> None:
    head = "rater,question,answer_a,answer_b,winner_model_a,winner_model_b,winner_tie"
    lines = [head, "r,q,left,right,1,0,0", "r,q2,left,right,1,1,0", "r,q3,left,right,0,0,0", "r,q4,left,right,,,1"]
    with pytest.raises(ValueError, match=r"3 of 4 rows are bad: .*one of three columns must be 1.*\(lines 3, 4\)"):
        sides(tmp_path / "a.csv", "\n".join(lines) + "\n")
    assert sides(tmp_path / "a.csv", "\n".join(lines) + "\n", bad_rows="drop") == "left"


def test_words_among_ratings_are_listed(tmp_path: Path) -> None:
    row = {"annotator_id": "a", "completions": ["x", "y"]}
    rows = [row | {"ratings": [4, "good"]}, row | {"ratings": [4, 5]}, row | {"ratings": [None, 5]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(TypeError, match=r"2 of 3 rows are bad: .*a rating must be a number, found 'good'"):
        load_preferences(tmp_path / "a.jsonl")
    (kept,) = load_preferences(tmp_path / "a.jsonl", bad_rows="drop").to_rows()
    assert (kept["chosen"], kept["rejected"]) == ("y", "x")


def test_conversations_that_part_early(tmp_path: Path) -> None:
    row = {"annotator_id": "a", "chosen": talk("hi", "A1", "more", "A2"), "rejected": talk("hi", "B1", "more?", "B2")}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (read,) = load_preferences(tmp_path / "a.json").to_rows()
    assert read["prompt"] == talk("hi") and read["chosen"] == talk("hi", "A1", "more", "A2")[1:]
    for chosen, rejected in (
        (talk("hi", "A1"), talk("ho", "A1")),
        (talk("hi", "A", "more", "A2"), talk("hi", "A", "else", "A2")),
        (
            [{"role": "system", "content": "s"}, *talk("hi", "A")],
            [{"role": "system", "content": "s"}, *talk("ho", "A")],
        ),  # noqa: E501
    ):
        (tmp_path / "a.json").write_text(json.dumps([{"annotator_id": "a", "chosen": chosen, "rejected": rejected}]))
        with pytest.raises(ValueError, match="they ask different things"):
            load_preferences(tmp_path / "a.json")


def test_what_was_probably_meant_otherwise_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(table("A", "B").replace("left 0", "Tom &amp; Jerry").replace("right 1", "a &lt; b"))
    assert "2 of 6 texts hold escaped HTML" in str(load_preferences(path, **NAMES).reading)
    path.write_text(table("A", "B").replace("left 0", "Tom & Jerry < 5; AT&T"))
    assert "HTML" not in str(load_preferences(path, **NAMES).reading)
    said = "\n\nHuman: hi\n\nAssistant: "
    (tmp_path / "a.json").write_text(
        json.dumps([{"annotator_id": "a", "chosen": said + "hello", "rejected": said + "no"}])
    )
    assert "2 of 2 completions are transcripts" in str(load_preferences(tmp_path / "a.json").reading)
    path.write_text(f"{HEAD}\n1,q,left,right,A\n1.0,q2,left,right,B\n")
    assert "by '.0' behind a number" in str(load_preferences(path, **NAMES).reading)


def test_a_matrix_of_votes_is_proposed_and_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("user,alien,brazil,dune\nann,5,3,\nbo,1,2,5\n")
    with pytest.raises(ValueError, match="matrix of votes.*--annotator_column user --items_name ITEMS.csv"):
        load_preferences(tmp_path / "m.csv")
    (tmp_path / "i.csv").write_text("id,text\nalien,Alien\nbrazil,Brazil\ndune,Dune\n")
    first, second = load_preferences(
        tmp_path / "m.csv", annotator_column="user", items_name=str(tmp_path / "i.csv")
    ).to_rows()
    assert (first["chosen"], first["rejected"]) == ("Alien", "Brazil")
    assert second["completions"] == ["Dune", "Brazil", "Alien"]


def test_cells_of_formulas(tmp_path: Path) -> None:
    """A value that a spreadsheet computed is read; an error value, or a formula that was never computed, is named."""
    openpyxl = pytest.importorskip("openpyxl")

    def book(cell: Any) -> Path:
        made = openpyxl.Workbook()
        page = made.active
        page.append(HEAD.split(","))
        page.append(["r1", "q1", "left", "right", "A"])
        page.append(["r1", "q2", "left", "right", cell])
        made.save(tmp_path / "a.xlsx")
        return tmp_path / "a.xlsx"

    for error in ("#DIV/0!", "#N/A", "#REF!"):
        with pytest.raises(ValueError, match=f"cell E3: {error}, a formula that ended in an error"):
            load_preferences(book(error), **NAMES)
    with pytest.raises(ValueError, match="cell E3.*formula"):
        load_preferences(book('=IF(1>0,"A","B")'), **NAMES)  # written by a program, and never opened
