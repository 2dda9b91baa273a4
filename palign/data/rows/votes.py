"""Votes, one a row or one a cell, as rankings: each person's items in the tiers of their votes."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from palign.data.annotators import canonical_id
from palign.data.rows.bad_rows import BadRows
from palign.data.rows.checks import shorten, unknown_column_message
from palign.data.rows.columns import proposal
from palign.data.rows.options import ReadingOptions
from palign.data.rows.table import Table
from palign.data.rows.winners import plain_value

__all__ = ["is_votes", "items_by_id", "rankings", "vote_table"]

ID_NAMES = (
    "comment-id",
    "comment_id",
    "item",
    "item_id",
    "item-id",
    "statement",
    "statement_id",
    "statement-id",
    "id",
    "tid",
)
TEXT_NAMES = (
    "comment-body",
    "comment_body",
    "text",
    "body",
    "txt",
    "statement",
    "content",
    "item_text",
    "title",
    "name",
)
WORDS = {
    "agree": 1.0, "disagree": -1.0, "pass": 0.0, "skip": 0.0, "yes": 1.0, "no": -1.0, "like": 1.0, "dislike": -1.0,
    "upvote": 1.0, "downvote": -1.0, "up": 1.0, "down": -1.0, "neutral": 0.0, "unsure": 0.0, "strongly agree": 2.0,
    "strongly disagree": -2.0, "for": 1.0, "against": -1.0, "true": 1.0, "false": 0.0,
}  # fmt: skip
TIMES = ("timestamp", "datetime", "created", "modified", "time", "updated_at", "created_at")


def is_votes(table: Table, options: ReadingOptions) -> bool:
    """Whether the options say that the rows are votes."""
    return options.item_column is not None or options.vote_column is not None or options.items_name is not None


def vote_table(table: Table, options: ReadingOptions, read: Callable[[str], Table]) -> Table:
    """Rankings (`completions` and `ratings`) out of votes.

    Args:
        table: a long table (a vote in each row), or a matrix (a person in each row, an item in each column) where
            `items_name` names the items and no `item_column` is given.
        read: reads the file of `items_name`.

    Raises:
        ValueError: a column that is missing, an item without a text, a vote that is no number.
    """
    texts = None if options.items_name is None else items_by_id(read(options.items_name), options)
    columns = table.columns()
    if options.item_column is None and texts is None:
        raise ValueError(
            "--vote_column is given without --item_column: votes need both, or a matrix with --items_name."
        )
    needed = [options.annotator_column, *(name for name in (options.item_column, options.vote_column) if name)]
    for name in needed:
        if name not in columns:
            advice = "Votes need --annotator_column, --item_column and --vote_column."
            raise ValueError(unknown_column_message(name, columns, table.name, advice + proposal(table, options)))
    if options.item_column is not None and options.vote_column is None:
        raise ValueError("--item_column is given without --vote_column: votes need both.")
    if options.item_column is None:
        votes, further = _matrix_votes(table, options, texts)
    else:
        votes, further = _long_votes(table, options, texts)
    return rankings(votes, further, table, options)


Vote = tuple[str, str, str, float]  # person, prompt, text of the item, vote


def _long_votes(
    table: Table, options: ReadingOptions, texts: dict[str, str] | None
) -> tuple[list[Vote], dict[str, dict[str, Any]]]:
    columns = table.columns()
    time = next((name for name in columns if name.lower() in TIMES), None)
    latest: dict[tuple[str, str, str], tuple[Any, float]] = {}
    further: dict[str, dict[str, Any]] = {}
    used = {options.annotator_column, options.item_column, options.vote_column, options.prompt_column, time}
    n_changed, twice = 0, []
    bad = BadRows(table, options.bad_rows)
    for row, record in enumerate(table):
        given = record.get(options.vote_column)
        if given is None or given != given:
            continue
        try:
            person = _person(record.get(options.annotator_column), table, row, options)
            vote = _number(given, table, row, options.vote_column)
            text = _text(record.get(options.item_column), texts, table, row, options.item_column)
        except (TypeError, ValueError) as error:
            bad.add(row, error)
            continue
        key = person, str(record.get(options.prompt_column) or ""), text
        when = _time(record.get(time)) if time else None
        if key in latest:
            n_changed += 1
            if when is None and latest[key][1] != vote:
                twice.append(row)
            if when is not None and latest[key][0] is not None and when < latest[key][0]:
                continue
        latest[key] = when, vote
        further.setdefault(person, {name: record.get(name) for name in columns if name not in used})
    table.notes += bad.settle(len(latest))
    if twice:
        raise ValueError(
            f"{f'{table.name}, r' if table.name else 'R'}ow {twice[0]} (counting from 0) votes again on an item of "
            f"the same person, otherwise than before, and so do {len(twice):,} rows; no column says which vote is the "
            f"newer one (a column called {', '.join(TIMES[:3])} would). Keep one vote of each person on each item."
        )
    if n_changed:
        table.notes.append(
            f"{n_changed:,} votes were changed later" + (f"; the latest by {time!r} counts" if time else "")
        )
    return [(*key, vote) for key, (_, vote) in latest.items()], further


def _matrix_votes(
    table: Table, options: ReadingOptions, texts: dict[str, str]
) -> tuple[list[Vote], dict[str, dict[str, Any]]]:
    columns = table.columns()
    items = [name for name in columns if _id(name) in texts]
    if not items:
        raise ValueError(
            f"{f'{table.name}: n' if table.name else 'N'}o column is named after an item of {options.items_name} "
            f"({', '.join(list(texts)[:5])}, …). A matrix has a person in each row and an item in each column; for a "
            "vote in each row say --item_column and --vote_column."
        )
    votes, further = [], {}
    bad = BadRows(table, options.bad_rows)
    for row, record in enumerate(table):
        try:
            person = _person(record.get(options.annotator_column), table, row, options)
            there = {name: record.get(name) for name in items}
            there = {
                name: given for name, given in there.items() if given is not None and given == given and given != ""
            }
            numbers = {name: _number(given, table, row, name) for name, given in there.items()}
        except (TypeError, ValueError) as error:
            bad.add(row, error)
            continue
        if person in further:
            bad.add(
                row,
                ValueError(
                    f"{table.name or 'votes'}, row {row} (counting from 0), column {options.annotator_column!r}: the "
                    f"person {person!r} has a row already; a matrix has one row for each person."
                ),
            )
            continue
        votes += [(person, "", texts[_id(name)], number) for name, number in numbers.items()]
        others = (name for name in columns if name not in items and name != options.annotator_column)
        further[person] = {name: record.get(name) for name in others}
    table.notes += bad.settle(len(votes))
    return votes, further


def rankings(
    votes: Sequence[Vote], further: dict[str, dict[str, Any]], table: Table, options: ReadingOptions
) -> Table:
    """A row for each person and prompt, the votes as ratings; many items are dealt into several rows."""
    votes_of: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for person, prompt, text, vote in votes:
        votes_of.setdefault((person, prompt), []).append((text, vote))
    rows, n_alone, most = [], 0, options.items_per_row
    for (person, prompt), items in votes_of.items():
        if len(items) < 2:
            n_alone += 1
            continue
        n_parts = -(-len(items) // most)
        if n_parts > 1:
            seed = int.from_bytes(
                hashlib.blake2b(f"{person}\n{prompt}".encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big"
            )
            items = [items[i] for i in np.random.default_rng(seed).permutation(len(items))]
        for part in range(n_parts):
            some = items[part::n_parts]
            head = {name: value for name, value in further.get(person, {}).items() if value is not None}
            head |= {"annotator_id": person, "prompt": prompt}
            rows.append(head | {"completions": [text for text, _ in some], "ratings": [vote for _, vote in some]})
    notes = [
        *table.notes,
        f"{len(votes):,} votes of {len({person for person, _ in votes_of}):,} people became {len(rows):,} rankings "
        f"of at most {most} items (--items_per_row)",
    ]
    if n_alone:
        notes.append(f"{n_alone:,} people voted on one item only and say nothing")
    if not rows:
        raise ValueError(f"{table.name or 'The votes'}: nobody voted on two items, so nothing is compared.")
    for name in ("annotator_column", "prompt_column", "completions_column", "ratings_column"):
        setattr(options, name, type(options)().__getattribute__(name))
    options.item_column = options.vote_column = options.items_name = None
    return Table(table.name, rows, notes=notes, path=table.path)


def items_by_id(table: Table, options: ReadingOptions) -> dict[str, str]:
    """Id → text, of a file of items."""
    columns = table.columns()
    lowered = {column.lower(): column for column in columns}
    key = (
        options.item_column
        if options.item_column in columns
        else next((lowered[n] for n in ID_NAMES if n in lowered), None)
    )
    text = next((lowered[n] for n in TEXT_NAMES if n in lowered and lowered[n] != key), None)
    if key is None or text is None:
        raise ValueError(
            f"--items_name: {table.name} has the columns {', '.join(map(repr, columns))}; an id "
            f"({', '.join(ID_NAMES[:5])}, …) and a text ({', '.join(TEXT_NAMES[:4])}, …) are looked for. Rename them."
        )
    return {_id(row.get(key)): str(row.get(text)) for row in table if row.get(text) is not None}


def _id(value: Any) -> str:
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return text


def _person(value: Any, table: Table, row: int, options: ReadingOptions) -> str:
    try:
        return canonical_id(value)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{table.name or 'votes'}, row {row} (counting from 0), column {options.annotator_column!r}: {error}"
        ) from None


def _text(item: Any, texts: dict[str, str] | None, table: Table, row: int, column: str) -> str:
    if texts is None:
        if isinstance(item, str) and item:
            return item
        raise ValueError(
            f"{table.name or 'votes'}, row {row} (counting from 0), column {column!r}: {shorten(item)} is no text. "
            "Give the items' texts in a second file, --items_name FILE."
        )
    if _id(item) not in texts:
        raise ValueError(
            f"{table.name or 'votes'}, row {row} (counting from 0), column {column!r}: the item {shorten(item)} is "
            "not in the file of --items_name."
        )
    return texts[_id(item)]


def _number(value: Any, table: Table, row: int, column: str) -> float:
    plain = plain_value(value)
    if isinstance(plain, str):
        plain = WORDS.get(plain.casefold().strip(), plain)
    if not isinstance(plain, float):
        raise ValueError(
            f"{table.name or 'votes'}, row {row} (counting from 0), column {column!r}: {shorten(value)} is no vote; "
            f"numbers are, and {', '.join(list(WORDS)[:6])}."
        )
    return plain


def _time(value: Any) -> Any:
    """Something that grows with time: a number, or a text that sorts by time."""
    plain = plain_value(value)
    return (1, 0.0, plain) if isinstance(plain, str) else (0, plain, "") if plain is not None else None
