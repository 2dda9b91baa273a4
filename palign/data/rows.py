"""From rows as people keep them to the arrays of `Preferences`."""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from palign.data import checks
from palign.data.checks import Place, Text
from palign.data.columns import ColumnNames, check_columns

__all__ = ["RowReader", "UniqueTexts"]

logger = logging.getLogger(__name__)


class UniqueTexts:
    """Prompts and completions, each kept once and numbered in order of appearance.

    Attributes:
        prompts: unique prompts.
        items: unique (prompt index, completion).
    """

    def __init__(self) -> None:
        self.prompts: list[Text] = []
        self.items: list[tuple[int, Text]] = []
        self._prompt_numbers: dict[object, int] = {}
        self._item_numbers: dict[tuple[int, object], int] = {}

    def number(self, prompt: Text, completions: list[Text]) -> tuple[int, list[int]]:
        """The number of a prompt and those of completions of it; new ones are taken in."""
        number_of_prompt = self._prompt_numbers.setdefault(_key(prompt), len(self.prompts))
        if number_of_prompt == len(self.prompts):
            self.prompts.append(prompt)
        numbers = []
        for completion in completions:
            number = self._item_numbers.setdefault((number_of_prompt, _key(completion)), len(self.items))
            if number == len(self.items):
                self.items.append((number_of_prompt, completion))
            numbers.append(number)
        return number_of_prompt, numbers


class RowReader:
    """Takes rows one by one, checks them, and numbers their prompts and completions.

    Args:
        names: the columns' names.
        source: what messages call the rows ("" for rows in memory).
        max_characters: longest text allowed, None for any.
        embeddings: rows name vectors: how many there are, or True; False for texts.
    """

    def __init__(self, names: ColumnNames, source: str, max_characters: int | None, embeddings: bool | int):
        self.names, self.source, self.max_characters = names, source, max_characters
        self.is_text = embeddings is False
        self.n_embeddings = None if isinstance(embeddings, bool) else int(embeddings)
        self.pair_columns, self.list_column = names.pair(self.is_text), names.several(self.is_text)
        self.texts = UniqueTexts()

    def read(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """The fields of `Preferences`."""
        rows = list(rows)
        available = check_columns(rows, self.names, is_text=self.is_text, source=self.source)
        ids, prompt_indices, item_indices, ranks, kept = [], [], [], [], []
        for row, record in enumerate(rows):
            annotator = checks.check_annotator(
                record.get(self.names.annotator_column), self._place(row, self.names.annotator_column)
            )
            held, order = self._items_and_ranks(record, row)
            if order[-1] == 0:
                continue
            prompt, numbers = self._number(record, row, held)
            ids.append(annotator)
            prompt_indices.append(prompt)
            item_indices.append(numbers)
            ranks.append(order)
            kept.append(row)
        self._report_dropped(len(rows), len(kept))
        self._report_blanks(ids)
        return {
            "annotator_ids": _shared(ids),
            "item_indices": _padded(item_indices, np.int64),
            "ranks": _padded(ranks, np.int16),
            "prompt_indices": np.array(prompt_indices, dtype=np.int64),
            "prompts": self.texts.prompts if self.is_text else None,
            "items": self.texts.items if self.is_text else None,
            "columns": self._further_columns(rows, kept, available),
        }

    def _place(self, row: int, column: str) -> Place:
        return Place(self.source, row, column)

    def _items_and_ranks(self, record: Mapping[str, Any], row: int) -> tuple[list[Any], list[int]]:
        """The row's items as they stand there, best first, and their ranks."""
        pair = [_cell(record, name) for name in self.pair_columns]
        several = _cell(record, self.list_column)
        if several is None:
            if pair == [None, None]:
                raise ValueError(
                    f"{self._place(row, self.pair_columns[0])}: the row has neither {self.pair_columns[0]!r} and "
                    f"{self.pair_columns[1]!r} nor {self.list_column!r}. Fill in one form or drop the row."
                )
            for value, name in zip(pair, self.pair_columns, strict=True):
                if value is None:
                    raise ValueError(
                        f"{self._place(row, name)}: nothing is there, so the row has one completion only; a "
                        "comparison needs two. Fill it in or drop the row."
                    )
            return pair, [0, 1]
        if pair != [None, None]:
            given = self.pair_columns[0] if pair[0] is not None else self.pair_columns[1]
            raise ValueError(
                f"{self._place(row, self.list_column)}: the row gives {given!r} as well as {self.list_column!r}. "
                "A row is a pair or a list, not both: leave one of them empty."
            )
        held = checks.check_sequence(several, self._place(row, self.list_column), "completions")
        return self._ordered(held, record, row)

    def _ordered(self, held: list[Any], record: Mapping[str, Any], row: int) -> tuple[list[Any], list[int]]:
        ratings, n_ranked = _cell(record, self.names.ratings_column), _cell(record, self.names.n_ranked_column)
        if ratings is None and n_ranked is None:
            return held, list(range(len(held)))
        if ratings is None:
            place = self._place(row, self.names.n_ranked_column)
            n_ranked = checks.check_n_ranked(n_ranked, len(held), place)
            return held, [min(position, n_ranked) for position in range(len(held))]
        place = self._place(row, self.names.ratings_column)
        if n_ranked is not None:
            raise ValueError(
                f"{place}: the row gives {self.names.n_ranked_column!r} as well as ratings. Completions are ordered "
                "by one of the two: leave the other empty."
            )
        values = checks.check_ratings(checks.check_list(ratings, place, "ratings"), len(held), place)
        rank_of = {value: rank for rank, value in enumerate(sorted(set(values), reverse=True))}
        best_first = sorted(range(len(held)), key=lambda position: rank_of[values[position]])
        return [held[position] for position in best_first], [rank_of[values[position]] for position in best_first]

    def _number(self, record: Mapping[str, Any], row: int, held: list[Any]) -> tuple[int, list[int]]:
        """The numbers of the row's prompt and items, new ones where they are met for the first time."""
        is_pair = _cell(record, self.list_column) is None
        columns = self.pair_columns if is_pair else (self.list_column,) * len(held)
        places = [self._place(row, column) for column in columns]
        if not self.is_text:
            column = self.names.prompt_index_column
            given = _cell(record, column)
            prompt = -1 if given is None else checks.check_index(given, self._place(row, column), self.n_embeddings)
            numbers = [checks.check_index(v, p, self.n_embeddings) for v, p in zip(held, places, strict=True)]
            checks.check_distinct(numbers, numbers, places[-1], is_pair)
            return prompt, numbers
        texts = [checks.check_text(v, p, self.max_characters) for v, p in zip(held, places, strict=True)]
        prompt_text = _cell(record, self.names.prompt_column)
        if prompt_text is not None:
            place = self._place(row, self.names.prompt_column)
            prompt_text = checks.check_text(prompt_text, place, self.max_characters)
        keys = [_key(text) for text in texts]
        checks.check_distinct(keys, texts, places[-1], is_pair)
        prompt_text, texts = _in_one_form(prompt_text, texts, places[-1])
        return self.texts.number(prompt_text, texts)

    def _report_dropped(self, n_rows: int, n_kept: int) -> None:
        if n_kept == 0:
            start = f"{self.source}: i" if self.source else "I"
            where = "n the only row" if n_rows == 1 else f"n each of the {n_rows} rows"
            raise ValueError(
                f"{start}{where} all ratings tie, so nothing is said. Give rows in which one completion is better."
            )
        if n_kept < n_rows:
            start = f"{self.source}: " if self.source else ""
            logger.warning("%s%d of %d rows dropped: all their ratings tie.", start, n_rows - n_kept, n_rows)

    def _report_blanks(self, names: list[str]) -> None:
        padded = [name for name in dict.fromkeys(names) if name != name.strip()]
        if padded:
            start = f"{self.source}: " if self.source else ""
            shown = ", ".join(map(repr, padded[:3])) + (", …" if len(padded) > 3 else "")
            logger.warning(
                "%s%d annotator id%s with a blank (%s), kept letter for letter: ' a' and 'a' are two people. "
                "Strip them if they are one.",
                start, len(padded), " begins or ends" if len(padded) == 1 else "s begin or end", shown,
            )  # fmt: skip

    def _further_columns(
        self, rows: list[Mapping[str, Any]], kept: list[int], available: list[str]
    ) -> dict[str, np.ndarray]:
        """Every column that is not part of the judgement itself."""
        names = self.names
        used = {
            names.annotator_column,
            *self.pair_columns,
            self.list_column,
            names.ratings_column,
            names.n_ranked_column,
        }
        used.add(names.prompt_column if self.is_text else names.prompt_index_column)
        columns = {}
        for name in available:
            if name not in used:
                columns[name] = np.fromiter((rows[row].get(name) for row in kept), dtype=object, count=len(kept))
        return columns


def _in_one_form(prompt: Text | None, texts: list[Text], place: Place) -> tuple[Text, list[Text]]:
    """All plain or all conversational, completions without the prompt's messages.

    Rows without a prompt whose conversations begin alike (TRL's implicit prompt) get that beginning as prompt; a
    plain prompt that the conversations repeat as their first message is taken off them.
    """
    if all(isinstance(text, str) for text in texts) and (prompt is None or isinstance(prompt, str)):
        return prompt or "", texts
    texts = [[{"role": "assistant", "content": text}] if isinstance(text, str) else text for text in texts]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}] if prompt else []
    if not prompt:
        shortest = min(len(text) for text in texts)
        alike = next((i for i in range(shortest) if any(text[i] != texts[0][i] for text in texts)), shortest)
        prompt = texts[0][: min(alike, max(shortest - 1, 0))]
    if prompt and all(text[: len(prompt)] == prompt for text in texts):
        texts = [text[len(prompt) :] for text in texts]
    if not all(texts):
        raise ValueError(f"{place}: a completion without a message of its own. Correct or drop the row.")
    return prompt, texts


def _cell(record: Mapping[str, Any], column: str) -> Any:
    """What a row holds there; the NaN that pandas puts into empty cells is nothing."""
    value = record.get(column)
    return None if isinstance(value, float) and value != value else value


def _key(text: Text) -> object:
    return text if isinstance(text, str) else ("messages", json.dumps(text, sort_keys=True, default=str))


def _shared(names: list[str]) -> np.ndarray:
    known: dict[str, str] = {}
    return np.fromiter((known.setdefault(name, name) for name in names), dtype=object, count=len(names))


def _padded(lists: list[list[int]], dtype: type) -> np.ndarray:
    table = np.full((len(lists), max(map(len, lists))), -1, dtype=dtype)
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    table[np.arange(table.shape[1]) < lengths[:, None]] = [number for numbers in lists for number in numbers]
    return table
