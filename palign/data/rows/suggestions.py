"""Columns that are not palign's: what do they look like, and which command line would read them?"""

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from palign.data.rows.table import Table
from palign.data.rows.winners import counterpart, plain_value, side_of_word

__all__ = ["PERSON_WORDS", "names_winners", "proposal", "suggested_columns", "winner_columns"]

PERSON_WORDS = (
    "worker", "user", "rater", "annotator", "labeler", "labeller", "participant", "person", "judge", "voter",
    "evaluator", "reviewer", "subject", "respondent", "who", "member", "coder", "assessor", "employee", "colleague",
    "student", "expert", "juror", "panelist",
)  # fmt: skip
PROMPT_WORDS = (
    "prompt",
    "question",
    "query",
    "instruction",
    "input",
    "context",
    "post",
    "request",
    "task",
    "ask",
    "q",
)
ANSWER_WORDS = (
    "answer", "response", "completion", "output", "reply", "text", "summary", "conversation", "candidate", "option",
    "generation", "message", "left", "right", "first", "second", "assistant", "a", "b",
)  # fmt: skip
NO_TEXT = re.compile(r"model|score|rating|rank|(^|_)id$|length|len$|tokens|author|name", re.I)
PAIRS = (
    ("chosen", "rejected"), ("better", "worse"), ("preferred", "dispreferred"), ("winner_text", "loser_text"),
    ("good", "bad"), ("best", "worst"), ("positive", "negative"), ("accepted", "rejected"), ("win", "lose"),
    ("preferred", "rejected"), ("preferred", "nonpreferred"), ("y_w", "y_l"), ("pos", "neg"),
)  # fmt: skip
STRONG = re.compile(r"winner|preferred|preference|(^|_)pref($|_)|verdict|(^|_)better($|_)|which|(^|_)best($|_)", re.I)
WEAK = re.compile(r"label|choice|chosen|selected|vote|judg|decision|result|outcome|answer$|pick|win", re.I)
ITEM_WORDS = (
    "item",
    "statement",
    "comment",
    "comment-id",
    "comment_id",
    "text",
    "answer",
    "response",
    "option",
    "movie",
)
VOTE_WORDS = ("vote", "rating", "score", "stars", "grade", "likert", "rank")
N_LOOKED_AT = 500
WHO_JUDGED = "WHO_JUDGED"  # stands in a proposed command line where no column looks like people
DEFAULTS = {
    "annotator_column": "annotator_id",
    "prompt_column": "prompt",
    "chosen_column": "chosen",
    "rejected_column": "rejected",
    "completions_column": "completions",
}


def names_winners(name: str, values: Iterable[Any]) -> bool:
    """Whether a column looks as if it named which of two answers won: by its name and by what stands in it."""
    strong, weak = STRONG.search(name) is not None, WEAK.search(name) is not None
    if not (strong or weak) or re.search(r"position|side|_text$|reason|comment|model|column", name, re.I):
        return False
    cells = [v for v in (plain_value(value) for value in values) if v is not None][: N_LOOKED_AT * 20]
    distinct = set(cells)
    if len(distinct) < 2:
        return False
    sides = {side_of_word(value) for value in distinct if isinstance(value, str)}
    if {0, 1} <= sides:
        return sum(isinstance(v, str) and side_of_word(v) is not None for v in cells) > 0.5 * len(cells)
    numbers = {value for value in distinct if isinstance(value, float)}
    return strong and (
        numbers in ({0.0, 1.0}, {1.0, 2.0}, {0.0, 0.5, 1.0}) or (bool(numbers) and min(numbers) < 0 < max(numbers))
    )


def winner_columns(columns: Sequence[str], values_of: Any) -> list[str]:
    """Those of the columns that look as if they named winners; `values_of(name)` gives what stands in one."""
    return [name for name in columns if names_winners(name, values_of(name))]


def proposal(table: Table, names: Any) -> str:
    """ " The columns look like …; the whole command line is: …", or nothing where they look like nothing known."""
    kind, mapping = suggested_columns(table)
    if kind == "" or any(
        getattr(names, option, None) == column for option, column in mapping.items() if option == "first_column"
    ):
        return ""
    given = {option: getattr(names, option, None) for option in ("annotator_column", "prompt_column")}
    there = table.columns()
    mapping = mapping | {option: column for option, column in given.items() if column in there}
    mapping = {option: column for option, column in mapping.items() if column != DEFAULTS.get(option)}
    if "annotator_column" not in mapping and "annotator_id" not in there:
        mapping = {"annotator_column": WHO_JUDGED} | mapping
    options = " ".join(f"--{option} {shlex.quote(column)}" for option, column in mapping.items())
    file = shlex.quote(table.path or table.name or "FILE")
    return (
        f" The columns look like {kind}; the whole command line is: palign guard {file} {options} (and the same "
        f"options behind --dataset_name {file} for every recipe)."
    )


def suggested_columns(table: Table) -> tuple[str, dict[str, str]]:
    """What the columns look like, and option → column for all that are not called as palign calls them."""
    columns = table.columns()
    sample = [table.rows[i] for i in range(min(len(table), N_LOOKED_AT))]
    if not all(hasattr(row, "get") for row in sample):
        return "", {}
    mapping = {"annotator_column": _first(columns, PERSON_WORDS, {"annotator_id"})}
    mapping["prompt_column"] = _first(columns, PROMPT_WORDS, {"prompt"})
    taken = set(filter(None, mapping.values()))
    winners = [name for name in columns if names_winners(name, (row.get(name) for row in sample))]
    one_hot = next((c[: -len("_tie")] for c in columns if c.endswith("_tie") and c.lower().startswith("win")), None)
    pairs = [(a, b) for a in columns if (b := counterpart(a)) in columns and a != b and not NO_TEXT.search(a)]
    pairs = [(a, b) for a, b in pairs if {a, b}.isdisjoint({*taken, *winners}) and _are_texts(sample, a, b)]
    pairs.sort(key=lambda pair: not any(word in pair[0].lower() for word in ANSWER_WORDS[:8]))
    judged = [(a, b) for a, b in PAIRS if {a, b} <= {c.lower() for c in columns}]
    lowered = {column.lower(): column for column in columns}
    if pairs and (winners or one_hot):
        kind = "two answers and a winner"
        mapping |= {
            "first_column": pairs[0][0],
            "second_column": pairs[0][1],
            "winner_column": (winners or [one_hot])[0],
        }
    elif judged:
        kind = "pairs of a better and a worse answer"
        mapping |= {"chosen_column": lowered[judged[0][0]], "rejected_column": lowered[judged[0][1]]}
    else:
        kind, more = _lists_or_votes(columns, sample, taken)
        mapping |= more
    mapping = {option: column for option, column in mapping.items() if column and column != DEFAULTS.get(option)}
    return (kind, mapping) if kind and mapping else ("", {})


def _lists_or_votes(columns: Sequence[str], sample: Sequence[Any], taken: set[str]) -> tuple[str, dict[str, Any]]:
    """Several answers with scores, or a table of votes."""
    free = [column for column in columns if column not in taken]
    lists = [c for c in free if any(isinstance(row.get(c), (list, tuple)) and len(row[c]) > 1 for row in sample)]
    texts = [c for c in lists if all(isinstance(x, (str, dict, list)) for row in sample for x in row.get(c) or ())]
    numbers = [c for c in lists if c not in texts]
    if texts and not any(isinstance(x, dict) and "role" in x for x in sample[0].get(texts[0]) or ()):
        return "several answers in a list", {
            "completions_column": texts[0],
            ("ranks_column" if numbers and "rank" in numbers[0].lower() else "ratings_column"): (numbers or [None])[0],
        }
    vote = next((c for c in free if any(c.lower().startswith(word) for word in VOTE_WORDS)), None)
    item = next((c for c in free if c != vote and any(c.lower().startswith(word) for word in ITEM_WORDS)), None)
    if vote and item:
        return "votes, one a row", {"item_column": item, "vote_column": vote}
    if len([column for column in free if _are_votes(sample, column)]) > max(2, len(free) // 2):
        return "a matrix of votes, ITEMS.csv giving each column's text", {"items_name": "ITEMS.csv"}
    return "", {}


def _are_votes(sample: Sequence[Any], column: str) -> bool:
    """Whether a column holds a few small numbers and nothing else."""
    cells = {v for v in (plain_value(row.get(column)) for row in sample) if v is not None}
    return 0 < len(cells) <= 11 and all(isinstance(v, float) and -10 <= v <= 10 for v in cells)


def _first(columns: Sequence[str], keywords: Sequence[str], exact: set[str]) -> str | None:
    here = next((column for column in columns if column in exact), None)
    for word in () if here else keywords:
        parts = [
            c
            for c in columns
            if word in re.split(r"[_\W]+", c.lower()) or (len(word) > 3 and c.lower().startswith(word))
        ]
        if parts:
            return parts[0]
    return here


def _are_texts(sample: Sequence[Any], first: str, second: str) -> bool:
    cells = [row.get(name) for row in sample[:100] for name in (first, second)]
    there = [value for value in cells if value is not None and value == value]
    return bool(there) and all(isinstance(value, (str, list, tuple)) or hasattr(value, "tolist") for value in there)
