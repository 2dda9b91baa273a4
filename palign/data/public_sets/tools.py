"""Readers of what annotation tools export: Argilla 2, Label Studio, PrefLib.

A reader takes a source (file, rows, folder), a counter of what it leaves out, and options, and yields rows as
`Preferences.from_rows` takes them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palign.data.public_sets.tables import stream_table
from palign.data.rows.checks import shorten
from palign.data.rows.files import text_of
from palign.data.rows.suggestions import ANSWER_WORDS, PROMPT_WORDS
from palign.data.rows.winners import TIE, counterpart, plain_value, side_of_word

__all__ = ["argilla_rows", "label_studio_rows", "preflib_rows"]

Row = dict[str, Any]


# Argilla 2


def argilla_rows(source: Any, dropped: Counter, *, prompt_column: str = "") -> Iterator[Row]:
    """Argilla 2, as `to_json` writes it (nested) or `to_datasets` (columns like `preference.responses.users`).

    The annotator is the user. Ranking questions name fields in order; label questions name the better field or side.
    Drafts and discarded answers are left out; `to_json` does not write the status, so all of its answers are read.
    """
    records = [_argilla_record(row) for row in stream_table(source)]
    known = {question: _named_fields(records, question) for _, answers, _ in records for question in answers}
    for fields, answers, further in records:
        for question, given in answers.items():
            for value, user, status in given:
                if status not in (None, "submitted"):
                    dropped[f"{status} answers"] += 1
                    continue
                judged = _argilla_order(value, fields, known[question])
                if judged is None:
                    dropped[f"answers to {question!r}, which compares no fields"] += 1
                    continue
                there = {name: rank for name, rank in judged.items() if fields.get(name) is not None}
                if len(there) < 2 and len(judged) > 1:
                    dropped["answers about a field that is empty"] += 1
                elif len(set(there.values())) < 2:
                    dropped["ties"] += 1
                else:
                    head = {"annotator_id": user, "prompt": _prompt_of(fields, judged, prompt_column)}
                    texts = [fields[name] for name in there]
                    ranks = list(there.values())
                    yield (
                        further
                        | head
                        | {"completions": texts, "ranks": ranks}
                        | ({"question": question} if len(known) > 1 else {})
                    )


def _argilla_record(row: Mapping[str, Any]) -> tuple[Row, dict[str, list[tuple[Any, str, str | None]]], Row]:
    """Fields, question → (value, user, status) of each answer, and metadata."""
    if isinstance(row.get("fields"), Mapping):
        answers = {
            question: [(a.get("value"), str(a.get("user_id")), a.get("status")) for a in given]
            for question, given in (row.get("responses") or {}).items()
        }
        return dict(row["fields"]), answers, dict(row.get("metadata") or {})
    answers, fields = {}, {}
    for name, value in row.items():
        if name.endswith(".responses"):
            users, status = row.get(f"{name}.users") or [], row.get(f"{name}.status") or []
            value = list(value or [])
            status = list(status) or [None] * len(value)
            answers[name.removesuffix(".responses")] = list(zip(value, map(str, users), status, strict=True))
        elif "." not in name and name not in ("id", "_server_id", "status") and value is not None:
            fields[name] = value
    return fields, answers, {}


def _named_fields(records: Sequence[tuple[Row, dict, Row]], question: str) -> list[str]:
    """The fields that answers to a question name, or the pair of fields that they call sides."""
    values = [value for _, answers, _ in records for value, _, _ in answers.get(question, ())]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    mentions = {_plain(one["value"] if isinstance(one, Mapping) else one) for one in flat if one is not None}
    names = list(dict.fromkeys(name for fields, _, _ in records for name in fields))
    named = [name for name in names if _plain(name) in mentions]
    if len(named) >= 2:
        return named
    pairs = [(a, b) for a in names if (b := counterpart(a)) in names and a != b]
    pairs.sort(key=lambda pair: not any(word in pair[0].lower() for word in ANSWER_WORDS))
    return list(pairs[0]) if pairs else named


def _argilla_order(value: Any, fields: Row, candidates: list[str]) -> dict[str, int] | None:
    """Field → rank, of what an answer says about the candidates; None where it says nothing about them."""
    by_word = {_plain(name): name for name in candidates}
    if isinstance(value, list):
        ranked = [(one["value"], one.get("rank")) if isinstance(one, Mapping) else (one, None) for one in value]
        if len(ranked) < 2 or not all(_plain(name) in by_word for name, _ in ranked):
            return None
        ranks = {by_word[_plain(name)]: i + 1 if rank is None else int(rank) for i, (name, rank) in enumerate(ranked)}
    elif isinstance(value, str) and _plain(value) in by_word and len(candidates) > 1:
        ranks = {name: 1 if name == by_word[_plain(value)] else 2 for name in candidates}
    elif isinstance(value, str) and len(candidates) == 2 and (side := side_of_word(value)) is not None:
        ranks = dict.fromkeys(candidates, 1) if side == TIE else {candidates[side]: 1, candidates[1 - side]: 2}
    else:
        return None
    return ranks


def _plain(word: Any) -> str:
    return re.sub(r"[\W_]+", " ", str(word).casefold()).strip()


def _prompt_of(fields: Mapping[str, Any], without: Any, column: str) -> Any:
    """The field that is asked: named, or called like a prompt; "" where there is none."""
    if column and column in fields:
        return fields[column]
    for word in PROMPT_WORDS:
        for name, value in fields.items():
            if name not in without and isinstance(value, (str, list)) and word in re.split(r"[\W_]+", name.lower()):
                return value
    return ""


# Label Studio


def label_studio_rows(
    source: Any, dropped: Counter, *, prompt_column: str = "", first_column: str = "", second_column: str = ""
) -> Iterator[Row]:
    """Label Studio, exported as JSON, JSON-MIN or CSV: results of the tags `Pairwise` and `Ranker`.

    The annotator is who completed the annotation. Skipped annotations are left out. An export does not say which field
    is shown on the left: it is the field that the result's `to_name` gives first, or the first of a pair like text1
    and text2; else name them with --first_column and --second_column.
    """
    for row in stream_table(source):
        data, annotations = _label_studio_task(row)
        for annotation in annotations:
            if annotation.get("was_cancelled"):
                dropped["skipped annotations"] += 1
                continue
            head = {"annotator_id": _completed_by(annotation)}
            judged = 0
            for kind, value, names, tag in _results(annotation):
                if kind == "pairwise":
                    pair = (first_column, second_column) if first_column else _shown_pair(data, names)
                    judgement = _pairwise(value, data, pair, dropped)
                    used = pair
                else:
                    judgement, used = _ranker(value, data, dropped)
                judged += 1
                if judgement is not None:
                    further = {
                        k: v for k, v in data.items() if isinstance(v, (str, int, float)) and k not in (*used, tag)
                    }
                    prompt = _prompt_of(data, used, prompt_column)
                    yield further | head | {"prompt": prompt} | judgement
            if not judged:
                dropped["annotations without a comparison"] += 1


def _label_studio_task(row: Mapping[str, Any]) -> tuple[Row, list[Mapping[str, Any]]]:
    if isinstance(row.get("data"), Mapping):
        return dict(row["data"]), list(row.get("annotations") or row.get("completions") or ())
    known = {"id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement", "predictions"}
    return {k: v for k, v in row.items() if k not in known}, [row]


def _completed_by(annotation: Mapping[str, Any]) -> str:
    by = annotation.get("completed_by", annotation.get("annotator"))
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("id")
    if by is None:
        by = annotation.get("created_username")
    if by is None:
        raise ValueError(
            "Label Studio: an annotation does not say who completed it (completed_by); export it as JSON."
        )
    return str(by).strip()


def _results(annotation: Mapping[str, Any]) -> Iterator[tuple[str, Any, list[str], str]]:
    """(kind of tag, value, names of the tags that it is about, the tag's name) of each comparison."""
    if isinstance(annotation.get("result"), list):
        for result in annotation["result"]:
            if result.get("type") in ("pairwise", "ranker"):
                names = [name.strip() for name in str(result.get("to_name", "")).split(",")]
                yield result["type"], (result.get("value") or {}), names, str(result.get("from_name"))
        return
    for tag, value in annotation.items():  # JSON-MIN and CSV: the value under the name of its tag
        parsed = value
        if isinstance(value, str) and value[:1] in "{[":
            try:
                parsed = json.loads(value)
            except (ValueError, RecursionError):
                continue
        if isinstance(parsed, list) and len(parsed) == 1 and isinstance(parsed[0], Mapping):
            parsed = parsed[0]
        if isinstance(parsed, Mapping) and "selected" in parsed:
            yield "pairwise", parsed, [], tag
        elif isinstance(parsed, Mapping) and "ranker" in parsed:
            yield "ranker", parsed, [], tag
        elif isinstance(parsed, str) and parsed.strip().lower() in ("left", "right"):
            yield "pairwise", {"selected": parsed}, [], tag


def _shown_pair(data: Row, names: list[str]) -> tuple[str, str]:
    if len(names) == 2 and set(names) <= set(data):
        return names[0], names[1]
    pairs = [(a, b) for a in data if (b := counterpart(a)) in data and a != b and isinstance(data[a], str)]
    pairs = [pair for pair in pairs if not re.search(r"model|score|(^|_)id$", pair[0], re.I)]
    if not pairs:
        raise ValueError(
            f"Label Studio: the task's fields are {', '.join(map(repr, data))}, and nothing says which two were "
            "compared. Name them with --first_column (left) and --second_column (right)."
        )
    return pairs[0]


def _pairwise(value: Mapping[str, Any], data: Row, pair: tuple[str, str], dropped: Counter) -> Row | None:
    selected = plain_value(value.get("selected"))
    side = side_of_word(selected) if isinstance(selected, str) else None
    if side is None:
        raise ValueError(f"Label Studio: a Pairwise result selects {shorten(selected)}; left and right are known.")
    if side == TIE:
        dropped["ties"] += 1
        return None
    missing = [name for name in pair if not isinstance(data.get(name), (str, list))]
    if missing:
        raise ValueError(f"Label Studio: a task has no text in {missing[0]!r}; it has {', '.join(map(repr, data))}.")
    return {"chosen": data[pair[side]], "rejected": data[pair[1 - side]], "position": side}


def _ranker(value: Mapping[str, Any], data: Row, dropped: Counter) -> tuple[Row | None, tuple[str, ...]]:
    ranked = value.get("ranker", value)
    if isinstance(ranked, Mapping):
        if len(ranked) != 1:
            dropped["items picked into buckets, which are no order"] += 1
            return None, ()
        ranked = next(iter(ranked.values()))
    for name, cell in data.items():
        items = _list_of_cell(cell)
        if items and all(isinstance(item, Mapping) and "id" in item for item in items):
            text = {str(item["id"]): item.get("body") or item.get("html") or item.get("title") for item in items}
            texts = [text.get(str(one)) for one in ranked]
            if len(texts) > 1 and all(texts):
                return {"completions": texts}, (name,)
    dropped["rankings whose items are not in the task"] += 1
    return None, ()


def _list_of_cell(cell: Any) -> list[Any]:
    """A list, or the JSON of one, as CSV holds a task's list; nothing of anything else."""
    if isinstance(cell, str) and cell.lstrip()[:1] == "[":
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return []
    return cell if isinstance(cell, list) else []


# PrefLib


def preflib_rows(source: str | Path, dropped: Counter, *, bad_rows: str = "stop") -> Iterator[Row]:
    """PrefLib's orders (.soc, .soi, .toc, .toi), of today (`# ALTERNATIVE NAME 1: …`) and of before 2022.

    The ballots are anonymous: every voter is a person of one ballot, `voter_1` and so on. What a ballot does not
    name is not compared.
    """
    path = Path(source)
    text, _ = text_of(path)
    names, ballots, title = _preflib_parts(text, path.name)
    voter, bad = 0, {}
    orders = []
    for line, count, order in ballots:
        try:
            orders.append((count, _preflib_order(order, names)))
        except ValueError as error:
            bad[line] = str(error)
    if bad and (bad_rows == "stop" or not orders):
        faults = "; ".join(f"line {line}: {why}" for line, why in list(bad.items())[:3])
        more = f"; and {len(bad) - 3} more of {len(ballots)} lines" if len(bad) > 3 else ""
        raise ValueError(f"{path.name}, {faults}{more}. Mend them, or leave them out with --bad_rows drop.")
    if bad:
        dropped[f"lines that are no ballots (--bad_rows drop; {', '.join(map(str, list(bad)[:3]))})"] += len(bad)
    for count, items in orders:
        if len({rank for _, rank in items}) < 2:
            dropped["ballots that compare nothing"] += count
            voter += count
            continue
        ranked = {"completions": [names[n] for n, _ in items], "ranks": [rank for _, rank in items]}
        for _ in range(count):
            voter += 1
            yield {"annotator_id": f"voter_{voter}", "prompt": title} | ranked


def _preflib_order(order: str, names: Mapping[int, str]) -> list[tuple[int, int]]:
    """(alternative, rank from 1) of what a ballot names: `3,{1,2}`; ValueError says what is wrong with it."""
    items: list[tuple[int, int]] = []
    for rank, tier in enumerate(re.findall(r"\{[^}]*\}|[^,{}]+", order), start=1):
        for word in (part.strip() for part in tier.strip("{} ").split(",")):
            if not word:
                continue
            if not word.isdecimal():
                raise ValueError(f"{shorten(word)} is no number of an alternative")
            if int(word) not in names:
                raise ValueError(f"alternative {int(word)} has no name in the header")
            if int(word) in (number for number, _ in items):
                raise ValueError(f"alternative {int(word)} stands there twice")
            items.append((int(word), rank))
    return items


def _preflib_parts(text: str, name: str) -> tuple[dict[int, str], list[tuple[int, int, str]], str]:
    """Number → name, (line, voters, order) of each ballot, and the title."""
    names: dict[int, str] = {}
    ballots, title = [], ""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    is_old = not any(line.startswith("#") for _, line in lines)
    n_names = 0
    for at, (number, line) in enumerate(lines):
        if line.startswith("#"):
            if m := re.match(r"#\s*ALTERNATIVE NAME (\d+):\s*(.*)", line):
                names[int(m[1])] = m[2]
            elif m := re.match(r"#\s*TITLE:\s*(.*)", line):
                title = m[1]
        elif is_old and at == 0:
            n_names = int(line) if line.isdigit() else -1
        elif is_old and at <= n_names:
            key, _, value = line.partition(",")
            if not key.strip().isdecimal():
                raise ValueError(f"{name}, line {number}: {shorten(line)} is no alternative (number,name).")
            names[int(key)] = value.strip()
        elif is_old and at == n_names + 1:
            continue  # voters, votes, different orders
        elif m := re.fullmatch(r"(\d+)\s*[:,]\s*(.+)", line):
            ballots.append((number, int(m[1]), m[2]))
        else:
            raise ValueError(f"{name}, line {number}: {shorten(line)} is no ballot of PrefLib (voters: 1,2,{{3,4}}).")
    if not names or not ballots:
        raise ValueError(
            f"{name} holds no alternatives or no ballots; a file of PrefLib (.soc, .soi, .toc, .toi) is wanted."
        )
    return names, ballots, title
