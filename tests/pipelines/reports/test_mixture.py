"""What is said about a mixture: agreement with the truth, the choice of K, checks in order, samples side by side."""

import re
from typing import Any

import numpy as np
import pytest

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.files.mixture import MixtureRecord
from palign.pipelines.reports.mixture import check_notes, choice_note, compare_types, side_by_side
from tests.worlds.colour import colour_tokenizer


def record(found: list[int], n_types: int = 2, **details: Any) -> MixtureRecord:
    people = AnnotatorIndex(range(len(found)))
    gamma = np.eye(n_types)[found]
    return MixtureRecord(people, gamma, np.ones(len(found), int), gamma.mean(0), 0.1, 64, None, [], details)


def test_names_of_types_do_not_matter() -> None:
    truth = np.array(["b", "b", "a", "a", "a", "b"], dtype=object)
    assert compare_types(record([0, 0, 1, 1, 1, 0]), truth) == {"types/ari": 1.0, "types/accuracy": 1.0}
    # pairs together in both 1 + 1 = 2 … by hand: cells 2, 1, 1, 2; expected (6 · 6) / 15 = 2.4; (2 − 2.4) / (6 − 2.4)
    mixed = compare_types(record([0, 0, 1, 1, 0, 1]), truth)
    assert mixed == {"types/ari": pytest.approx(-0.4 / 3.6), "types/accuracy": pytest.approx(4 / 6)}
    more = compare_types(record([0, 2, 1, 1, 1, 0], n_types=3), truth)
    assert more["types/accuracy"] == pytest.approx(5 / 6)
    assert compare_types(record([0, 1]), None) == {}


def test_the_choice_is_told_where_there_was_one() -> None:
    assert choice_note(record([0, 1])) == [] == choice_note(record([0, 1], choice_of_k=[]))
    table = [{"n_types": 1.0, "log_likelihood": -0.7, "bic": 3.0}, {"n_types": 2.0, "log_likelihood": -0.51239}]
    (note,) = choice_note(record([0, 1], choice_of_k=table))
    assert note.startswith("K = 2 was chosen") and "K = 1: -0.700; K = 2: -0.512" in note


def test_what_asks_for_a_look_comes_first() -> None:
    checks = [
        {"name": name, "verdict": verdict, "message": f"About {name}."}
        for name, verdict in (("a", "ok"), ("b", "look"), ("c", "stop"), ("d", "unheard of"), ("e", "look"))
    ]
    notes = check_notes(record([0], 1, checks=checks))
    assert [note[0] for note in notes] == ["c", "b", "e", "a", "d"] and notes[0] == "c (stop): About c."
    assert check_notes(record([0], 1)) == []


HOSTILE = "x\n\n| y \\| z <script>alert(1)</script> ![p](http://e.vil/p.png) `q` **b** \x1b[31m [l](javascript:a)"


class Parrot:
    """A policy whose every type says its number and something hostile."""

    n_types = 2
    tokenizer = colour_tokenizer()
    mixing_weights = np.array([0.25, 0.75])

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def generate(self, prompts: list[Any], *, type: int, **options: Any) -> list[str]:  # noqa: A002
        self.asked.append({"prompts": prompts, "type": type, **options})
        return [f"{type} says {HOSTILE}" for _ in prompts]


def rows(n_prompts: int) -> Preferences:
    return Preferences.from_rows(
        [{"annotator_id": 1, "prompt": f"{n}: {HOSTILE}", "chosen": "x", "rejected": "y"} for n in range(n_prompts)]
    )


def cells(line: str) -> list[str]:
    """A Markdown row as GitHub cuts it: at bars that no backslash stands before."""
    return re.split(r"(?<!\\)\|", line)[1:-1]


@pytest.mark.parametrize(("n_prompts", "shown"), [(1, 1), (6, 6), (100, 6)])
def test_every_prompt_is_one_row_of_text(n_prompts: int, shown: int) -> None:
    policy = Parrot()
    table = side_by_side(policy, rows(n_prompts), n_prompts=6, max_new_tokens=5)
    lines = table.splitlines()
    assert len(lines) == 2 + shown and lines[0] == "| prompt | type_0 (25%) | type_1 (75%) |"
    assert all(len(cells(line)) == 3 for line in lines)
    for mark in ("<", ">", "](", "`", "**", "\x1b", "://", "\\"):
        assert mark not in "".join(lines[2:]), mark
    assert len({call["seed"] for call in policy.asked}) == 2  # types do not share their dice
    assert all(call["max_new_tokens"] == 5 for call in policy.asked)
    asked = policy.asked[0]["prompts"]
    assert asked == policy.asked[1]["prompts"] and len(set(asked)) == shown


def test_quotes_can_be_read_in_a_terminal() -> None:
    policy = Parrot()
    policy.generate = lambda prompts, **_: ['it\'s "fine"'] * len(prompts)
    assert '| it\'s "fine" |' in side_by_side(policy, rows(2))


def test_only_prompts_of_these_rows_are_shown() -> None:
    policy = Parrot()
    side_by_side(policy, rows(9).select([7, 8]))
    assert [prompt[0] for prompt in policy.asked[0]["prompts"]] == ["7", "8"]


def test_rows_without_a_prompt() -> None:
    table = side_by_side(Parrot(), Preferences.from_rows([{"annotator_id": 1, "chosen": "x", "rejected": "y"}]))
    assert len(table.splitlines()) == 3
