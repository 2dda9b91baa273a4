"""What ends an answer: eos of the tokenizer, a list of the model's, the mark that the template closes a turn with."""

from types import SimpleNamespace
from typing import Any

import pytest

from palign.models.architectures import agree_on_marks, end_of_turn, stop_ids
from palign.models.tiny import make_tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} <turn/>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
PLAIN_MARKS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}" + (
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer(template: str | None, *special: str) -> Any:
    made = make_tiny_tokenizer(["user assistant system ask answer"])
    made.add_special_tokens({"additional_special_tokens": list(special)})
    made.chat_template = template
    return made


def model(eos: Any) -> Any:
    return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=eos))


@pytest.mark.parametrize(
    ("template", "mark"),
    [
        (CHATML, "<|im_end|>"),
        (DEFAULT_SYSTEM, "<|im_end|>"),
        (NO_SYSTEM, "<turn/>"),
        (PLAIN_MARKS, None),
        (None, None),
    ],
)
def test_the_mark_that_closes_a_turn(template: str | None, mark: str | None) -> None:
    made = tokenizer(template, "<|im_start|>", "<|im_end|>", "<turn/>")
    expected = None if mark is None else made.convert_tokens_to_ids(mark)
    assert end_of_turn(made) == expected


def test_all_that_end_an_answer_are_found() -> None:
    made = tokenizer(CHATML, "<|im_start|>", "<|im_end|>")
    turn, eos = made.convert_tokens_to_ids("<|im_end|>"), made.eos_token_id
    assert stop_ids(made, model(None)) == sorted({eos, turn})
    assert stop_ids(made, model([7, 5])) == sorted({5, 7, eos, turn})
    assert stop_ids(tokenizer(None), model(9)) == sorted({9, eos})


def test_a_model_stops_there_and_a_pad_token_is_found() -> None:
    made, policy = tokenizer(CHATML, "<|im_start|>", "<|im_end|>"), model(5)
    made.pad_token = None
    stops = agree_on_marks(made, policy)
    assert policy.generation_config.eos_token_id == stops == stop_ids(made, policy)
    assert made.pad_token_id == made.eos_token_id
    kept = tokenizer(CHATML)
    before = kept.pad_token_id
    agree_on_marks(kept, model(5))
    assert kept.pad_token_id == before != kept.eos_token_id
