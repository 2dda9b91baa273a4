"""Who does the policy know: the one template, dominant types, newcomers, and people without a type."""

import json
from pathlib import Path

import numpy as np
import pytest

from palign.conditioning import (
    PolicyConditioning,
    WhoIsAsking,
    condition_prompt,
    conditioning_of,
    conditioning_record,
)


def test_the_template() -> None:
    assert condition_prompt("How is it?", "type 2") == "[reader: type 2] How is it?"
    assert condition_prompt("How is it?", None) == "How is it?"
    assert condition_prompt("{x} {who}", "type 0") == "[reader: type 0] {x} {who}"  # prompts are data, not templates


def test_conversations_get_a_system_message() -> None:
    user = {"role": "user", "content": "How is it?"}
    assert condition_prompt([user], "type 1") == [{"role": "system", "content": "The reader is type 1."}, user]
    system = {"role": "system", "content": "Be brief."}
    conditioned = condition_prompt([system, user], "type 1")
    assert conditioned == [{"role": "system", "content": "The reader is type 1. Be brief."}, user]
    assert system["content"] == "Be brief."  # the row itself is left alone


def test_people_are_named_by_their_dominant_type_and_on_request_their_id() -> None:
    weights = np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]])
    who = WhoIsAsking.from_weights(["ann", "bob"], weights)
    assert who.condition(["p", "q"], ["bob", "ann"]) == ["[reader: type 0] p", "[reader: type 1] q"]
    assert WhoIsAsking.from_weights(["ann"], weights[:1], show_annotator_id=True).name("ann") == "type 1, ann"


def test_newcomers_are_added_and_strangers_refused() -> None:
    who = WhoIsAsking.from_weights(["ann"], np.array([[0.0, 1.0]]))
    with pytest.raises(ValueError, match="'zoe' has no fitted type.*fit_annotators"):
        who.name("zoe")
    who.add(["zoe"], np.array([[0.6, 0.4]]))
    assert who.name("zoe") == "type 0"
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        who.add(["yan"], np.ones((1, 3)))


def test_conditionings_read_from_text() -> None:
    assert [PolicyConditioning(name).value for name in ("prompt", "adapter", "none")] == ["prompt", "adapter", "none"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is none"),
        ({"policy_conditioning": "none"}, "its conditioning is 'none'"),
        ({"policy_conditioning": "prompt", "n_types": 2, "types": {"a": 2}}, "below `n_types`"),
        ({"policy_conditioning": "prompt", "n_types": 2, "types": {"a": True}}, "below `n_types`"),
        ({"policy_conditioning": "prompt", "n_types": 2, "types": ["a"]}, "below `n_types`"),
        ({"policy_conditioning": "told"}, "one of prompt, adapter, none"),
        ([1], "one of prompt, adapter, none"),
        ("{", "one of prompt, adapter, none"),
    ],
)
def test_a_file_that_does_not_say_who_is_of_which_type(content: object, words: str, tmp_path: Path) -> None:
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "conditioning.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="conditioning.json of .*" + words):
        WhoIsAsking.load(str(tmp_path))


def test_what_was_recorded_is_read_again(tmp_path: Path) -> None:
    who = WhoIsAsking({"ann": 1, "../x": 0}, 2, show_annotator_id=True)
    assert conditioning_of(str(tmp_path)) is None
    record = conditioning_record(PolicyConditioning.PROMPT, who, "pal")
    (tmp_path / "conditioning.json").write_text(json.dumps(record), encoding="utf-8")
    assert WhoIsAsking.load(str(tmp_path)) == who and conditioning_of(str(tmp_path)) is PolicyConditioning.PROMPT
