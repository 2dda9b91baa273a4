"""How an exported classifier's tokenizer writes question and answer, and by which ids the answer is found again.

The exported tokenizer gets a mark of its own, and a chat template that writes it before the last answer. It parts the
two for the tokenizer, too, which then reads each by itself, as the reward model did. Texts that another tokenizer has
written hold no mark: there the ids that the model's own template writes before an answer are looked for.
"""

import copy
import json
from dataclasses import dataclass
from typing import Any

from palign.data.rendering import render_completion, render_prompt, render_whole

__all__ = ["MARK", "Boundary", "boundary_of"]

MARK = "<|palign_answer|>"
ASK, ANSWER = "\u2603ask\u2603", "answer"
# What a model reads that was trained on bare texts: one question, the mark, one answer. An encoder reads a space
# between the two where neither has one.
BARE_TEMPLATE = """\
{%- if messages|length > 2 or messages[0]['role'] != 'user' -%}
{{- raise_exception('This reward reads one question and its answer as they stand: give one user message and one \
assistant message.') -}}
{%- endif -%}
{%- set ask = messages[0]['content'] -%}
{{- ask + 'MARK' -}}
{%- if messages|length == 2 -%}
{%- set answer = messages[1]['content'] -%}
SPACE
{{- answer -}}
{%- endif -%}
"""
SPACE = "{%- if ask and answer and not ask[-1].isspace() and not answer[0].isspace() -%}{{- ' ' -}}{%- endif -%}"
# The model's own template, with the mark between what it writes up to an answer and what it writes of the answer.
TURN_TEMPLATE = """\
{% macro written(messages, add_generation_prompt) %}TEMPLATE{% endmacro %}
{%- if messages[-1]['role'] != 'assistant' or messages|length == 1 or add_generation_prompt -%}
{{- written(messages, add_generation_prompt) -}}
{%- else -%}
{%- set whole = written(messages, false) -%}
{%- set before = written(messages[:-1], false) + OPENING -%}
{%- if not whole.startswith(before) -%}{{- raise_exception('The answer is not found.') -}}{%- endif -%}
{{- written(messages[:-1], true) + 'MARK' + whole[before|length:] -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class Boundary:
    """A tokenizer, the id of its mark, and what else stands before an answer.

    Attributes:
        written_ids: what the model's own template writes there; empty for bare texts.
        read_ids: what the reward model reads in its place.
        is_turn: plain questions are read as turns; else bare.
    """

    tokenizer: Any
    mark_id: int
    written_ids: list[int]
    read_ids: list[int]
    is_turn: bool


def boundary_of(tokenizer: Any, *, plain_prompts: bool, is_causal: bool) -> Boundary:
    """The exported folder's tokenizer, and how the answer is found in what it writes.

    Raises:
        ValueError: the model's template writes nothing of its own before an answer.
    """
    tokenizer, written, read, template = copy.deepcopy(tokenizer), [], [], ""
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    if plain_prompts:
        template = BARE_TEMPLATE.replace("SPACE\n", "" if is_causal else f"{SPACE}\n")
    else:
        written, read, template = _openings(tokenizer)
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(MARK, special=True, normalized=False)], special_tokens=True)
    mark_id = tokenizer.convert_tokens_to_ids(MARK)
    own = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template.replace("MARK", MARK)
    if not plain_prompts and not _writes_the_same(tokenizer, own):
        tokenizer = own
    return Boundary(tokenizer, mark_id, written, read, is_turn=not plain_prompts)


def _openings(tokenizer: Any) -> tuple[list[int], list[int], str]:
    """Ids between question and answer, as the template writes them and as the reward model reads them; a template with
    the mark."""
    ask, reply = _turns(ASK, ANSWER)[:1], _turns(ASK, ANSWER)[1:]
    prompt, completion = render_prompt(ask, tokenizer), render_completion(ask, reply, tokenizer)
    whole, closed = render_whole([*ask, *reply], tokenizer), render_whole(ask, tokenizer)
    stop = len(whole) - len(completion)
    # What ends the question may be the end of another turn, too; what opens the answer is the assistant's alone.
    is_opened = whole.endswith(completion) and len(closed) < min(stop, len(prompt))
    is_shared = all(text.startswith(closed) for text in (whole, prompt))
    starts = [len(closed)] * 2 if is_opened and is_shared else [t.find(ASK) + len(ASK) for t in (whole, prompt)]
    written = _ids_within(tokenizer, whole, starts[0], stop)
    read = _ids_within(tokenizer, prompt, starts[1], len(prompt))
    if not whole.endswith(completion) or not written or not read:
        raise ValueError(
            "The tokenizer's chat template writes nothing of its own between a question and its answer, so that a "
            "classifier, which sees token ids alone, cannot find the answer. Serve this reward (palign serve), or "
            "train it with --plain_prompts."
        )
    opening = json.dumps(whole[len(closed) : stop] if whole.startswith(closed) else "", ensure_ascii=False)
    template = TURN_TEMPLATE.replace("OPENING", opening)
    return written, read, template.replace("TEMPLATE", str(tokenizer.chat_template).removesuffix("\n"))


def _ids_within(tokenizer: Any, text: str, start: int, stop: int) -> list[int]:
    """Ids of the tokens of a text that lie between two of its characters."""
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
    return [number for number, (first, last) in spans if start <= first < last <= stop]


def _writes_the_same(tokenizer: Any, own: Any) -> bool:
    """Whether the template with the mark writes what the model's own does, but for the mark."""
    from jinja2 import TemplateError

    talks = [
        _turns(ASK, ANSWER),
        _turns("a", "b", "c ", "d\n\ne"),
        _turns("one\ntwo", "Yes.", "why?", "So.", "?", "-"),
    ]
    for messages in talks:
        try:
            prompt = render_prompt(messages[:-1], own)
            wanted = f"{prompt}{MARK}{render_completion(messages[:-1], messages[-1:], own)}"
            if tokenizer.apply_chat_template(messages, tokenize=False) != wanted:
                return False
        except (TemplateError, ValueError):
            return False
    return True


def _turns(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
