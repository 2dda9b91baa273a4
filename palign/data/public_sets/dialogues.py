"""Readers of further public sets: Community Alignment, OASST, SHP, PersonalLLM, RewardBench 2.

A reader takes a source (file, rows, folder, hub name), a counter of what it leaves out, and options, and yields
rows as `Preferences.from_rows` takes them.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from palign.data.public_sets.tables import stream_table

__all__ = ["community_alignment_rows", "oasst_rows", "personal_llm_rows", "reward_bench_rows", "shp_rows"]

Row = dict[str, Any]
TURNS = ("first", "second", "third", "fourth")
END = "<|end_of_text|>"


def community_alignment_rows(source: Any, dropped: Counter) -> Iterator[Row]:
    """Community Alignment: in every turn a person chose the best of four answers; the row is best of M.

    The annotator is `annotator_id`; what is known of them (`annotator_…`) are groups. The prompt is the conversation
    up to that turn, with the answers that were chosen. A mark `<|end_of_text|>` at the end of an answer is taken off.
    """
    for row in stream_table(source):
        groups = {name: row[name] for name in row if name.startswith("annotator_") and name != "annotator_id"}
        head = {"annotator_id": row.get("annotator_id"), "conversation_id": row.get("conversation_id")} | groups
        head["language"] = row.get("assigned_lang")
        history: list[dict[str, str]] = []
        for turn in TURNS:
            prompt, best = row.get(f"{turn}_turn_prompt"), row.get(f"{turn}_turn_preferred_response")
            if not prompt or not best or prompt != prompt or best != best:
                break
            answers = {side: row.get(f"{turn}_turn_response_{side}") for side in "abcd"}
            answers = {
                side: text.removesuffix(END).rstrip() for side, text in answers.items() if isinstance(text, str)
            }
            chosen = str(best).strip().lower()[-1]
            if chosen not in answers:
                raise ValueError(f"Community Alignment: {best!r} names none of the answers {', '.join(answers)}.")
            texts = list(dict.fromkeys([answers[chosen], *answers.values()]))
            history = [*history, {"role": "user", "content": prompt}]
            if len(texts) < 2:
                dropped["turns with fewer than two different answers"] += 1
            else:
                completions = [[{"role": "assistant", "content": text}] for text in texts]
                yield head | {"prompt": history, "completions": completions, "n_ranked": 1, "turn": turn}
            history = [*history, {"role": "assistant", "content": answers[chosen]}]


def oasst_rows(source: Any, dropped: Counter) -> Iterator[Row]:
    """OpenAssistant conversations (OASST1, OASST2): replies to one message, ranked; rank 0 is best.

    A rank is what several volunteers agreed on and names none of them (`user_id` wrote the message): the annotator
    is one for all, `volunteers`.
    """
    messages = {row["message_id"]: row for row in stream_table(source)}
    replies: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in messages.values():
        if row.get("role") == "assistant" and row.get("parent_id") in messages:
            if row.get("rank") is None or row["rank"] != row["rank"]:
                dropped["replies without a rank"] += 1
            elif row.get("deleted"):
                dropped["deleted replies"] += 1
            else:
                replies[row["parent_id"]].append(row)
    for parent, ranked in replies.items():
        texts = {row["text"]: float(row["rank"]) for row in ranked}
        if len(set(texts.values())) < 2:
            dropped["messages with one ranked reply"] += 1
            continue
        prompt = []
        at, seen = messages.get(parent), set()
        while at is not None and at["message_id"] not in seen:
            seen.add(at["message_id"])
            role = "assistant" if at["role"] == "assistant" else "user"
            prompt.insert(0, {"role": role, "content": at["text"]})
            at = messages.get(at.get("parent_id"))
        completions = [[{"role": "assistant", "content": text}] for text in texts]
        yield {
            "annotator_id": "volunteers",
            "prompt": prompt,
            "completions": completions,
            "ranks": list(texts.values()),
            "language": ranked[0].get("lang"),
            "conversation_id": ranked[0].get("message_tree_id"),
        }


def shp_rows(source: Any, dropped: Counter) -> Iterator[Row]:
    """Stanford Human Preferences: `labels` is 1 where the first comment was preferred, 0 where the second was.

    Nobody in particular judged, but the voters of a subreddit: the annotator is the subreddit.
    """
    for row in stream_table(source):
        label = str(row["labels"]).removesuffix(".0")
        if label not in ("0", "1"):
            raise ValueError(f"SHP: labels is {row['labels']!r}; 1 (A was preferred) and 0 (B was) are known.")
        texts = [row["human_ref_A"], row["human_ref_B"]]
        if texts[0] == texts[1]:
            dropped["pairs of equal comments"] += 1
            continue
        chosen, rejected = texts if label == "1" else texts[::-1]
        place = re.sub(r"_(train|validation|test)$", "", str(row.get("domain") or "unknown"))
        yield {
            "annotator_id": f"r/{place}",
            "prompt": row["history"],
            "chosen": chosen,
            "rejected": rejected,
            "post_id": row.get("post_id"),
            "position": 0 if label == "1" else 1,
        }


def personal_llm_rows(source: Any, dropped: Counter) -> Iterator[Row]:
    """PersonalLLM: eight answers to a prompt, scored by ten reward models; each of them is a simulated person."""
    for row in stream_table(source):
        answers = {m[1]: row[name] for name in row if (m := re.fullmatch(r"response_(\d+)", name)) and row[name]}
        people = sorted({m[1] for name in row if (m := re.fullmatch(r"response_\d+_(\w+)", name))} - {"model"})
        for person in people:
            scores = {n: row.get(f"response_{n}_{person}") for n in answers}
            given = {answers[n]: float(s) for n, s in scores.items() if isinstance(s, (int, float)) and s == s}
            if len(set(given.values())) < 2:
                dropped["prompts with fewer than two scores of a model"] += 1
                continue
            yield {
                "annotator_id": person,
                "prompt": row["prompt"],
                "completions": list(given),
                "ratings": list(given.values()),
                "subset": row.get("subset"),
            }


def reward_bench_rows(source: Any, dropped: Counter) -> Iterator[Row]:
    """RewardBench 2: each of the `chosen` answers over each of the `rejected` ones, several right answers unordered.

    Nobody in particular judged: the annotator is `reward-bench-2`, the subset a group.
    """
    for row in stream_table(source):
        chosen, rejected = list(row["chosen"]), list(row["rejected"])
        rejected = [text for text in dict.fromkeys(rejected) if text not in chosen]
        chosen = list(dict.fromkeys(chosen))
        if not chosen or not rejected:
            dropped["rows without a right or a wrong answer"] += 1
            continue
        ratings = [1] * len(chosen) + [0] * len(rejected)
        yield {
            "annotator_id": "reward-bench-2",
            "prompt": row["prompt"],
            "completions": [*chosen, *rejected],
            "ratings": ratings,
            "subset": row.get("subset"),
        }
