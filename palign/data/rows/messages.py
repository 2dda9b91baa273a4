"""Texts and conversations in whatever form a cell holds them: a list, an array, JSON or Python's way to write a list;
contents that are a text or a list of parts.
"""

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from palign.data.rows.checks import Place, Text, shorten

__all__ = ["common_beginning", "in_one_form", "text_of_cell"]

_LOOKS_LIKE_MESSAGES = re.compile(r"\s*(?:array\(|\()?\s*\[\s*\{\s*[\"'](?:role|content|from|value)[\"']", re.S)
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "prompter": "user", "bot": "assistant"}
_NO_TEXT = ("tool_calls", "function_call", "images", "image", "audio", "videos")


def text_of_cell(value: Any, place: Place) -> Any:
    """A cell as a text or a list of messages, where it can be read as one; anything else comes back as it is.

    Raises:
        ValueError: a text that is messages by its looks and cannot be parsed, or a message that holds more than text.
    """
    if isinstance(value, str):
        if value[:1] not in "[( \nat" or _LOOKS_LIKE_MESSAGES.match(value) is None:
            return value
        return _messages(_parsed(value, place), place)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)) and value and all(isinstance(message, Mapping) for message in value):
        return _messages(value, place)
    return value


def _parsed(text: str, place: Place) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(message, dict) for message in value):
            return value
    raise ValueError(
        f"{place}: the text looks like a list of messages and cannot be parsed as one, as JSON or as Python writes "
        f'it: {shorten(text)}. Write it as JSON ([{{"role": …, "content": …}}]).'
    )


def _messages(messages: Any, place: Place) -> list[Any]:
    """Messages with nothing but role and content, contents as one text."""
    plain_messages = []
    for position, message in enumerate(messages):
        if "from" in message and "value" in message and "role" not in message:  # ShareGPT's names
            message = {"role": _ROLES.get(message["from"], message["from"]), "content": message["value"]}
        unread = next((name for name in _NO_TEXT if _holds_something(message.get(name))), None)
        if unread is not None:
            raise ValueError(
                f"{place}: message {position} holds {unread!r}, which is no text. Only texts are read here; drop the "
                "row, or write what it does as text."
            )
        content = message.get("content")
        if hasattr(content, "tolist"):
            content = content.tolist()
        if isinstance(content, (list, tuple)):
            content = _joined_parts(content, place, position)
        if isinstance(message.get("role"), str) and isinstance(content, str):
            plain_messages.append({"role": _ROLES.get(message["role"], message["role"]), "content": content})
        else:
            plain_messages.append(dict(message))
    return plain_messages


def _holds_something(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def _joined_parts(parts: Any, place: Place, position: int) -> str:
    """The texts of a content that is a list of parts ({"type": "text", "text": …})."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str) and part.get("image") is None:
            texts.append(part["text"])
        else:
            raise ValueError(
                f"{place}: message {position} holds a part that is no text: {shorten(part)}. Only texts are read "
                "here; drop the row."
            )
    return "\n".join(texts)


def common_beginning(texts: list[list[dict[str, str]]]) -> list[dict[str, str]]:
    """The messages that all conversations begin with; each keeps at least one message behind them."""
    shortest = min(len(text) for text in texts)
    alike = next((i for i in range(shortest) if any(text[i] != texts[0][i] for text in texts)), shortest)
    return texts[0][: min(alike, max(shortest - 1, 0))]


def in_one_form(prompt: Text | None, texts: list[Text], place: Place) -> tuple[Text, list[Text]]:
    """All plain or all conversational, completions without the prompt's messages.

    The messages that all conversations begin with are the prompt (TRL's implicit prompt). A prompt that is given as
    well must be there in them: the whole of it, its last question, or the question behind a system message. With
    conversations that begin with another question it is an error.
    """
    if all(isinstance(text, str) for text in texts) and (prompt is None or isinstance(prompt, str)):
        return prompt or "", texts
    texts = [[{"role": "assistant", "content": text}] if isinstance(text, str) else text for text in texts]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}] if prompt else []
    common = common_beginning(texts)
    if not prompt:
        prompt, texts = common, [text[len(common) :] for text in texts]
    elif common:
        prompt, texts = _reconciled(prompt, texts, common, place)
    elif any(text and text[0]["role"] in ("system", "user") for text in texts):
        raise ValueError(
            f"{place}: the row gives a prompt, and its conversations begin with different messages that are no "
            f"answers ({shorten(texts[0][0]['content'], 40)}). Give conversations that begin alike, or answers only."
        )
    if not all(texts):
        raise ValueError(f"{place}: a completion without a message of its own. Correct or drop the row.")
    asked = next((text[0] for text in texts if text[0]["role"] == "user"), None)
    if asked is not None:
        raise ValueError(
            f"{place}: behind what the conversations share they ask different things "
            f"({shorten(asked['content'], 40)}), so their answers cannot be compared. Give conversations that differ "
            "from an answer on, or drop the row."
        )
    return prompt, texts


def _reconciled(
    prompt: list[dict[str, str]], texts: list[list[dict[str, str]]], common: list[dict[str, str]], place: Place
) -> tuple[list[dict[str, str]], list[list[dict[str, str]]]]:
    """One prompt out of the one that is given and the beginning that all conversations share."""
    endings = [text[len(common) :] for text in texts]
    if _stands_in(prompt, common):
        return common, endings
    if prompt[-len(common) :] == common:
        return prompt, endings
    if all(message["role"] == "system" for message in common) and all(
        t and t[0]["role"] == "assistant" for t in endings
    ):
        if prompt[0]["role"] == "system":
            raise ValueError(f"{place}: the prompt and the conversations begin with different system messages.")
        return [*common, *prompt], endings
    if all(message["role"] == "assistant" for message in common[:1]) and prompt[-1]["role"] != "assistant":
        return prompt, texts  # answers of several messages that happen to begin alike
    raise ValueError(
        f"{place}: the prompt ({shorten(prompt[-1]['content'], 40)}) is not among the messages that the conversations "
        f"begin with ({shorten(common[-1]['content'], 40)}). Leave the prompt empty (their common beginning is read), "
        "or give answers only."
    )


def _stands_in(prompt: list[dict[str, str]], common: list[dict[str, str]]) -> bool:
    """Whether the messages of the prompt stand in the beginning, one behind another."""
    bare = [{**message, "content": message["content"].strip()} for message in common]
    wanted = [{**message, "content": message["content"].strip()} for message in prompt]
    return any(bare[i : i + len(wanted)] == wanted for i in range(len(bare) - len(wanted) + 1))
