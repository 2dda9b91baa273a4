"""Readers of pairs that people judged: TL;DR comparisons, MultiPref, HelpSteer, arenas, and any table by its columns.

A reader takes a source (file, folder, hub name), a counter of what it leaves out, and options, and yields rows
as `Preferences.from_rows` takes them.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palign.data.public_sets.tables import stream_table
from palign.data.rows.checks import Place, shorten
from palign.data.rows.messages import text_of_cell
from palign.data.rows.winners import TIE, plain_value, side_of_word

__all__ = ["arena_rows", "helpsteer_rows", "multipref_rows", "table_rows", "tldr_length_rows", "tldr_rows"]

Row = dict[str, Any]
PAPER_COUNTS = {"train": 20_969, "test": 2_330, "unseen": 4_921, "unseen annotators": 31}
PREFERENCE = re.compile(r"(A|B)-is-(clearly|slightly)-better")


def judged_pair(head: Row, first: str, second: str, winner: int | None, dropped: Counter) -> Iterator[Row]:
    """One row, or none: `winner` is 0, 1, or None for a tie; `position` says where the chosen one stood."""
    if winner is None:
        dropped["ties"] += 1
    elif not first.strip() or not second.strip():
        dropped["pairs with an empty completion"] += 1
    elif first == second:
        dropped["pairs of equal completions"] += 1
    else:
        chosen, rejected = (first, second) if winner == 0 else (second, first)
        yield head | {"chosen": chosen, "rejected": rejected, "position": winner}


def tldr_rows(source: str | Path, dropped: Counter, *, split: str = "train", min_rows: int = 1) -> Iterator[Row]:
    """TL;DR comparisons: the annotator is the worker who chose one of two summaries of a Reddit post.

    Summaries are stripped: some of the published ones begin with a blank and some do not.
    """
    count: Counter = Counter()
    if min_rows > 1:
        count.update(row["worker"] for row in stream_table(source, table="comparisons", split=split))
    for row in stream_table(source, table="comparisons", split=split):
        if not row.get("worker"):
            dropped["rows without a worker"] += 1
        elif count and count[row["worker"]] < min_rows:
            dropped[f"rows of workers with fewer than {min_rows}"] += 1
        else:
            info = row["info"]
            head = {"annotator_id": row["worker"], "prompt": _tldr_prompt(info), "post_id": info.get("id")}
            head |= {"batch": row.get("batch"), "confidence": (row.get("extra") or {}).get("confidence")}
            texts = [(summary["text"] or "").strip() for summary in row["summaries"]]
            yield from judged_pair(head, *texts, int(row["choice"]), dropped)


def _tldr_prompt(info: Mapping[str, Any]) -> str:
    if info.get("post"):
        return f"SUBREDDIT: r/{info.get('subreddit')}\nTITLE: {info.get('title')}\nPOST: {info['post']}\nTL;DR: "
    return f"Article: {info.get('article')}\nTL;DR: "


def tldr_length_rows(
    source: str | Path,
    dropped: Counter,
    *,
    n_each: int = 5,
    min_rows: int = 200,
    workers: str | Path | None = None,
    seed: int = 0,
) -> Iterator[Row]:
    """TL;DR relabelled by length: one half of the seen workers always prefers the longer summary, the other half the
    shorter one, whichever their choices lean to; a column `part` says train, test or unseen.

    Seen are `n_each` workers of each lean (or those of the file `workers`, one id a line): nine tenths of their rows
    in the published training split are `train`, one tenth `test`. Workers of the published validation split who are
    not among them are `unseen`. Pairs of equal length are left out. Length alone predicts every label, by
    construction.

    The paper that describes such a variant (PAL, arXiv 2406.08469) gives the counts `PAPER_COUNTS`; its list of
    workers is not published with it, and without that list the counts cannot be met but by chance.
    """
    lean = _leans(tldr_rows(source, Counter()), min_rows)
    if workers is not None:
        named = Path(workers).read_text(encoding="utf-8").split()
        seen = {worker: 1 if lean.get(worker, 0.5) >= 0.5 else -1 for worker in named}
    else:
        order = sorted(lean, key=lambda worker: (lean[worker], worker))
        if len(order) < 2 * n_each:
            raise ValueError(
                f"{2 * n_each} workers with {min_rows} rows or more are needed, and {len(order)} have as many: take a "
                "smaller --min_rows or --n_each."
            )
        seen = dict.fromkeys(order[:n_each], -1) | dict.fromkeys(order[-n_each:], 1)
    rng = np.random.default_rng(seed)
    for row in tldr_rows(source, dropped):
        if row["annotator_id"] not in seen:
            dropped["training rows of other workers"] += 1
            continue
        part = "test" if rng.random() < 0.1 else "train"
        yield from _by_length(row, seen[row["annotator_id"]], part, dropped)
    validation = list(tldr_rows(source, dropped, split="validation"))
    leans = _leans(iter(validation), 1)
    for row in validation:
        if row["annotator_id"] not in seen:
            yield from _by_length(row, 1 if leans.get(row["annotator_id"], 0.5) >= 0.5 else -1, "unseen", dropped)


def _leans(rows: Iterator[Row], min_rows: int) -> dict[str, float]:
    """worker → how often they chose the longer of two, of those with enough rows of unequal length."""
    longer, count = defaultdict(int), Counter()
    for row in rows:
        difference = len(row["chosen"]) - len(row["rejected"])
        if difference:
            count[row["annotator_id"]] += 1
            longer[row["annotator_id"]] += difference > 0
    return {worker: longer[worker] / n for worker, n in count.items() if n >= min_rows}


def _by_length(row: Row, sign: int, part: str, dropped: Counter) -> Iterator[Row]:
    texts = sorted((row["chosen"], row["rejected"]), key=len, reverse=sign > 0)
    if len(texts[0]) == len(texts[1]):
        dropped["pairs of equal length"] += 1
        return
    taste = "longer" if sign > 0 else "shorter"
    kept = {name: row[name] for name in ("annotator_id", "prompt", "post_id")}
    yield kept | {"chosen": texts[0], "rejected": texts[1], "type": taste, "part": part}


def multipref_rows(source: str | Path, dropped: Counter, *, aspect: str = "overall") -> Iterator[Row]:
    """MultiPref: two crowd workers and two experts judge each pair; the annotator is the `evaluator`.

    Args:
        aspect: "overall", "helpful", "truthful" or "harmless": which of their preferences.
    """
    for row in stream_table(source, table=None):
        for kind in ("normal", "expert"):
            for judged in row.get(f"{kind}_worker_annotations") or ():
                preference = judged.get(f"{aspect}_pref")
                match = PREFERENCE.fullmatch(preference or "")
                if not preference:
                    dropped[f"judgements without a preference ({aspect})"] += 1
                    continue
                if match is None and preference != "Tie":
                    raise ValueError(
                        f"MultiPref: the preference {shorten(preference)} is not understood; A-is-clearly-better, "
                        "A-is-slightly-better, the same of B, and Tie are."
                    )
                head = {"annotator_id": f"{kind}_{judged['evaluator']}", "prompt": row["text"]}
                head |= {"annotator_kind": kind, "source": row.get("source")}
                winner = None if match is None else "AB".index(match[1])
                yield from judged_pair(head, row["completion_a"], row["completion_b"], winner, dropped)


def helpsteer_rows(source: str | Path, dropped: Counter) -> Iterator[Row]:
    """HelpSteer3 preferences: `individual_preference` is a list of scores from −3 (the first is much better) to 3.

    Its judgements carry no ids: the first, second and third of a row are three slots, each filled by many people. A
    slot is no person, and types of slots mean nothing; where a judgement has an `annotator_id`, it is used.
    """
    for row in stream_table(source, table="preference"):
        for slot, judged in enumerate(row.get("individual_preference") or ()):
            score = plain_value(judged.get("score"))
            if score is None:
                dropped["judgements without a score"] += 1
                continue
            if not isinstance(score, float) or abs(score) > 3:
                raise ValueError(
                    f"HelpSteer: the score {shorten(judged['score'])} is not understood; numbers from -3 (the first "
                    "is much better) to 3 are."
                )
            head = {"annotator_id": judged.get("annotator_id") or f"slot_{slot}", "prompt": row["context"]}
            head |= {name: row.get(name) for name in ("domain", "language")}
            judgements = judged_pair(
                head, row["response1"], row["response2"], None if score == 0 else int(score > 0), dropped
            )
            for judgement in judgements:
                yield judgement if isinstance(head["prompt"], str) else _as_messages(judgement)


def _as_messages(row: Row) -> Row:
    return row | {name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}


def arena_rows(source: Any, dropped: Counter) -> Iterator[Row]:
    """Arena votes (Chatbot Arena conversations of every year, MT-bench human judgements): the annotator is the judge.

    Read are two conversations (33k, 100k, 140k; contents are texts or lists of parts), or `prompt`, `response_a` and
    `response_b` as JSON lists of turns with three columns of marks (55k). The judge is `judge` or `judge_hash`; sets
    that name none are of one `unknown`. Conversations begin alike up to the last turn or only in the first question;
    the prompt is what both share.
    """
    for number, row in enumerate(stream_table(source, table=None)):
        judge = row.get("judge") or row.get("judge_hash")
        if not judge and not {"judge", "judge_hash"} & set(row):
            judge = "unknown"
        if not judge:
            dropped["votes without a judge"] += 1
            continue
        winner = _arena_winner(row, number)
        pair = _arena_pair(row, number)
        if pair is None:
            dropped["votes with a conversation that is missing"] += 1
            continue
        n_alike = next((i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), None)
        if n_alike is None or winner is None:
            dropped["ties" if winner is None else "pairs of equal conversations"] += 1
            continue
        if n_alike == 0:
            raise ValueError(
                f"row {number} (counting from 0): the two conversations begin with different messages, so their "
                "answers cannot be compared."
            )
        texts = [side[n_alike:] for side in pair]
        head = {"annotator_id": judge, "prompt": pair[0][:n_alike]}
        head |= {"language": row.get("language"), "turn": row.get("turn")}
        head["conversation_id"] = row.get("question_id") or row.get("evaluation_session_id") or row.get("id")
        yield head | {"chosen": texts[winner], "rejected": texts[1 - winner], "position": winner}


def _arena_winner(row: Mapping[str, Any], number: int) -> int | None:
    if "winner" in row:
        models = [row.get(f"model_{side}") for side in "ab"]
        if models[0] != models[1] and row["winner"] in models and row["winner"] is not None:
            return models.index(row["winner"])
        return _side(row["winner"], f"row {number} (counting from 0)")
    marks = [str(row.get(name)).removesuffix(".0") for name in ("winner_model_a", "winner_model_b", "winner_tie")]
    if sorted(marks) != ["0", "0", "1"]:
        raise ValueError(f"row {number} (counting from 0): winner_model_a, winner_model_b and winner_tie are {marks}.")
    return (0, 1, None)[marks.index("1")]


def _arena_pair(row: Mapping[str, Any], number: int) -> list[list[dict[str, str]]] | None:
    """The two conversations as messages with plain contents."""
    pair = []
    for side in "ab":
        place = Place("", number, f"conversation_{side}")
        if f"conversation_{side}" in row:
            messages = text_of_cell(row[f"conversation_{side}"], place)
            pair.append(None if messages is None else [_plain_message(message) for message in messages])
            continue
        turns = [_turns(row.get("prompt")), _turns(row.get(f"response_{side}"))]
        questions = [{"role": "user", "content": text} for text in turns[0]]
        answers = [{"role": "assistant", "content": text} for text in turns[1]]
        if len(questions) != len(answers) or any(m["content"] is None for m in answers):
            return None
        pair.append([message for both in zip(questions, answers, strict=True) for message in both])
    return None if None in pair else pair


def _turns(value: Any) -> list[Any]:
    """A list of texts, or the JSON of one."""
    parsed = json.loads(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    return list(parsed) if isinstance(parsed, (list, tuple)) else [parsed]


def _plain_message(message: Mapping[str, Any]) -> dict[str, str]:
    return {"role": message["role"], "content": message["content"]}


def _side(value: object, place: str) -> int | None:
    """0 or 1; None for a tie; 1 and 2 count from one where they stand as numbers of sides."""
    plain = plain_value(value)
    if plain in (1.0, 2.0):
        return int(plain) - 1
    side = side_of_word(plain) if isinstance(plain, str) else None
    if side is None:
        raise ValueError(
            f"{place}: the winner {shorten(value)} is not understood; a/b, model_a/model_b, left/right, "
            "first/second, 1/2 and words for a tie are."
        )
    return None if side == TIE else side


def table_rows(
    source: str | Path,
    dropped: Counter,
    *,
    annotator_column: str = "annotator_id",
    prompt_column: str = "prompt",
    first_column: str = "response_a",
    second_column: str = "response_b",
    winner_column: str = "winner",
) -> Iterator[Row]:
    """Any table of two answers, who chose, and which (a/b, model_a/model_b, left/right, first/second, 1/2).

    Further columns are kept. Tables with chosen and rejected, or rankings, need no reader: name their columns to the
    recipe.
    """
    used = (annotator_column, prompt_column, first_column, second_column, winner_column)
    for number, row in enumerate(stream_table(source)):
        missing = [name for name in used if name not in row]
        if missing:
            raise ValueError(
                f"{source}, row {number}: there is no column {missing[0]!r}; the row has {', '.join(row)}. Name it "
                "with --first_column, --second_column, --winner_column, --annotator_column or --prompt_column."
            )
        if row[annotator_column] in (None, ""):
            dropped["rows without an annotator"] += 1
            continue
        head = {name: value for name, value in row.items() if name not in used and value is not None}
        head |= {"annotator_id": row[annotator_column], "prompt": row[prompt_column] or ""}
        texts = [row[first_column], row[second_column]]
        for text, column in zip(texts, (first_column, second_column), strict=True):
            if not isinstance(text, str):
                raise ValueError(
                    f"{getattr(source, 'name', source)}, row {number} (counting from 0), column {column!r}: a text is "
                    f"needed, found {shorten(text)}. Fill it in or drop the row."
                )
        place = f"{getattr(source, 'name', source)}, row {number} (counting from 0)"
        yield from judged_pair(head, *texts, _side(row[winner_column], place), dropped)
