"""The guard: every check on rows made by hand with one fault, silence without it, and the command."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from palign.data.arguments import DataArguments
from palign.data.guard import GuardError, GuardOptions, act_on, guard, guard_prompts, main
from palign.data.guards.finding import Finding, Pairs, both_tails
from palign.data.guards.form import check_raw_form
from palign.data.guards.names import check_names
from palign.data.preferences import Preferences
from palign.data.synthetic import make_gaussian_population
from tests.worlds.scripts import load_script

WORDS = "amber basil cedar delta ember fjord grove heron inlet jetty kayak lemon maple north ocean pearl quill".split()
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("measure_guard")


def clean_rows(n_people: int = 10, n_each: int = 40, seed: int = 0, prompt: str = "ask") -> Rows:
    """Even people like early letters and odd people late ones; all texts are six words of one form."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(n_people):
        for number in range(n_each):
            first, second = (rng.permutation(len(WORDS))[:6] for _ in range(2))
            if (first.sum() < second.sum()) != (person % 2 == 0):
                first, second = second, first
            texts = [" ".join(WORDS[i] for i in picks)[:33] for picks in (first, second)]
            rows.append({"annotator_id": f"p{person}", "prompt": f"{prompt} {seed} {(person * 7 + number) % 97}",
                         "chosen": texts[0], "rejected": texts[1], "type": "early" if person % 2 == 0 else "late",
                         "position": int(rng.integers(2))})  # fmt: skip
    return rows


def verdicts(train: Rows, evaluation: Rows | None = None, **options: Any) -> dict[str, str]:
    """Check → verdict, of all that are not ok."""
    splits = {"train": train} | ({"eval": evaluation} if evaluation else {})
    found = guard({name: Preferences.from_rows(rows) for name, rows in splits.items()}, **options)
    return {finding.name: finding.verdict for finding in found if finding.verdict != "ok"}


def test_clean_rows_pass() -> None:
    assert verdicts(clean_rows(), clean_rows(seed=1), options=GuardOptions(n_types=2)) == {}
    assert check_raw_form(clean_rows()).verdict == "ok"


# the six traps of published repositories


def test_trap_a_list_against_a_string() -> None:
    rows = [row | {"chosen": [{"role": "assistant", "content": row["chosen"]}]} for row in clean_rows(2, 5)]
    found = check_raw_form(rows)
    assert found.verdict == "stop" and found.value == 1.0 and found.rows == (0, 1, 2, 3, 4)
    assert "the better completion is a list of messages and the worse one a text" in found.message
    assert check_raw_form([row | {"chosen": [row["rejected"]]} for row in rows]).verdict == "stop"
    mixed = [row | {"rejected": row["chosen"]} for row in rows]
    mixed[0]["rejected"] = "x"
    assert check_raw_form(mixed).verdict == "look"  # one row of ten


def test_trap_length_with_one_sign_per_user() -> None:
    rows = clean_rows()
    for row in rows:
        texts = sorted((row["chosen"], row["rejected"] + " and more"), key=len)
        better = texts[::-1] if row["type"] == "early" else texts
        row |= {"chosen": better[0], "rejected": better[1]}
    assert verdicts(rows)["length_sign"] == "stop" and "length" not in verdicts(rows)


def test_trap_validation_is_test() -> None:
    train, held = clean_rows(), clean_rows(seed=1)
    splits = {name: Preferences.from_rows(r) for name, r in (("train", train), ("validation", held), ("test", held))}
    (found,) = [finding for finding in guard(splits) if finding.verdict != "ok"]
    assert (found.name, found.verdict, found.value) == ("shared_judgements", "stop", 1.0)
    assert "400 of the 400 judgements of test stand in validation as well: test is validation" in found.message


@pytest.mark.parametrize("form", ["messages", "text", "column"])
def test_trap_a_conversation_in_two_splits(form: str) -> None:
    train, later = clean_rows(), clean_rows(seed=1)
    for row, before in zip(later[:100], train[:100], strict=True):
        if form == "column":
            row["conversation_id"] = before["conversation_id"] = before["prompt"]
        elif form == "text":
            row["prompt"] = f"{before['prompt']}\n\nAssistant: {before['chosen']}\n\nHuman: {row['prompt']}"
        else:
            first = [{"role": "user", "content": before["prompt"]}, {"role": "assistant", "content": before["chosen"]}]
            row["prompt"] = [*first, {"role": "user", "content": row["prompt"]}]
    found = guard({"train": Preferences.from_rows(train), "eval": Preferences.from_rows(later)})
    (spoke,) = [finding for finding in found if finding.verdict != "ok"]
    assert (spoke.name, spoke.verdict, spoke.value) == ("shared_conversations", "stop", 0.25)
    assert spoke.rows == (0, 1, 2, 3, 4) and spoke.split == "eval"


def test_an_example_before_every_prompt_is_no_conversation() -> None:
    shown = "What is 1 + 1?\n\nAssistant: 2\n\nHuman: "
    train, held = clean_rows(prompt=shown + "ask"), clean_rows(seed=1, prompt=shown + "ask")
    assert verdicts(train, held) == {}


FORMS = {
    "ends with a blank": lambda row: {"chosen": row["chosen"] + "\n"},
    "begins with a blank": lambda row: {"rejected": " " + row["rejected"]},
    "begins with a capital": lambda row: {"chosen": row["chosen"].capitalize()},
    "template": lambda row: {"rejected": f"<|assistant|>{row['rejected']}"},
    "Latin": lambda row: {"rejected": "".join(chr(0x430 + ord(c) % 32) for c in row["rejected"])},
    "German": lambda row: {"rejected": f"das ist nicht die {row['rejected']} und der"},
    "several messages": lambda row: {"chosen": [{"role": "assistant", "content": t} for t in ("x", row["chosen"])]},
    "by 'expert'": lambda row: {"chosen": [{"role": "expert", "content": row["chosen"]}]},
    "word 'Sure:'": lambda row: {"chosen": f"Sure: {row['chosen']}", "rejected": f"Well: {row['rejected']}"},
}


@pytest.mark.parametrize("name", FORMS)
def test_trap_the_label_is_told_by_form(name: str) -> None:
    rows = [row | FORMS[name](row) for row in clean_rows()]
    found = {f.name: f for f in guard({"train": Preferences.from_rows(rows)})}
    assert found["form"].verdict == "stop"
    assert "in 400 of the 400 rows where one of the two does" in found["form"].message


def test_a_form_in_a_part_of_the_rows_is_a_look_and_a_popular_text_is_none() -> None:
    rows = clean_rows()
    few = [row | {"chosen": row["chosen"] + " "} if i % 10 == 0 else row for i, row in enumerate(rows)]
    assert verdicts(few) == {"form": "look"}
    popular = [row | {"chosen": "The One."} if i % 10 == 0 else row for i, row in enumerate(rows)]
    assert "form" not in verdicts(popular)


def test_trap_shuffling_users_does_not_hurt() -> None:
    rows = clean_rows(50, 100)
    names = np.random.default_rng(0).permutation([row["annotator_id"] for row in rows])
    shuffled = [row | {"annotator_id": str(name), "type": None} for row, name in zip(rows, names, strict=True)]
    assert verdicts(rows) == {}
    assert verdicts(shuffled) == {"names": "look"}


def test_names_in_vectors() -> None:
    people = make_gaussian_population(n_types=3, n_annotators=60, seed=0)
    rows = people.comparisons(100, seed=0, beta=8.0)
    names = np.random.default_rng(0).permutation(rows.annotator_ids)
    shuffled = Preferences.from_arrays(names, rows.item_indices[:, 0], rows.item_indices[:, 1])
    for vectors in (people.items, None):  # without them, by which items a person chose before
        assert all(finding.verdict == "ok" for finding in guard({"train": rows}, embeddings=vectors))
        assert [f.name for f in guard({"train": shuffled}, embeddings=vectors) if f.verdict != "ok"] == ["names"]


# the other faults


def test_longer_wins() -> None:
    rows = clean_rows()
    for number, row in enumerate(rows):
        row["chosen" if number % 4 else "rejected"] += " indeed"
    found = {f.name: f for f in guard({"train": Preferences.from_rows(rows)})}["length"]
    assert found.verdict == "look" and found.value == pytest.approx(0.75, abs=0.03)
    assert (
        verdicts([row | {"chosen": row["chosen"] + " indeed, and more"} for row in clean_rows()])["length"] == "stop"
    )
    assert "length" not in verdicts([row | {"chosen": row["chosen"] + " indeed"} for row in rows[:10]])  # ten rows


def test_duplicates_and_contradictions() -> None:
    rows = clean_rows()
    assert verdicts(rows + rows[:40]) == {"duplicates": "look"}
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[:40]]
    found = [f for f in guard({"train": Preferences.from_rows(rows + swapped)}) if f.verdict != "ok"]
    assert [(f.name, f.rows) for f in found] == [("contradictions", (400, 401, 402, 403, 404))]
    others = [row | {"annotator_id": "p1"} for row in swapped]  # people may differ
    assert "contradictions" not in verdicts(rows + others)


def test_position() -> None:
    rows = clean_rows()
    for number, row in enumerate(rows):
        row["winner"] = "left" if number % 10 < 7 else "right"
        del row["position"]
    assert verdicts(rows) == {"position": "look"}
    always = [row | {"winner": "model_a"} for row in rows]
    assert verdicts(always)["position"] == "look"
    with pytest.raises(ValueError, match="'type' holds 'early', 'late'; where the chosen completion stood"):
        verdicts(rows, options=GuardOptions(position_column="type"))


def test_constant_people() -> None:
    rows = [row | {"position": 0} if row["annotator_id"] == "p3" else row for row in clean_rows()]
    (found,) = [f for f in guard({"train": Preferences.from_rows(rows)}) if f.verdict != "ok"]
    assert (found.name, found.value) == ("constant", 0.1) and "'p3' (the same place)" in found.message
    rows = [row | {"chosen": "yes"} if row["annotator_id"] == "p3" else row for row in clean_rows()]
    assert verdicts(rows) == {"constant": "look"}


def test_types_and_people_with_prompts_of_their_own() -> None:
    own = [row | {"prompt": f"{row['type']} {row['prompt']}"} for row in clean_rows()]
    assert verdicts(own)["type_source"] == "stop"
    by_column = [row | {"source": "web" if row["type"] == "early" else "chat"} for row in clean_rows()]
    assert verdicts(by_column) == {"type_source": "stop"}
    each = [row | {"prompt": f"{row['annotator_id']} {i % 4}", "type": None} for i, row in enumerate(clean_rows())]
    assert verdicts(each) == {"prompt_source": "look"}
    assert [f.verdict for f in guard_prompts(each)] == ["look"]
    assert [f.verdict for f in guard_prompts(clean_rows())] == ["ok"]


def test_too_few_votes() -> None:
    rows = clean_rows(10, 1)
    assert verdicts(rows, options=GuardOptions(n_types=2))["votes"] == "stop"
    assert verdicts(clean_rows(10, 4), options=GuardOptions(n_types=2)) == {"votes": "look"}


def test_splits_that_share() -> None:
    train, held = clean_rows(), clean_rows(seed=1)
    assert verdicts(train, held + train[:40])["shared_judgements"] == "stop"
    assert verdicts(train, held + train[:10])["shared_judgements"] == "look"
    other = [row | {"annotator_id": "x"} for row in train[:40]]
    assert verdicts(train, held + other) == {"shared_prompts": "look", "shared_completions": "look"}
    assert verdicts(train, held + other, options=GuardOptions(prompts_are_new=False)) == {}
    same_prompts = [row | {"prompt": before["prompt"]} for row, before in zip(held, train, strict=True)]
    assert verdicts(train, same_prompts) == {"shared_prompts": "look"}
    unseen = Preferences.from_rows([row | {"annotator_id": "new"} for row in held] + held[:3])
    found = guard({"train": Preferences.from_rows(train)}, unseen=unseen)[-1]
    assert (found.name, found.verdict, found.value, found.rows) == ("unseen", "stop", 0.5, (400, 401, 402))


def test_repeats_in_the_first_split_do_not_excuse_a_leak() -> None:
    """A third of the rows to train on stand there twice; nine in ten of the held-out rows stand there, too."""
    train, held = clean_rows(), clean_rows(seed=1)
    (found,) = [
        finding
        for finding in guard(
            {"train": Preferences.from_rows(train + train[:200]),
             "eval": Preferences.from_rows(train[200:380] + held[:20])}
        )
        if finding.name == "shared_judgements"
    ]  # fmt: skip
    assert (found.verdict, found.value) == ("stop", pytest.approx(0.9))
    assert "180 of the 200 judgements of eval" in found.message and "Drop the copies" in found.message


def test_numbers_under_the_checks() -> None:
    assert both_tails(5, 10) == 1.0
    assert both_tails(10, 10) == pytest.approx(2 / 1024)
    assert both_tails(1, 10) == pytest.approx(2 * 11 / 1024)
    ranked = Preferences.from_rows(
        [{"annotator_id": "a", "prompt": "p", "completions": list("wxyz"), "ratings": [4, 4, 2, 1]}] * 200
    )
    pairs = Pairs.typical(ranked)
    drawn = {(ranked.items[b][1], ranked.items[w][1]) for b, w in zip(pairs.best, pairs.worst, strict=True)}
    assert drawn == {("w", "y"), ("x", "y"), ("w", "z"), ("x", "z"), ("y", "z")}


# acting on it


def test_stop_stops_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding.of("a", "ok", 0, "fine."),
        Finding.of("b", "look", 0, "hm.", [3], "train"),
        Finding.of("c", "stop", 0, "no."),
    ]
    with pytest.raises(GuardError, match=r"guard: look: b: hm\. \(rows 3 of train, …\)\nguard: stop: c: no\.\n.*warn"):
        act_on(findings)
    assert capsys.readouterr().out == ""
    assert act_on(findings, "warn") == capsys.readouterr().out.splitlines()
    assert act_on(findings[:2], "stop") == ["guard: look: b: hm. (rows 3 of train, …)"]
    assert act_on(findings, "off") == []
    with pytest.raises(ValueError, match="allowed are stop, warn, off"):
        act_on(findings, "silent")
    with pytest.raises(ValueError, match="allowed are stop, warn, off"):
        DataArguments(guard="silent")


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_arguments_look_at_the_form_in_the_file(tmp_path: Path) -> None:
    rows = [row | {"chosen": [{"role": "assistant", "content": row["chosen"]}]} for row in clean_rows(3, 4)]
    source = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(GuardError, match="raw_form"):
        DataArguments(dataset_name=source).train_rows()
    assert len(DataArguments(dataset_name=source, guard="warn").train_rows()) == 12
    assert len(DataArguments(dataset_name=source, guard="off").train_rows()) == 12


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{("worker" if k == "annotator_id" else k): v for k, v in row.items()} for row in clean_rows()]
    train = write(tmp_path / "train.jsonl", rows)
    assert main([train, "--annotator_column", "worker", "--n_types", "2"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].endswith("checks: 0 stop, 0 look") and "ok    votes" in said
    test = write(tmp_path / "test.jsonl", [rows[0] | {"worker": "\x1b[31m<b>"}] * 3 + rows)
    for given in ([train, test], [str(tmp_path)]):  # a folder's files are its splits
        assert main([*given, "--annotator_column", "worker"]) == 1
        said = capsys.readouterr().out
        assert "stop  shared_judgements" in said and "test.jsonl row" in said and "\x1b" not in said


def test_the_commands_file_by_the_name_that_recipes_have_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write(tmp_path / "train.jsonl", clean_rows())
    results = [main(given) for given in ([train], ["--dataset_name", train])]
    first, second = capsys.readouterr().out.split("read ")[1:]
    assert results == [0, 0] and first == second


@pytest.mark.parametrize(
    ("given", "words"), [([], "no file is given"), (["rows.csv", "--datset_name", "x"], "--datset_name")]
)
def test_a_wrong_command_line_is_one_line(given: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(given)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("palign guard: error: ") and words in line


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.jsonl")]) == 2
    assert "There is no file" in capsys.readouterr().err


@pytest.mark.slow
def test_false_alarms_on_clean_sets(script: ModuleType) -> None:
    alarmed, by_check = script.false_alarms(200, 1)
    assert alarmed <= 10, by_check


@pytest.mark.slow
def test_planted_faults_are_caught(script: ModuleType) -> None:
    missed = {fault: rate for fault, rate in script.catch_rates(4, 1).items() if rate < 0.75}
    assert missed == {}


def test_names_under_one_heading_and_a_few_topics() -> None:
    """Each prompt has words of its own that tastes go by, beside words of all that nobody minds."""
    rng, rows = np.random.default_rng(0), []
    for person in range(40):
        for _ in range(20):
            topic = 0 if rng.random() < 0.5 else int(rng.integers(1, 13))
            pair = [f"yea{topic} word{rng.integers(9)}", f"nay{topic} word{rng.integers(9)}"]
            if person % 2 != (rng.random() < 0.1):
                pair.reverse()
            chosen, rejected = pair
            rows.append({"annotator_id": f"p{person}", "prompt": f"t{topic}", "chosen": chosen, "rejected": rejected})
    found = check_names(Preferences.from_rows(rows))
    assert found.verdict == "ok" and found.value > 0.2
