"""Prompt and completion as text: together they are what the chat template writes."""

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from palign.data.rendering import answer_marks, render_completion, render_prompt

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
HI = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
YES = [{"role": "assistant", "content": "yes"}]


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    made.chat_template = template
    return made


def test_plain_texts_pass_through() -> None:
    assert render_prompt("p") == "p" and render_completion("p", " c") == " c" and render_completion("", "c") == "c"


def test_conversations_go_through_the_template() -> None:
    assert render_prompt(HI, tokenizer()) == "<system>be kind</><user>hi</><assistant>"
    assert render_completion(HI, YES, tokenizer()) == "yes</>"
    assert render_prompt([], None) == "" and render_completion([], YES, tokenizer()) == "<assistant>yes</>"


def test_a_prompt_that_begins_the_answer_is_continued() -> None:
    begun = [*HI, {"role": "assistant", "content": "Well"}]
    assert render_prompt(begun, tokenizer()) == "<system>be kind</><user>hi</><assistant>Well"


def test_a_template_with_words_of_its_own_is_cut_where_the_texts_part() -> None:
    thinking = tokenizer(TEMPLATE.replace("<assistant>{% endif", "<assistant><think>{% endif"))
    assert render_prompt(HI, thinking).endswith("<assistant><think>")
    assert render_completion(HI, YES, thinking) == "yes</>"


def test_no_template_is_said() -> None:
    with pytest.raises(ValueError, match="no tokenizer was given"):
        render_prompt(HI)
    with pytest.raises(ValueError, match="this tokenizer has no chat template"):
        render_completion(HI, YES, tokenizer(None))


def test_one_form_for_both() -> None:
    with pytest.raises(ValueError, match="prompt is a plain text and the completion a list"):
        render_completion("hi", YES, tokenizer())
    with pytest.raises(ValueError, match="prompt is a list of messages and the completion a plain text"):
        render_completion(HI, "yes", tokenizer())


def test_what_a_template_writes_around_an_answer() -> None:
    assert answer_marks(tokenizer()) == ("<assistant>", "</>")
    thinking = tokenizer(TEMPLATE.replace("<assistant>{% endif", "<assistant><think>{% endif"))
    assert answer_marks(thinking) == ("<assistant><think>", "</>")
    assert answer_marks(tokenizer(None)) == answer_marks(None) == ("", "")
    assert answer_marks(tokenizer(TEMPLATE.partition("{% if")[0])) == ("", "")  # opens no answer
    assert answer_marks(tokenizer("{{ raise_exception('no') }}")) == ("", "")
