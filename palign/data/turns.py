"""Plain prompts and completions for a model that was taught to chat: a user's turn, and the assistant's answer to it.

The one place that decides it. A tokenizer with a chat template reads plain rows through that template, unless
`plain_prompts` keeps them bare; which of the two it was is kept with every model that is trained, and a model that was
saved without a word of it reads them bare, as it was trained. A text that a template has written already
(`palign.data.rendering.Written`) is never written twice, and a completion without a prompt is nobody's answer: it
stays as it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from palign.data.rendering import Written, render_completion, render_prompt
from palign.data.rows.checks import Text, shorten

if TYPE_CHECKING:
    from palign.data.preferences import Preferences

__all__ = ["answers_as_turns", "as_turn", "as_turns", "in_turns", "question_of", "reads_plain", "turns_sentence"]

_PROBE = "\u2603"  # stands in no template
_TAKES_TURNS: dict[str, bool] = {}


def reads_plain(tokenizer: Any, plain_prompts: bool) -> bool:
    """Whether plain prompts are read bare: it is asked for, or no template takes a question and an answer to it."""
    return plain_prompts or not takes_turns(tokenizer)


def takes_turns(tokenizer: Any) -> bool:
    """Whether the tokenizer has a chat template that takes a user's question and an answer."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return False
    key = str(template)
    if key not in _TAKES_TURNS:
        ask, answer = [{"role": "user", "content": "ask"}], [{"role": "assistant", "content": "answer"}]
        try:
            _TAKES_TURNS[key] = "answer" in render_completion(ask, answer, tokenizer)
        except ValueError:
            _TAKES_TURNS[key] = False
    return _TAKES_TURNS[key]


def _mark_of_user(tokenizer: Any) -> str:
    """The last line that the template writes before a user's text; "" where it is too short to tell by."""
    before = render_prompt([{"role": "user", "content": _PROBE}], tokenizer).partition(_PROBE)[0]
    mark = next((line.strip() for line in reversed(before.splitlines()) if line.strip()), "")
    return mark if len(mark) > 3 else ""


def as_turn(prompt: Text) -> Text:
    """A plain prompt as a user's turn; conversations, written and empty texts as they are."""
    if not isinstance(prompt, str) or isinstance(prompt, Written) or not prompt:
        return prompt
    return [{"role": "user", "content": prompt}]


def as_turns(prompts: Iterable[Text]) -> list[Text]:
    """`as_turn` of each."""
    return [as_turn(prompt) for prompt in prompts]


def answers_as_turns(prompts: Sequence[Text], completions: Sequence[Text]) -> list[Text]:
    """Plain completions (n,) of plain prompts (n,) as the assistant's turns; others as they are."""
    return [
        [{"role": "assistant", "content": text}] if isinstance(text, str) and as_turn(prompt) is not prompt else text
        for prompt, text in zip(prompts, completions, strict=True)
    ]


def question_of(prompt: Text) -> str:
    """A prompt as somebody typed it, to be shown: the question of a conversation; of one with several turns all of
    them, each behind its role. System messages, and what a template would write around all that, are left out.
    """
    if isinstance(prompt, str):
        return str(prompt)
    said = [message for message in prompt if message["role"] != "system"]
    if len(said) == 1:
        return str(said[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in said)


def in_turns(prefs: "Preferences") -> "Preferences":
    """The same judgements with plain prompts and their completions as turns; rows of vectors as they are."""
    if not prefs.is_text:
        return prefs
    numbers = [number for number, _ in prefs.items]
    texts = answers_as_turns([prefs.prompts[number] for number in numbers], [text for _, text in prefs.items])
    return replace(prefs, prompts=as_turns(prefs.prompts), items=list(zip(numbers, texts, strict=True)))


def turns_sentence(prompts: Iterable[Text], tokenizer: Any, plain_prompts: bool) -> str | None:
    """What a summary says of plain prompts where the tokenizer has a chat template; None where there is nothing.

    Raises:
        ValueError: prompts hold the marks of the template: they would go through it twice.
    """
    plain = [prompt for prompt in prompts if as_turn(prompt) is not prompt] if takes_turns(tokenizer) else []
    if not plain:
        return None
    mark = _mark_of_user(tokenizer)
    written = next((prompt for prompt in plain if mark and mark in prompt), None)
    if written is not None and not plain_prompts:
        raise ValueError(
            f"A prompt holds {mark!r}, which the tokenizer's chat template writes ({shorten(written)}): it has gone "
            "through a template already, and would go through it twice. Say --plain_prompts, which reads prompts as "
            "they stand, or give the messages."
        )
    if plain_prompts:
        return (
            "Prompts are plain texts and are read bare, as they stand, though the tokenizer has a chat template: "
            "--plain_prompts says so, or the model was trained so."
        )
    return (
        "Prompts are plain texts, and the tokenizer has a chat template: each is read as a user's turn, and what "
        "answers it as the assistant's. --plain_prompts reads them bare."
    )
