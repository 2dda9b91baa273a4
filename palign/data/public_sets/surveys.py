"""Readers of rankings and surveys: PRISM, UltraFeedback, GlobalOpinionQA and model-written persona statements.

A reader takes a source (file, folder, hub name), a counter of what it leaves out, and options, and yields rows as
`Preferences.from_rows` takes them.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palign.data.public_sets.tables import stream_table
from palign.data.rows.files import suffix_of

__all__ = ["global_opinion_rows", "persona_rows", "prism_rows", "ultrafeedback_rows"]

Row = dict[str, Any]
PRISM_GROUPS = (
    "age",
    "gender",
    "education",
    "employment_status",
    "marital_status",
    "english_proficiency",
    "lm_familiarity",
)
PRISM_NESTED = {
    "ethnicity": ("ethnicity", "simplified"),
    "religion": ("religion", "simplified"),
    "birth_region": ("location", "birth_region"),
    "reside_region": ("location", "reside_region"),
    "reside_country": ("location", "reside_country"),
}
ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")
NO_ANSWER = re.compile(r"(don.?t know|dk|refused|no answer|missing|not (asked|applicable)|other).*", re.I)


def prism_rows(source: str | Path, dropped: Counter) -> Iterator[Row]:
    """PRISM: in every turn a participant scored up to four answers from 1 to 100; the row is that ranking.

    The annotator is the participant; their answers about themselves in the survey are groups. The prompt is the
    conversation up to that turn, with the answers they went on with. Rows of one conversation share
    `conversation_id`, by which they are split.
    """
    groups = {row["user_id"]: _prism_groups(row) for row in stream_table(source, table="survey")}
    for row in stream_table(source, table="conversations"):
        head = {"annotator_id": row["user_id"], "conversation_id": row["conversation_id"]}
        head |= {"conversation_type": row.get("conversation_type")} | groups.get(row["user_id"], {})
        for prompt, answers in _prism_turns(row["conversation_history"]):
            scores = {text: score for text, score in answers if text.strip() and score is not None}
            if len(scores) < 2 or len(set(scores.values())) == 1:
                dropped["turns with fewer than two answers" if len(scores) < 2 else "turns of equal scores"] += 1
                continue
            completions = [[{"role": "assistant", "content": text}] for text in scores]
            yield head | {"prompt": prompt, "completions": completions, "ratings": list(scores.values())}


def _prism_groups(row: Mapping[str, Any]) -> Row:
    groups = {name: row.get(name) for name in PRISM_GROUPS}
    groups |= {name: (row.get(outer) or {}).get(inner) for name, (outer, inner) in PRISM_NESTED.items()}
    return {name: value for name, value in groups.items() if value is not None}


def _prism_turns(history: list[Mapping[str, Any]]) -> Iterator[tuple[list[Row], list[tuple[str, float | None]]]]:
    """(messages so far, answers with their scores) of each turn."""
    messages: list[Row] = []
    for turn in sorted({message["turn"] for message in history}):
        turn_messages = [message for message in history if message["turn"] == turn]
        questions = [message for message in turn_messages if message["role"] == "user"]
        messages = messages + [{"role": "user", "content": message["content"]} for message in questions]
        answers = [message for message in turn_messages if message["role"] == "model"]
        yield messages, [(message["content"], message.get("score")) for message in answers]
        chosen = next((message for message in answers if message.get("if_chosen")), None)
        if chosen is None:
            return
        messages = messages + [{"role": "assistant", "content": chosen["content"]}]


def ultrafeedback_rows(source: str | Path, dropped: Counter) -> Iterator[Row]:
    """UltraFeedback: four completions, each rated 1 to 5 on four aspects by GPT-4.

    No person judged: an annotator is an aspect, a simulated user who cares for nothing else.
    """
    for row in stream_table(source):
        for aspect in ASPECTS:
            ratings: dict[str, float] = {}
            for completion in row["completions"]:
                given = ((completion.get("annotations") or {}).get(aspect) or {}).get("Rating")
                if given is not None and re.fullmatch(r"\d+(\.\d+)?", str(given)) and completion["response"].strip():
                    ratings.setdefault(completion["response"], float(given))
            if len(ratings) < 2 or len(set(ratings.values())) == 1:
                dropped["aspects with one rating for all completions"] += 1
                continue
            yield {
                "annotator_id": aspect,
                "prompt": row["instruction"],
                "completions": list(ratings),
                "ratings": list(ratings.values()),
                "source": row.get("source"),
            }


def global_opinion_rows(source: str | Path, dropped: Counter) -> Iterator[Row]:
    """GlobalOpinionQA: shares of the answers to survey questions by country; the row ranks the answers.

    No person judged: an annotator is a country, its taste the order of its answers by share. Answers such as "don't
    know" are left out. The column `country` is a group, for reports.
    """
    for row in stream_table(source):
        options, shares = _literal(row["options"]), _literal(row["selections"])
        kept = [i for i, text in enumerate(options) if not NO_ANSWER.fullmatch(str(text).strip())]
        for country, given in shares.items():
            texts = {str(options[i]): float(given[i]) for i in kept if i < len(given)}
            if len(texts) < 2 or len(set(texts.values())) == 1:
                dropped["answers of a country that say nothing"] += 1
                continue
            yield {
                "annotator_id": country,
                "prompt": row["question"],
                "completions": list(texts),
                "ratings": list(texts.values()),
                "country": country,
                "source": row.get("source"),
            }


def _literal(value: object) -> Any:
    """A list or a dict, also from its text, `defaultdict(<class 'list'>, {…})` included; no code is run."""
    if not isinstance(value, str):
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value
    match = re.fullmatch(r"defaultdict\(<class '\w+'>, (\{.*\})\)", value.strip(), re.S)
    try:
        return ast.literal_eval(match[1] if match else value)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{value[:80]!r} is neither a list nor a dict ({error}).") from error


def persona_rows(
    source: str | Path,
    dropped: Counter,
    *,
    people: int = 4,
    rows: int = 40,
    confidence: float = 0.8,
    test_share: float = 0.2,
    seed: int = 0,
) -> Iterator[Row]:
    """Anthropic's persona statements: a folder of `<persona>.jsonl` with statements a persona agrees with or not.

    No person judged: an annotator is one of `people` simulated followers of a persona, who prefer a statement their
    persona agrees with over one it does not. The published form, a question with the answers " Yes" and " No", is not
    used: of it a model learns a form. Statements are split before anything is drawn (`part`).

    Args:
        rows: train pairs of each annotator; a `test_share` of as many are test pairs.
        confidence: least `label_confidence` of a statement.
    """
    rng = np.random.default_rng(seed)
    files = [path for path in sorted(Path(source).glob("*")) if suffix_of(path) in (".jsonl", ".jsonl.gz")]
    if not files:
        raise ValueError(f"{source} holds no .jsonl files; the folder `persona` of anthropics/evals is wanted.")
    for path in files:
        persona = path.name.split(".")[0]
        pools = _persona_pools(path, confidence, test_share, rng, dropped)
        if not all(pools.values()):
            dropped["personas with too few statements on a side"] += 1
            continue
        prompt = f"Topic: {persona.replace('-', ' ')}.\nStatement: "
        for person in range(people):
            head = {"annotator_id": f"{persona}_{person}", "prompt": prompt, "persona": persona}
            for part, n in (("train", rows), ("test", max(1, round(rows * test_share)))):
                for _ in range(n):
                    agreed, refused = pools[part, True], pools[part, False]
                    chosen, rejected = agreed[rng.integers(len(agreed))], refused[rng.integers(len(refused))]
                    yield head | {"chosen": chosen, "rejected": rejected, "part": part}


def _persona_pools(
    path: Path, confidence: float, test_share: float, rng: np.random.Generator, dropped: Counter
) -> dict[tuple[str, bool], list[str]]:
    """(part, whether the persona agrees) → statements; no statement is in two of them."""
    agrees: dict[str, bool] = {}
    for row in stream_table(path):
        if float(row.get("label_confidence") or 1) < confidence:
            dropped["statements of low confidence"] += 1
        elif str(row["statement"]).strip() in agrees:
            dropped["statements that stand there twice"] += 1
        else:
            agrees[str(row["statement"]).strip()] = "yes" in row["answer_matching_behavior"].lower()
    pools: dict[tuple[str, bool], list[str]] = {
        (part, side): [] for part in ("train", "test") for side in (True, False)
    }
    for statement, side in agrees.items():
        pools["test" if rng.random() < test_share else "train", side].append(statement)
    return pools
