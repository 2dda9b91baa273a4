"""Prompts and completions as the plain text that a tokenizer reads."""

import os.path
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from palign.data.rows.checks import Text

__all__ = ["Written", "answer_marks", "render_completion", "render_prompt", "render_whole", "require_template"]
__all__ += ["template_ids"]


EMPTY_THOUGHT = re.compile(r"\s*(?:<think>)?\s*</think>\s*")
# the whole message is ours: who is asking, nothing of the user's
READER = re.compile(r"The reader is [^.\n]{1,200}\.")
PROBE = "\u2603"  # stands in no template


class Written(str):
    """A text that a chat template has written: it is read as it stands, and never taken for what somebody wrote."""

    __slots__ = ()


def render_prompt(prompt: Text, tokenizer: Any = None) -> str:
    """A prompt as text: plain ones pass through, conversational ones go through the tokenizer's chat template.

    What the template opens an answer with is included, so that the completion follows directly.

    Raises:
        ValueError: the prompt is conversational and there is no tokenizer, or it has no chat template, or the template
            refuses the messages.
    """
    if isinstance(prompt, str):
        return prompt
    if not prompt:
        return Written()
    continues = prompt[-1]["role"] == "assistant"
    return Written(_written(prompt, tokenizer, add_generation_prompt=not continues, continue_final_message=continues))


def render_completion(prompt: Text, completion: Text, tokenizer: Any = None) -> str:
    """A completion as the text that follows `render_prompt(prompt, tokenizer)`.

    Of a conversational one, what the template writes for prompt and completion together, less the part they share
    with the prompt alone. A block of empty thoughts that some templates write before a last answer is left out: a
    policy is not asked to write it, and what a reward reads must not depend on who wrote the answer.

    Raises:
        ValueError: as `render_prompt`; or one of the two is plain and the other conversational.
    """
    if isinstance(completion, str):
        if not isinstance(prompt, str) and prompt:
            raise ValueError(
                "The prompt is a list of messages and the completion a plain text. Give both in one form: "
                '[{"role": "assistant", "content": completion}] is the conversational one.'
            )
        return completion
    if isinstance(prompt, str) and prompt:
        raise ValueError(
            "The prompt is a plain text and the completion a list of messages. Give both in one form: "
            '[{"role": "user", "content": prompt}] is the conversational one.'
        )
    whole = _written([*(prompt or []), *completion], tokenizer)
    before = render_prompt(prompt or [], tokenizer)
    if whole.startswith(before):
        answer = whole[len(before) :]
    else:
        # Some templates open an answer with a tag (for thoughts) only where one is asked for: cut where the two
        # texts part, but never within the answer itself, which may begin as the tag does.
        first = {**completion[0], "content": PROBE + completion[0]["content"]}
        probed = _written([*(prompt or []), first, *completion[1:]], tokenizer)
        shared = len(os.path.commonprefix([whole, before]))
        answer = whole[min(shared, len(os.path.commonprefix([whole, probed]))) :]
    thought = EMPTY_THOUGHT.match(answer) if prompt else None
    if thought is not None and EMPTY_THOUGHT.match(completion[0]["content"]) is None:
        answer = answer[thought.end() :]
    return answer


def render_whole(messages: list[dict[str, Any]], tokenizer: Any) -> str:
    """A conversation as the template writes it, nothing opened at its end; errors as of `render_prompt`."""
    return _written(messages, tokenizer)


def template_ids(messages: list[dict[str, Any]], tokenizer: Any, **options: Any) -> list[int]:
    """Token ids of messages through the chat template; errors as of `render_prompt`."""
    tokenizer = _template_of(tokenizer)
    prepared = _prepared(messages, tokenizer)
    with _template_errors(messages):
        return tokenizer.apply_chat_template(prepared, tokenize=True, return_dict=True, **options)["input_ids"]


def _written(messages: list[dict[str, Any]], tokenizer: Any, **options: Any) -> str:
    tokenizer = _template_of(tokenizer)
    prepared = _prepared(messages, tokenizer)
    with _template_errors(messages):
        return tokenizer.apply_chat_template(prepared, tokenize=False, **options)


@contextmanager
def _template_errors(messages: Sequence[dict[str, Any]]) -> Iterator[None]:
    """The errors that a template raises, each as one sentence."""
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        advice = "Give messages whose roles alternate as it wants them"
        if "system" in roles:
            advice = "Leave the system messages out of the rows, or put them into the first question"
        raise ValueError(
            f"The tokenizer's chat template refuses messages of the roles {roles} ({error}). {advice}, or take a "
            "model with another template."
        ) from None


def _prepared(messages: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """Messages in which palign's system message, which says who is asking, does not push anything out.

    A default system message of the template stays, behind it; where the template knows no system message, the line
    goes in front of the first question. System messages of the user's are left alone.
    """
    if not messages or messages[0]["role"] != "system" or READER.fullmatch(messages[0]["content"]) is None:
        return messages
    default = _default_system(tokenizer.chat_template, tokenizer)
    line, rest = messages[0]["content"], messages[1:]
    if default is not None:
        return [{**messages[0], "content": f"{line} {default}".rstrip()}, *rest]
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": line}, *rest]
    return [{**rest[0], "content": f"{line}\n\n{rest[0]['content']}"}, *rest[1:]]


def _default_system(template: Any, tokenizer: Any) -> str | None:
    """The system message that a template writes where none is given, "" for none; None where it takes none at all."""
    key = str(template)
    if key not in _DEFAULTS:
        if len(_DEFAULTS) > 100:
            _DEFAULTS.clear()
        _DEFAULTS[key] = _find_default(tokenizer)
    return _DEFAULTS[key]


_DEFAULTS: dict[str, str | None] = {}


def _find_default(tokenizer: Any) -> str | None:
    from jinja2 import TemplateError

    ask = {"role": "user", "content": "ask"}
    try:
        given = tokenizer.apply_chat_template([{"role": "system", "content": PROBE}, ask], tokenize=False)
    except TemplateError:
        return None
    before, separator, behind = given.partition(PROBE)
    if not separator:  # dropped without a word
        return None
    try:
        bare = tokenizer.apply_chat_template([ask], tokenize=False)
    except TemplateError:
        return ""
    if not (bare.startswith(before) and bare.endswith(behind) and len(bare) >= len(before) + len(behind)):
        return ""
    return bare[len(before) : len(bare) - len(behind)].strip()


def answer_marks(tokenizer: Any) -> tuple[str, str]:
    """What a chat template writes before an answer and behind it; two empty texts where it opens none, or is none, or
    does not take a question and an answer.
    """
    if not getattr(tokenizer, "chat_template", None):
        return "", ""
    from jinja2 import TemplateError

    ask, answer = [{"role": "user", "content": "ask"}], "answer"
    try:
        asked, before = tokenizer.apply_chat_template(ask, tokenize=False), render_prompt(ask, tokenizer)
        whole = render_completion(ask, [{"role": "assistant", "content": answer}], tokenizer)
    except (TemplateError, ValueError):
        return "", ""
    before = before[len(asked) :] if before.startswith(asked) else ""
    return (before, whole.rpartition(answer)[2]) if before else ("", "")


def require_template(texts: Iterable[Text], tokenizer: Any) -> None:
    """Raise ValueError, as `render_prompt`, where one of the texts is conversational and there is no chat template."""
    if any(not isinstance(text, str) for text in texts):
        _template_of(tokenizer)


def _template_of(tokenizer: Any) -> Any:
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        given = "no tokenizer was given" if tokenizer is None else "this tokenizer has no chat template"
        raise ValueError(
            f"Conversational rows (lists of messages) need a tokenizer with a chat template, and {given}. Take a "
            "model whose tokenizer has one, set tokenizer.chat_template, or give prompts and completions as plain "
            "text."
        )
    return tokenizer
