"""From rows as people keep them to the arrays of `Preferences`."""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from palign.data.pseudonyms import pseudonym, pseudonym_key
from palign.data.rows import checks
from palign.data.rows.bad_rows import BadRows
from palign.data.rows.checks import Place, Text, shorten
from palign.data.rows.columns import check_columns, one_hot_columns
from palign.data.rows.messages import in_one_form, text_of_cell
from palign.data.rows.options import ReadingOptions
from palign.data.rows.reading import Reading, first_row, odd_texts, similar_ids
from palign.data.rows.suggestions import winner_columns
from palign.data.rows.table import Table
from palign.data.rows.winners import FIRST, TIE, Winners, plain_value

__all__ = ["RowReader", "UniqueTexts"]

logger = logging.getLogger(__name__)
PSEUDONYM_NOTE = "everybody's id is replaced by a pseudonym (a keyed hash); the key stays on this machine"
UNNAMED_ORDER = re.compile(r"(.*_)?(scores?|ranks?|rankings?|ratings?|grades?|rewards?|order(ing)?)", re.I)


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
            pair = (number_of_prompt, completion)
            key = pair if isinstance(completion, str) else (number_of_prompt, _key(completion))
            number = self._item_numbers.setdefault(key, len(self.items))
            if number == len(self.items):
                self.items.append(pair)
            numbers.append(number)
        return number_of_prompt, numbers


class PromptPlace(Place):
    """Where a value of a row of prompts stands."""

    def __str__(self) -> str:
        return f"{self.source or 'rows'}, row {self.row}, column {self.column!r}"


class RowReader:
    """Takes rows one by one, checks them, and numbers their prompts and completions.

    Args:
        options: what the columns are called, what their values mean, what becomes of bad rows.
        max_characters: longest text allowed, None for any.
        embeddings: rows name vectors: how many there are, or True; False for texts.
    """

    def __init__(self, options: ReadingOptions, max_characters: int | None, embeddings: bool | int = False):
        self.names, self.max_characters = options, max_characters
        self.is_text = embeddings is False
        self.n_embeddings = None if isinstance(embeddings, bool) else int(embeddings)
        self.pair_columns, self.list_column = options.pair(self.is_text), options.several(self.is_text)
        self.texts = UniqueTexts()
        self.winners: Winners | None = None
        self.one_hot: list[str] = []
        self.table = Table("", [])
        self.place_kind = Place

    def read(self, rows: Table | Iterable[Mapping[str, Any]], name: str = "") -> dict[str, Any]:
        """The fields of `Preferences`."""
        self.table = table = Table.of(rows, name)
        bad = BadRows(table, self.names.bad_rows)
        if not len(table):
            bad.settle(0)
        available = self._columns(bad, needs_items=True)
        self._prepare(available)
        ids, prompt_indices, item_indices, ranks, kept, sides, n_ties = [], [], [], [], [], [], 0
        who, number, place = self.names.annotator_column, self._number, self._place
        items_and_ranks = self._items_and_ranks if self.winners is None else self._winner_first
        for row, record in enumerate(table):
            try:
                annotator = checks.check_annotator(record.get(who), place(row, who))
                items, order = items_and_ranks(record, row)
                if not order:
                    continue
                if order[-1] == 0:
                    n_ties += 1
                    continue
                prompt, numbers = number(record, row, items)
            except (TypeError, ValueError) as error:
                bad.add(row, error)
                continue
            ids.append(annotator)
            prompt_indices.append(prompt)
            item_indices.append(numbers)
            ranks.append(order)
            kept.append(row)
            if self.winners is not None:
                sides.append(self._side)
        if self.winners is not None and self.winners.unknown:
            raise ValueError(self.winners.unknown_message(table.name))
        dropped = bad.settle(len(kept))
        self._require_rows(len(table) - len(bad), len(kept))
        ids = self._called(ids)
        names = list(dict.fromkeys(ids))
        self._report_blanks(names)
        reading = self._reading(available, names, n_ties, [*dropped, *similar_ids(names)])
        reading.n_preferences = len(kept)
        columns = self._further_columns(np.array(kept, dtype=np.int64), available, sides)
        reading.notes += [*self._unused_winners(columns), *self._pseudonym_note()]
        if self.is_text:
            reading.notes += odd_texts(self.texts.prompts, [text for _, text in self.texts.items])
            n_empty = sum(not self.texts.prompts[number] for number in prompt_indices)
            if n_empty and self.names.prompt_column in available:
                reading.notes.append(f"{n_empty:,} rows have no prompt: {self.names.prompt_column!r} is empty there")
            texts = [self.texts.items[i][1] for i in item_indices[0]]
            reading.first = first_row(ids[0], self.texts.prompts[prompt_indices[0]], texts, ranks[0])
        return {
            "annotator_ids": _shared(ids),
            "item_indices": _padded(item_indices, np.int64),
            "ranks": _padded(ranks, np.int16),
            "prompt_indices": np.array(prompt_indices, dtype=np.int64),
            "prompts": self.texts.prompts if self.is_text else None,
            "items": self.texts.items if self.is_text else None,
            "columns": columns,
            "reading": reading,
        }

    def _pseudonym_note(self) -> list[str]:
        return [PSEUDONYM_NOTE] if self.names.pseudonyms else []

    def _called(self, ids: list[str]) -> list[str]:
        """The people as they are called from here on: their ids, or pseudonyms."""
        if not self.names.pseudonyms:
            return ids
        key = pseudonym_key(self.names.pseudonym_key)
        names = {name: pseudonym(name, key) for name in dict.fromkeys(ids)}
        return [names[name] for name in ids]

    def read_prompts(
        self, rows: Table | Iterable[Mapping[str, Any]], name: str = ""
    ) -> tuple[list[tuple[Text, str, int]], Reading]:
        """(prompt, person, row) of every row, the prompt as `read` understands it where the rows are judgements too.

        Ties have a prompt as well; of rows without a judgement the prompt is all that is read.
        """
        self.table, self.place_kind = Table.of(rows, name), PromptPlace
        table, bad = self.table, BadRows(self.table, self.names.bad_rows)
        if not len(table):
            bad.settle(0)
        available = self._columns(bad, needs_items=False)
        names = self.names
        judged = names.first_column is not None and {names.first_column, names.second_column} <= set(available)
        pair, several = (names.first_column, names.second_column) if judged else self.pair_columns, self.list_column
        prompt_rows: list[tuple[Text, str, int]] = []
        for row, record in enumerate(table):
            try:
                if names.annotator_column not in record:
                    there = ", ".join(map(repr, record))
                    raise ValueError(
                        f"{table.name or 'rows'}, row {row}: there is no column {names.annotator_column!r}; the row "
                        f"has {there}. Every row must have a prompt and a person; say what they are called with "
                        "--prompt_column and --annotator_column."
                    )
                person = checks.check_annotator(
                    record.get(names.annotator_column), self._place(row, names.annotator_column)
                )
                items = [_cell(record, column) for column in pair]
                places = [self._place(row, column) for column in pair]
                if _cell(record, several) is not None:
                    place = self._place(row, several)
                    items, places = self._list(_cell(record, several), place, "completions"), []
                    places = [place] * len(items)
                if not items or None in items:
                    items, places = [], []
                prompt, _ = self._conversation(record, row, items, places)
                if not prompt:
                    raise ValueError(f"{self._place(row, names.prompt_column)}: the prompt is empty. Drop the row.")
            except (TypeError, ValueError) as error:
                bad.add(row, ValueError(str(error)))
                continue
            prompt_rows.append((prompt, person, row))
        notes = bad.settle(len(prompt_rows))
        called = self._called([person for _, person, _ in prompt_rows])
        prompt_rows = [(prompt, who, row) for (prompt, _, row), who in zip(prompt_rows, called, strict=True)]
        people = list(dict.fromkeys(person for _, person, _ in prompt_rows))
        reading = Reading(table.name, len(table) + len(table.ragged), len(prompt_rows), len(people))
        reading.columns = [self._who(people), self._what([prompt for prompt, _, _ in prompt_rows[:100]])]
        reading.notes = [*table.notes, *notes, *similar_ids(people), *self._pseudonym_note()]
        return prompt_rows, reading

    def _columns(self, bad: BadRows, *, needs_items: bool) -> list[str]:
        """Every column; where one is missing, lines that are no rows are reported first, for they may be why."""
        try:
            return check_columns(self.table, self.names, is_text=self.is_text, needs_items=needs_items)
        except ValueError:
            if len(bad) and self.names.bad_rows == "stop":
                bad.settle(0)
            raise

    def _prepare(self, available: list[str]) -> None:
        """What the whole table says: which numbers of a winner column mean which side, what the order goes by."""
        names = self.names
        if names.winner_column is not None:
            self.one_hot = [] if names.winner_column in available else one_hot_columns(names.winner_column, available)
            cells = [] if self.one_hot else self.table.column(names.winner_column)
            self.winners = Winners(
                cells, names.first_column, names.second_column, names.winner_column, available, names.winners_stated
            )
        elif self.list_column in available and not {
            names.ratings_column,
            names.ranks_column,
            names.n_ranked_column,
        } & set(available):
            self._require_named_order(available)

    def _require_named_order(self, available: list[str]) -> None:
        """Completions beside scores or ranks that nobody named: file order is no ranking then."""
        for column in available:
            if UNNAMED_ORDER.fullmatch(column) is None:
                continue
            sample = next((value for value in self.table.column(column) if value is not None), None)
            if sample is None or isinstance(plain_value(sample), float) and not isinstance(sample, (list, tuple)):
                continue
            start = f"{self.table.name}: t" if self.table.name else "T"
            raise ValueError(
                f"{start}he column {column!r} stands beside {self.list_column!r}, and nothing says what it is: "
                f"--ratings_column {column} (more is better), or --ranks_column {column} (1 is best)? If the "
                "completions already stand best first, leave the column out."
            )

    def _place(self, row: int, column: str) -> Place:
        return self.place_kind(self.table.name, row, column)

    def _winner_first(self, record: Mapping[str, Any], row: int) -> tuple[list[Any], list[int]]:
        """The two answers, the winner first, and their ranks; [0, 0] of a tie, nothing where the winner is unknown."""
        names, winners = self.names, self.winners
        side = self._one_hot_side(record, row) if self.one_hot else None
        if side is None:
            cell = _cell(record, names.winner_column)
            if plain_value(cell) is None:
                raise ValueError(
                    f"{self._place(row, names.winner_column)}: no winner is there. Fill it in (a tie is a word, too) "
                    "or drop the row."
                )
            side = winners.side(cell, record)
        if side is None:
            if (line := self.table.line(row)) is not None:
                winners.unknown_lines.append(line)
            return [], []
        answers = []
        for column in (names.first_column, names.second_column):
            value = _cell(record, column)
            if value is None:
                raise ValueError(
                    f"{self._place(row, column)}: nothing is there, so the row has one answer only; a comparison "
                    "needs two. Fill it in or drop the row."
                )
            answers.append(value)
        self._side = side
        if side == TIE:
            return answers, [0, 0]
        return (answers if side == FIRST else answers[::-1]), [0, 1]

    def _one_hot_side(self, record: Mapping[str, Any], row: int) -> int:
        values = [plain_value(_cell(record, column)) for column in self.one_hot]
        marks = [{"true": 1.0, "false": 0.0}.get(value, value) for value in values]
        if sorted(map(str, marks)) != ["0.0", "0.0", "1.0"]:
            shown = ", ".join(f"{c} = {shorten(_cell(record, c))}" for c in self.one_hot)
            raise ValueError(
                f"{self._place(row, self.one_hot[0])}: one of three columns must be 1 and the others 0: {shown}."
            )
        side = marks.index(1.0)
        self.winners.counts.setdefault(self.one_hot[side], [0, 0, 0])[side] += 1
        return side

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
        place = self._place(row, self.list_column)
        items = checks.check_sequence(self._list(several, place, "completions"), place, "completions")
        return self._ordered(items, record, row)

    def _list(self, value: Any, place: Place, what: str) -> list[Any]:
        """A list; of a table of texts the JSON in the cell."""
        if self.table.cells_are_text and isinstance(value, str):
            value = _parsed_cell(value, list, place)
        return checks.check_list(value, place, what)

    def _ordered(self, items: list[Any], record: Mapping[str, Any], row: int) -> tuple[list[Any], list[int]]:
        names = self.names
        given = [
            c
            for c in (names.ratings_column, names.ranks_column, names.n_ranked_column)
            if _cell(record, c) is not None
        ]
        if not given:
            return items, list(range(len(items)))
        place = self._place(row, given[0])
        if len(given) > 1:
            raise ValueError(
                f"{place}: the row gives {given[1]!r} as well as {given[0]}. Completions are ordered by one of the "
                "two: leave the other empty."
            )
        if given[0] == names.n_ranked_column:
            n_ranked = _cell(record, given[0])
            if self.table.cells_are_text:
                n_ranked = _parsed_cell(n_ranked, (int, float), place)
            n_ranked = checks.check_n_ranked(n_ranked, len(items), place)
            return items, [min(position, n_ranked) for position in range(len(items))]
        values = checks.check_ratings(self._list(_cell(record, given[0]), place, "ratings"), len(items), place)
        more_is_better = given[0] == names.ratings_column
        if not more_is_better and min(values) < 0:
            raise ValueError(
                f"{place}: a rank is {min(values):g}; ranks count up from the best, 1 (or 0). If it stands for an "
                "answer that was not ranked, leave that answer out; if more is better, name the column with "
                "--ratings_column."
            )
        rank_of = {value: rank for rank, value in enumerate(sorted(set(values), reverse=more_is_better))}
        best_first = sorted(range(len(items)), key=lambda position: rank_of[values[position]])
        return [items[position] for position in best_first], [rank_of[values[position]] for position in best_first]

    def _number(self, record: Mapping[str, Any], row: int, items: list[Any]) -> tuple[int, list[int]]:
        """The numbers of the row's prompt and items, new ones where they are met for the first time."""
        is_pair = self.winners is not None or _cell(record, self.list_column) is None
        columns = self.pair_columns if is_pair else (self.list_column,) * len(items)
        if self.winners is not None:
            columns = (self.names.first_column, self.names.second_column)
            columns = columns if self._side == FIRST else columns[::-1]
        places = [self._place(row, column) for column in columns]
        if not self.is_text:
            return self._vector_numbers(record, row, items, places, is_pair)
        prompt, texts = self._conversation(record, row, items, places)
        checks.check_distinct([_key(text) for text in texts], texts, places[-1], is_pair)
        return self.texts.number(prompt, texts)

    def _vector_numbers(
        self, record: Mapping[str, Any], row: int, items: list[Any], places: list[Place], is_pair: bool
    ) -> tuple[int, list[int]]:
        column, kinds = self.names.prompt_index_column, (int, float)
        given = _cell(record, column)
        if self.table.cells_are_text:
            given = _parsed_cell(given, kinds, self._place(row, column)) if given is not None else None
            pairs = zip(items, places, strict=True)
            items = [_parsed_cell(v, kinds, place) if isinstance(v, str) else v for v, place in pairs]
        prompt = -1 if given is None else checks.check_index(given, self._place(row, column), self.n_embeddings)
        numbers = [checks.check_index(v, p, self.n_embeddings) for v, p in zip(items, places, strict=True)]
        checks.check_distinct(numbers, numbers, places[-1], is_pair)
        return prompt, numbers

    def _conversation(
        self, record: Mapping[str, Any], row: int, items: list[Any], places: list[Place]
    ) -> tuple[Text, list[Text]]:
        """Prompt and completions in one form, checked."""
        limit = self.max_characters
        texts = [checks.check_text(text_of_cell(v, p), p, limit) for v, p in zip(items, places, strict=True)]
        prompt = _cell(record, self.names.prompt_column)
        if prompt is not None:
            place = self._place(row, self.names.prompt_column)
            prompt = checks.check_text(text_of_cell(prompt, place), place, limit)
        if texts and all(_key(text) == _key(texts[0]) for text in texts[1:]) and not isinstance(texts[0], str):
            return prompt or "", texts  # equal ones: whoever compares them says so
        return in_one_form(prompt, texts, places[-1]) if texts else (prompt or "", texts)

    def _require_rows(self, n_rows: int, n_kept: int) -> None:
        if n_kept == 0:
            start = f"{self.table.name}: i" if self.table.name else "I"
            where = "n the only row" if n_rows == 1 else f"n each of the {n_rows} rows"
            what = "all ratings tie" if self.winners is None else "the winner is a tie"
            raise ValueError(
                f"{start}{where} {what}, so nothing is said. Give rows in which one completion is better."
            )

    def _report_blanks(self, names: list[str]) -> None:
        padded = [name for name in names if name != name.strip()]
        if padded:
            start = f"{self.table.name}: " if self.table.name else ""
            shown = ", ".join(map(repr, padded[:3])) + (", …" if len(padded) > 3 else "")
            logger.warning(
                "%s%d annotator id%s with a blank (%s), kept letter for letter: ' a' and 'a' are two people. "
                "Strip them if they are one.",
                start,
                len(padded),
                " begins or ends" if len(padded) == 1 else "s begin or end",
                shown,
            )

    def _who(self, people: list[str]) -> tuple[str, str, str]:
        values = (
            f"{len(people):,} {'value' if len(people) == 1 else 'values'}, e.g. {shorten(people[0])}" if people else ""
        )
        return "who", self.names.annotator_column, values

    def _what(self, prompts: list[Text]) -> tuple[str, str, str]:
        plain = sum(isinstance(prompt, str) for prompt in prompts)
        kind = "plain text" if plain == len(prompts) else "messages" if plain == 0 else "plain text and messages"
        if plain and not any(prompts):
            kind = "nothing"
        return "prompt", self.names.prompt_column, kind

    def _reading(self, available: list[str], people: list[str], n_ties: int, notes: list[str]) -> Reading:
        table, names = self.table, self.names
        if n_ties and self.winners is None:
            start = f"{table.name}: " if table.name else ""
            logger.warning("%s%d of %d rows dropped: all their ratings tie.", start, n_ties, len(table))
        reading = Reading(table.name, len(table) + len(table.ragged), 0, len(people))
        reading.left_out = {("tie: no preference" if n_ties == 1 else "ties: no preference"): n_ties}
        reading.columns = [self._who(people)]
        if self.is_text:
            reading.columns.append(self._what(self.texts.prompts[:100]))
        reading.notes = [*table.notes, *notes]
        if self.winners is not None:
            reading.columns.append(("winner", self.winners.line(), ""))
            if self.winners.assumption:
                reading.notes.insert(0, f"assumed: {self.winners.assumption} (else say --winner_values)")
        elif set(self.pair_columns) <= set(available):
            reading.columns.append(("better", self.pair_columns[0], f"over {self.pair_columns[1]}"))
        if self.winners is None and self.list_column in available:
            by = {
                names.ratings_column: "more is better",
                names.ranks_column: "1 is best",
                names.n_ranked_column: "so many in order",
            }
            orders = [f"by {column} ({text})" for column, text in by.items() if column in available]
            reading.columns.append(
                ("better", self.list_column, ", ".join(orders) or "best first, in the order of the file")
            )
        return reading

    def _unused_winners(self, columns: Mapping[str, Any]) -> list[str]:
        """A sentence where a further column seems to say who won, and the pair's columns are not called chosen and
        rejected: the guard stops there, and who reads in Python should see it, too.
        """
        if self.winners is not None or self.pair_columns[0] in ("chosen", "chosen_index"):
            return []
        return [
            f"the column {name!r} looks as if it named winners, and is not used: {self.pair_columns[0]!r} is taken "
            "for the better answer in every row (else say --first_column, --second_column and --winner_column)"
            for name in winner_columns(list(columns), columns.__getitem__)
        ]

    def _further_columns(self, kept: np.ndarray, available: list[str], sides: list[int]) -> dict[str, np.ndarray]:
        """Every column that is not part of the judgement itself; of winners, where the chosen one stood and how much
        better it was."""
        names = self.names
        used = {names.annotator_column, names.prompt_column if self.is_text else names.prompt_index_column}
        if self.winners is not None:
            used |= {names.first_column, names.second_column, names.winner_column, *self.one_hot}
        else:
            used |= {
                *self.pair_columns,
                self.list_column,
                names.ratings_column,
                names.ranks_column,
                names.n_ranked_column,
            }
        columns = {name: _objects(self.table.column(name))[kept] for name in available if name not in used}
        if self.winners is not None:
            columns.setdefault("position", _objects(sides))
            if self.winners.is_strength:
                cells = _objects(self.table.column(names.winner_column))[kept]
                columns.setdefault("strength", _objects([self.winners.strength(cell) for cell in cells]))
        return columns


def _objects(values: Iterable[Any]) -> np.ndarray:
    values = list(values)
    return np.fromiter(values, dtype=object, count=len(values))


def _parsed_cell(cell: Any, kind: type | tuple[type, ...], place: Place) -> Any:
    """The list or number that a text of a table holds, as JSON."""
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, kind):
        return value
    what = 'a list in JSON form (["…", "…"])' if kind is list else "a number"
    raise TypeError(f"{place}: {what} is needed, found {shorten(cell)}.")


def _cell(record: Mapping[str, Any], column: str | None) -> Any:
    """What a row holds there; what pandas puts into empty cells (NaN, NA, NaT) is nothing."""
    value = record.get(column)
    if value is None or isinstance(value, (str, int, list, dict)):
        return value
    if isinstance(value, float):
        return None if value != value else value
    return None if type(value).__name__ in ("NAType", "NaTType") else value


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
