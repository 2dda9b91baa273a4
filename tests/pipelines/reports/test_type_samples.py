"""Samples of types side by side: one row a prompt, no markup out of a cell, cut and repeating answers are told."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.adapters import TypePolicies, add_type_adapters
from palign.models.files.mixture import MixtureRecord
from palign.models.mixture_policy import Answer, MixturePolicy
from palign.pipelines.reports import type_samples
from palign.pipelines.reports.type_samples import how_they_read, repetition, side_by_side
from tests.worlds.colour import colour_lm, colour_tokenizer
from tests.worlds.lora import lora


@pytest.fixture(autouse=True)
def tables_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parrot has no reference."""
    if "how_answers" not in request.node.name:
        monkeypatch.setattr(type_samples, "how_they_read", lambda *_: [])


HOSTILE = "x\n\n| y \\| z <script>alert(1)</script> ![p](http://e.vil/p.png) `q` **b** \x1b[31m [l](javascript:a)"


class Parrot:
    """A policy whose every type says its number and something hostile."""

    n_types = 2
    tokenizer = colour_tokenizer()
    mixing_weights = np.array([0.25, 0.75])

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def answers(self, prompts: list[Any], *, type: int, **options: Any) -> list[Answer]:  # noqa: A002
        self.asked.append({"prompts": prompts, "type": type, **options})
        return [Answer(f"{type} says {HOSTILE}", False) for _ in prompts]


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
    lines = table.splitlines()[:-1]
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
    policy.answers = lambda prompts, **_: [Answer('it\'s "fine"', False)] * len(prompts)
    assert '| it\'s "fine" |' in side_by_side(policy, rows(2))


def test_questions_are_shown_as_typed_and_answers_that_were_cut_are_marked() -> None:
    policy, asked = Parrot(), [{"role": "system", "content": "Be short."}, {"role": "user", "content": "And guns?"}]
    policy.answers = lambda prompts, *, type, **_: [Answer("I am", type == 1)] * len(prompts)
    says = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    table = side_by_side(
        policy, Preferences.from_rows([{"annotator_id": 1, "prompt": asked, **says}]), max_new_tokens=2
    )
    lines = table.splitlines()
    assert cells(lines[2]) == [" And guns? ", " I am ", " I am &#91;cut&#93; "] or "[cut]" in lines[2]
    assert lines[-2] == "[cut]: 1 of 2 answers were cut at 2 tokens (`--max_new_tokens`)."


def test_only_prompts_of_these_rows_are_shown() -> None:
    policy = Parrot()
    side_by_side(policy, rows(9).select([7, 8]))
    assert [prompt[0] for prompt in policy.asked[0]["prompts"]] == ["7", "8"]


def test_rows_without_a_prompt() -> None:
    table = side_by_side(Parrot(), Preferences.from_rows([{"annotator_id": 1, "chosen": "x", "rejected": "y"}]))
    assert len(table.splitlines()) == 4


def test_repetition_by_hand() -> None:
    assert repetition("I like it") == repetition("two words") == repetition("") == 0.0
    assert repetition("a b c a b c") == pytest.approx(1 / 4)  # abc bca cab abc
    assert repetition("no No no no no no") == pytest.approx(3 / 4)


def test_how_answers_read() -> None:
    model = add_type_adapters(colour_lm(), lora(), 2, seed=0)  # untrained: the types are the reference
    record = MixtureRecord(AnnotatorIndex(["a"]), np.ones((1, 2)) / 2, np.ones(1), np.ones(2) / 2, 0.1, 64, None)
    policy = MixturePolicy(TypePolicies(model).eval(), colour_tokenizer(), record)
    prompt, text = "what colour is the boat?", " the boat is red"
    lines = how_they_read(policy, [prompt], [[Answer(text, False)], [Answer("", True)]])
    head, tail = (colour_tokenizer()(t)["input_ids"] for t in (prompt, text))
    with torch.no_grad():
        logps = colour_lm()(torch.tensor([head + tail])).logits[0].log_softmax(-1)
    by_hand = float(logps[len(head) - 1 : -1].gather(-1, torch.tensor(tail)[:, None]).mean())
    assert lines[0] == (
        "- `type_0`: 0% of the threes of words in an answer stood in it before; the reference gives its answers "
        f"{by_hand:.2f} nats a token."
    )
    assert lines[1] == "- `type_1`: 0% of the threes of words in an answer stood in it before."
