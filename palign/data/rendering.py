"""Prompts and completions as the plain text that a tokenizer reads."""

import os.path
from collections.abc import Iterable
from typing import Any

from palign.data.checks import Text

__all__ = ["answer_marks", "render_completion", "render_prompt", "require_template"]


def render_prompt(prompt: Text, tokenizer: Any = None) -> str:
    """A prompt as text: plain ones pass through, conversational ones go through the tokenizer's chat template.

    The template's own opening of the answer is included, so that the completion follows directly.

    Raises:
        ValueError: the prompt is conversational and there is no tokenizer, or it has no chat template.
    """
    if isinstance(prompt, str):
        return prompt
    if not prompt:
        return ""
    continues = prompt[-1]["role"] == "assistant"
    return _template_of(tokenizer).apply_chat_template(
        prompt, tokenize=False, add_generation_prompt=not continues, continue_final_message=continues
    )


def render_completion(prompt: Text, completion: Text, tokenizer: Any = None) -> str:
    """A completion as the text that follows `render_prompt(prompt, tokenizer)`.

    Of a conversational one, what the template writes for prompt and completion together, less the part they share
    with the prompt alone.

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
    messages = [*(prompt or []), *completion]
    whole = _template_of(tokenizer).apply_chat_template(messages, tokenize=False)
    # Some templates open the answer with words of their own (a thinking tag): cut where the two texts part.
    return whole[len(os.path.commonprefix([whole, render_prompt(prompt or [], tokenizer)])) :]


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
    except TemplateError:
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
