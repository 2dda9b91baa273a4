"""What is said about a mixture: agreement with the truth, the reference, the choice of K, checks in order."""

from typing import Any

import numpy as np
import pytest

from palign.data.annotators import AnnotatorIndex
from palign.models.files.mixture import MixtureRecord
from palign.pipelines.reports.mixture import check_notes, choice_note, compare_types, reference_note


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


def test_what_the_types_began_from() -> None:
    warm = {"epochs": 2.0, "answers": "all", "n_answers": 1200}
    notes = reference_note(record([0], 1, reference={"warm_start": warm, "nats_per_token": {"best": -2.126}}))
    assert "2 epochs of supervised LoRA over the 1,200 different answers that were judged" in notes[0]
    assert notes[1] == "The reference gives the answers that people put first -2.13 nats a token."
    warm["answers"] = "best"
    assert "answers that were put first, merged" in reference_note(record([0], 1, reference={"warm_start": warm}))[0]
    assert reference_note(record([0], 1)) == []
