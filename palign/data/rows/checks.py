"""What a row of preferences may hold: one function per value; its error names the row, the column and the value.

Rows are counted from 0, as Python and pandas count them; messages say so.
"""

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from palign.data.annotators import canonical_id

__all__ = ["MAX_CHARACTERS", "Place", "Text", "check_annotator", "check_distinct", "check_index", "check_list"]
__all__ += ["check_n_ranked", "check_ratings", "check_sequence", "check_text", "shorten", "unknown_column_message"]

MAX_CHARACTERS = 100_000
Text = str | list[dict[str, str]]  # plain, or conversational: messages with a role and a content


class Place(NamedTuple):
    """Where a value stands: the file or data set ("" for rows given in memory), the row from 0, the column."""

    source: str
    row: int
    column: str

    def __str__(self) -> str:
        source = f"{self.source}, " if self.source else ""
        return f"{source}row {self.row} (counting from 0), column {self.column!r}"


def shorten(value: object, width: int = 60) -> str:
    """A value as it can stand in a message: its repr on one line, cut after about `width` characters."""
    if isinstance(value, str) and len(value) > width:
        return f"{value[: width - 1]!r}… ({len(value):,} characters)"
    text = repr(value)
    if isinstance(value, str) and len(text) > width:  # a few characters that repr escapes
        return text
    return text if len(text) <= width else text[: width - 1] + "…"


def check_annotator(value: object, place: Place) -> str:
    """The canonical id of the person who judged; TypeError or ValueError where there is none."""
    try:
        name = canonical_id(value)
    except (TypeError, ValueError) as error:
        problem = "is missing" if value is None or value == "" else f"is {shorten(value)}"
        raise type(error)(
            f"{place}: the annotator's id {problem}. Every row needs the id of the person who judged: a text or a "
            "whole number. Fill it in or drop the row; if another column holds the ids, name it with "
            "--annotator_column."
        ) from None
    _check_encodable(name, place)
    return name


def check_text(value: object, place: Place, max_characters: int | None) -> Text:
    """A plain text or a list of messages, not longer than `max_characters` (None: any length)."""
    if isinstance(value, str):
        length = len(value)
    elif isinstance(value, (list, tuple)):
        length = _check_messages(value, place)
        value = list(value)
    else:
        content = "nothing is there" if value is None else f"found {shorten(value)} ({type(value).__name__})"
        raise TypeError(
            f'{place}: a text or a list of messages ({{"role": …, "content": …}}) is needed, {content}. '
            "Correct or drop the row."
        )
    _check_encodable(value, place)
    if max_characters is not None and length > max_characters:
        raise ValueError(
            f"{place}: a text of {length:,} characters; the limit is {max_characters:,}, because no model here reads "
            "that far and one such row fills the memory. Cut the text or drop the row, or raise the limit with "
            "--max_characters."
        )
    return value


def _check_encodable(value: Text, place: Place) -> None:
    """Half a surrogate pair (from JSON that was cut or escaped amiss) is no character: tokenizers fail on it."""
    for text in [value] if isinstance(value, str) else [message["content"] for message in value]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{place}: half a surrogate pair, {text[error.start]!a}, stands at character {error.start} (counting "
                "from 0): a text that was cut in the middle of an emoji, or escaped amiss. Mend the text or drop the "
                "row."
            ) from None


def _check_messages(messages: Sequence[object], place: Place) -> int:
    length = 0
    for position, message in enumerate(messages):
        fields = message if isinstance(message, dict) else {}
        if not isinstance(fields.get("role"), str) or not isinstance(fields.get("content"), str):
            raise TypeError(
                f'{place}: message {position} must be {{"role": text, "content": text}}, found {shorten(message)}. '
                "Correct or drop the row."
            )
        length += len(fields["content"])
    return length


def check_sequence(value: object, place: Place, what: str) -> list:
    """A list of at least two: `what` names its members in the messages."""
    values = check_list(value, place, what)
    if len(values) < 2:
        problem = f"only one {what.removesuffix('s')} is" if values else f"no {what} are"
        raise ValueError(
            f"{place}: {problem} there, and a comparison needs two or more. Drop the row or add what it was compared "
            "with."
        )
    return values


def check_list(value: object, place: Place, what: str) -> list:
    """A list of any length: `what` names its members in the message."""
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        raise TypeError(f"{place}: a list of {what} is needed, found {shorten(value)} ({type(value).__name__}).")
    return list(value)


def check_distinct(keys: Sequence[object], shown: Sequence[object], place: Place, is_pair: bool) -> None:
    """No item of a row may be there twice. `keys` are compared, `shown` stand in the message."""
    if len(set(keys)) == len(keys):
        return
    first = {}
    again, earlier = next((i, first[key]) for i, key in enumerate(keys) if first.setdefault(key, i) != i)
    if is_pair:
        raise ValueError(
            f"{place}: chosen and rejected are the same, {shorten(shown[again])}, so the row says nothing. Drop it."
        )
    raise ValueError(
        f"{place}: positions {earlier} and {again} hold the same item, {shorten(shown[again])}; an item cannot be "
        "better than itself. Leave one of them out."
    )


def check_index(value: object, place: Place, n_embeddings: int | None) -> int:
    """The number of a row of the embedding file: a whole number in [0, n_embeddings)."""
    whole = not isinstance(value, bool) and (
        isinstance(value, numbers.Integral) or (isinstance(value, numbers.Real) and float(value).is_integer())
    )
    if not whole:
        content = "nothing is there" if value is None else f"found {shorten(value)} ({type(value).__name__})"
        raise TypeError(f"{place}: the number of a row of the embeddings is needed (a whole number), {content}.")
    index = int(value)
    if index < 0 or (n_embeddings is not None and index >= n_embeddings):
        allowed = "0 or more" if n_embeddings is None else f"0 … {n_embeddings - 1:,} (the embeddings' rows)"
        raise ValueError(
            f"{place}: {index:,} is no row of the embeddings; allowed is {allowed}. Check that the embeddings are the "
            "file these rows were written for."
        )
    return index


def check_ratings(values: Sequence[object], n_items: int, place: Place) -> list[float]:
    """Finite numbers, one per completion, higher is better."""
    if len(values) != n_items:
        ratings = "1 rating" if len(values) == 1 else f"{len(values)} ratings"
        raise ValueError(
            f"{place}: {ratings} for {n_items} completions; there must be one for each. Correct or drop the row."
        )
    for position, value in enumerate(values):
        if isinstance(value, numbers.Integral) and not isinstance(value, bool) and abs(value) > 10**300:
            raise ValueError(
                f"{place}, position {position}: a rating of more than 300 digits. Correct or drop the row."
            )
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(
                f"{place}, position {position}: a rating must be a number, found {shorten(value)} "
                f"({type(value).__name__}). Correct or drop the row."
            )
        if not math.isfinite(value):
            raise ValueError(
                f"{place}, position {position}: a rating must be finite, found {float(value)}. Leave out this "
                "completion together with its rating, or drop the row."
            )
    return [float(value) for value in values]


def check_n_ranked(value: object, n_items: int, place: Place) -> int:
    """How many of the completions are ranked: a whole number, 1 … n_items."""
    whole = isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(value) < 10**15
    if not whole or value != int(value):
        raise TypeError(f"{place}: a whole number is needed, found {shorten(value)} ({type(value).__name__}).")
    if not 1 <= value <= n_items:
        raise ValueError(
            f"{place}: {int(value)} of {n_items} completions are said to be ranked; allowed is 1 … {n_items} "
            "(1 means best of all, the rest unordered)."
        )
    return int(value)


def unknown_column_message(name: str, available: Iterable[str], source: str, advice: str) -> str:
    """One paragraph for a column that is not there: what there is, and the names that look like it."""
    columns = list(available)
    lowered = {column.lower(): column for column in columns}
    near = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
    inside = [c for c in columns if c not in near and (name.lower() in c.lower() or c.lower() in name.lower())]
    guess = f" Did you mean {' or '.join(repr(column) for column in (near + inside)[:3])}?" if near or inside else ""
    there = ", ".join(repr(column) for column in columns[:30]) + (", …" if len(columns) > 30 else "")
    return f"{f'{source}: t' if source else 'T'}here is no column {name!r}.{guess} The columns are {there}. {advice}"
