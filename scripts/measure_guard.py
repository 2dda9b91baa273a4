"""How often the guard cries wolf, and how often it sees what was planted.

    python scripts/measure_guard.py [--n_sets 200] [--n_planted 20] [--seed 0]

Clean sets are drawn in five kinds (templated sentences as pairs and as rankings, made-up words as pairs and as
ratings, vectors), 30 to 100,000 rows, 4 to several hundred people of two to four tastes, with an evaluation split of
other prompts. A false alarm is a clean set of which any check says look or stop. Then one fault at a time is planted
into fresh clean sets of a few thousand rows; caught is a set of which the check named beside the fault speaks.
"""

import argparse
import logging
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from palign.data.guard import guard
from palign.data.guards.form import check_raw_form
from palign.data.preferences import Preferences
from palign.data.splits import split_by_row
from palign.data.synthetic import make_gaussian_population
from palign.data.synthetic_text import make_prompts, make_text_population, preference_rows, ranking_rows

KINDS = ("sentences", "sentence rankings", "words", "word ratings", "vectors")
Rows = list[dict[str, Any]]


@dataclass
class CleanSet:
    """`train` and `evaluation` rows; `vectors` where rows name them; `kind` and `n_rows` of train."""

    kind: str
    n_rows: int
    train: Any
    evaluation: Any
    vectors: np.ndarray | None = None

    def findings(self) -> list[Any]:
        """What the guard says of it."""
        parts = {"train": self.train, "eval": self.evaluation}
        if self.vectors is not None:
            return guard(parts, embeddings=self.vectors)
        raw = [check_raw_form(self.train)]
        return raw + guard({name: Preferences.from_rows(rows) for name, rows in parts.items()})


def draw_clean(seed: int, *, kind: str | None = None, n_rows: int | None = None) -> CleanSet:
    """One clean set; kind and size (30 … 20,000, log-uniform; every fiftieth 100,000) by chance if not given."""
    rng = np.random.default_rng([seed, 7])
    kind = kind or str(rng.choice(KINDS))
    n_rows = n_rows or (100_000 if seed % 50 == 49 else int(np.exp(rng.uniform(np.log(30), np.log(20_000)))))
    n_people = int(np.clip(n_rows / rng.uniform(8, 60), 4, 2000))
    if kind == "vectors":
        population = make_gaussian_population(
            n_types=int(rng.integers(2, 5)), n_annotators=n_people, n_items=100, seed=seed
        )
        each = max(2, n_rows // n_people)
        rows = population.comparisons(2 * each, seed=seed, beta=8.0)
        parts = split_by_row(rows, fraction=0.5, seed=seed)  # two draws would share judgements by chance: a leak
        return CleanSet(kind, n_rows, *parts, population.items)
    if kind.startswith("sentence"):
        return _sentences(kind, n_rows, n_people, seed, rng)
    return _words(kind, n_rows, n_people, rng)


def _sentences(kind: str, n_rows: int, n_people: int, seed: int, rng: np.random.Generator) -> CleanSet:
    people = make_text_population(n_people, seed=seed)
    prompts = [str(prompt) for prompt in rng.permutation(make_prompts())]
    each = max(2, n_rows // n_people)
    draw = preference_rows if kind == "sentences" else ranking_rows
    parts = [
        draw(people, n_per_annotator=n, prompts=own, seed=seed + number)
        for number, (n, own) in enumerate(((each, prompts[16:]), (max(1, each // 5), prompts[:16])))
    ]
    return CleanSet(kind, n_rows, *parts)


def _words(kind: str, n_rows: int, n_people: int, rng: np.random.Generator) -> CleanSet:
    """Made-up words; a taste is a weight for each word, and the utility does not grow with length."""
    words = np.array(["".join(rng.choice(list("bdfgklmnprstv"), 1)[0] + rng.choice(list("aeiou"), 1)[0]
                              for _ in range(rng.integers(1, 5))) for _ in range(400)], dtype=object)  # fmt: skip
    frequency = 1 / np.arange(5, 405) ** 0.8
    frequency /= frequency.sum()
    n_types = int(rng.integers(2, 5))
    tastes = rng.normal(size=(n_types, len(words)))
    tastes -= tastes @ frequency[:, None]
    types = np.r_[np.arange(n_types), rng.integers(n_types, size=n_people)][:n_people]
    style = rng.uniform(0.1, 0.9, size=3)  # share of texts with a capital, a full stop, a line break

    cumulative = np.cumsum(frequency)

    def write(n: int) -> tuple[str, np.ndarray]:
        picks = np.minimum(np.searchsorted(cumulative, rng.random(n)), len(words) - 1)
        text = " ".join(words[picks])
        text = text.capitalize() if rng.random() < style[0] else text
        text = text + "." if rng.random() < style[1] else text
        text = text.replace(" ", "\n", 1) if rng.random() < style[2] else text
        return text, tastes[:, picks].sum(axis=1) / np.sqrt(n)

    def draw(n: int) -> Rows:
        rows: Rows = []
        for _ in range(n):
            if not rows or rng.random() < 0.4:
                prompt, written = write(12)[0], [write(int(rng.integers(6, 40))) for _ in range(6)]
            person = int(rng.integers(n_people))
            several = rng.permutation(6)[: 4 if kind == "word ratings" else 2]
            utility = np.array([written[i][1][types[person]] for i in several]) + rng.logistic(size=len(several)) / 4
            texts = [written[i][0] for i in several]
            row = {"annotator_id": person, "prompt": prompt, "type": f"type_{types[person]}",
                   "source": ("web", "chat")[rng.integers(2)], "conversation_id": int(rng.integers(1e9))}  # fmt: skip
            if kind == "word ratings":
                ratings = np.digitize(utility, [-1, 0, 1]).tolist()
                rows.append(row | {"completions": texts, "ratings": ratings})
            else:
                chosen = int(utility.argmax())
                row |= {"position": chosen, "chosen": texts[chosen], "rejected": texts[1 - chosen]}
                rows.append(row)
        return rows

    return CleanSet(kind, n_rows, draw(n_rows), draw(max(20, n_rows // 5)))


def _change(rows: Rows, share: float, change: Callable[[dict[str, Any]], dict[str, Any]], seed: int) -> Rows:
    """`change` for a share of the rows."""
    hit = np.random.default_rng(seed).random(len(rows)) < share
    return [row | change(row) if is_hit else row for row, is_hit in zip(rows, hit, strict=True)]


def _by_length(rows: Rows, seed: int, sign_of: Callable[[Any], int]) -> Rows:
    found = []
    for row in rows:
        texts = sorted((row["chosen"], row["rejected"]), key=len, reverse=sign_of(row["annotator_id"]) > 0)
        found.append(row | {"chosen": texts[0], "rejected": texts[1]})
    return found


def _per_person(rows: Rows, what: Callable[[Any, dict[str, Any]], dict[str, Any]]) -> Rows:
    return [row | what(row["annotator_id"], row) for row in rows]


def _with_eval(clean: CleanSet, extra: Rows) -> CleanSet:
    return replace(clean, evaluation=[*clean.evaluation, *extra])


def _shuffle_names(clean: CleanSet, seed: int) -> CleanSet:
    ids = np.random.default_rng(seed).permutation([row["annotator_id"] for row in clean.train]).tolist()
    return replace(clean, train=[row | {"annotator_id": name} for row, name in zip(clean.train, ids, strict=True)])


def _lists(rows: Rows) -> Rows:
    return [row | {"chosen": [{"role": "assistant", "content": row["chosen"]}]} for row in rows]


def _swap(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


def _train(change: Callable[[Rows, int], Rows]) -> Callable[[CleanSet, int], CleanSet]:
    return lambda clean, seed: replace(clean, train=change(clean.train, seed))


# fault → (the check that should speak, how it is planted)
PLANTS: dict[str, tuple[str, Callable[[CleanSet, int], CleanSet]]] = {
    "chosen is a list, rejected a text": ("raw_form", _train(lambda rows, _: _lists(rows))),
    "chosen ends with a blank": ("form", _train(lambda r, s: _change(
        r, 0.5, lambda row: {"chosen": row["chosen"] + " "}, s))),
    "rejected begins with a template": ("form", _train(lambda r, s: _change(
        r, 0.9, lambda row: {"rejected": "Assistant: " + row["rejected"]}, s))),
    "chosen is capitalised": ("form", _train(lambda r, s: _change(
        r, 1, lambda row: {"chosen": row["chosen"].title(), "rejected": row["rejected"].lower()}, s))),
    "rejected is in another script": ("form", _train(lambda r, s: _change(
        r, 0.5, lambda row: {"rejected": "".join(chr(0x430 + ord(c) % 32) for c in row["rejected"])}, s))),
    "longer wins": ("length", _train(lambda r, s: _by_length(r, s, lambda _: 1))),
    "length with one sign for each person": ("length_sign", _train(lambda r, s: _by_length(
        r, s, lambda name: 1 if zlib.crc32(str(name).encode()) % 2 else -1))),
    "a tenth of the rows twice": ("duplicates", _train(lambda r, s: r + r[:: 10])),
    "a tenth of the rows reversed as well": ("contradictions", _train(lambda r, s: r + [_swap(x) for x in r[::10]])),
    "one person always chose the first": ("constant", _train(lambda r, s: [
        row | {"annotator_id": "clicker", "position": 0} if i % 50 == 0 else row for i, row in enumerate(r)])),
    "two in three chose the first": ("position", _train(lambda r, s: _change(r, 0.34, lambda _: {"position": 0}, s))),
    "names are shuffled": ("names", _shuffle_names),
    "every type has its own prompts": ("type_source", _train(lambda r, s: _per_person(
        r, lambda _, row: {"prompt": f"{row['type']} {row['prompt']}"}))),
    "every person has their own prompts": ("prompt_source", _train(lambda r, s: _per_person(
        r, lambda who, row: {"prompt": f"{who} asks {len(row['prompt']) % 2}"}))),
    "validation is a copy of train": ("shared_judgements", lambda c, s: replace(c, evaluation=list(c.train))),
    "a tenth of train is in eval": ("shared_judgements", lambda c, s: _with_eval(c, c.train[::10])),
    "prompts of train in eval": ("shared_prompts", lambda c, s: _with_eval(c, [
        row | {"chosen": "yes " + row["chosen"], "rejected": "no " + row["rejected"]} for row in c.train[::10]])),
    "completions of train in eval": ("shared_completions", lambda c, s: _with_eval(c, [
        row | {"annotator_id": "another"} for row in c.train[::10]])),
    "a conversation in both": ("shared_conversations", lambda c, s: _with_eval(c, [
        row | {"prompt": f"{row['prompt']}\n\nAssistant: {row['chosen']}\n\nHuman: go on {i}", "chosen": f"well {i}",
               "rejected": f"no {i}", "conversation_id": -i - 1} for i, row in enumerate(c.train[::5])])),
}  # fmt: skip


def false_alarms(n_sets: int, seed: int) -> tuple[int, Counter]:
    """Clean sets of which a check spoke, and how often each check did."""
    n_alarmed, by_check = 0, Counter()
    for number in range(n_sets):
        clean = draw_clean(seed * 10_000 + number)
        alarms = [finding for finding in clean.findings() if finding.verdict != "ok"]
        n_alarmed += bool(alarms)
        by_check.update(finding.name for finding in alarms)
        for finding in alarms:
            print(
                f"  set {number} ({clean.kind}, {clean.n_rows:,} rows): {finding.name}: {finding.message}", flush=True
            )
    return n_alarmed, by_check


def catch_rates(n_sets: int, seed: int, n_rows: int = 2000) -> dict[str, float]:
    """fault → share of sets with it planted of which the right check speaks; shuffled names want thrice the rows."""
    caught = dict.fromkeys(PLANTS, 0)
    for number in range(n_sets):
        large = draw_clean(seed * 10_000 + 5_000 + number, kind="words", n_rows=3 * n_rows)
        small = replace(large, train=large.train[:n_rows], evaluation=large.evaluation[: n_rows // 5])
        for fault, (check, plant) in PLANTS.items():
            found = plant(large if check == "names" else small, number).findings()
            caught[fault] += any(finding.name == check and finding.verdict != "ok" for finding in found)
    return {fault: count / n_sets for fault, count in caught.items()}


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_sets", type=int, default=200, help="clean sets (default 200)")
    parser.add_argument("--n_planted", type=int, default=20, help="sets for each planted fault (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # rows whose ratings all tie
    start = time.monotonic()
    n_alarmed, by_check = false_alarms(args.n_sets, args.seed)
    print(f"false alarms: {n_alarmed} of {args.n_sets} clean sets {dict(by_check) or ''}", flush=True)
    for fault, rate in catch_rates(args.n_planted, args.seed).items():
        print(f"{rate:>5.0%}  {fault} ({PLANTS[fault][0]})", flush=True)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
