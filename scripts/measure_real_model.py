#!/usr/bin/env python3
"""Does a PAL reward on a real chat model learn, with the defaults?

    python scripts/prepare_smollm2.py MODEL
    python scripts/measure_real_model.py MODEL STATEMENTS.csv [--seeds 0 1 2 3] [--n_prototypes 4] [--pooling last]

STATEMENTS.csv(.gz) has columns persona, statement, agree, conf. Statements about twelve questions are answers to them,
conversational, with a system message. Four pure types of people; 32 people with 20 pairs each, tested on 12 pairs each
of new statements; `--people 100 --pairs 30 --statements 720` is the larger world. One line a seed: accuracy, nats of
PAL and of its pooled reward.

    python scripts/measure_real_model.py MODEL STATEMENTS.csv --types 2 --people 10 --write ROWS

writes the first seed's rows as ROWS/train.jsonl and ROWS/test.jsonl, each with its person's type, and measures none:
what recipes/configs/*/smollm2.yaml start from.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measure_common import judge, set_up, trained

from palign.data.preferences import Preferences

QUESTIONS = {
    "politically-liberal": "What do you think about liberal politics?",
    "politically-conservative": "What do you think about conservative politics?",
    "subscribes-to-Christianity": "What do you think about Christianity?",
    "subscribes-to-Atheism": "What do you think about atheism?",
    "believes-in-gun-rights": "What do you think about guns?",
    "anti-immigration": "What do you think about immigration?",
    "risk-averse": "How careful are you?",
    "risk-seeking": "How much do you like risks?",
    "interest-in-art": "What does art mean to you?",
    "interest-in-sports": "What do sports mean to you?",
    "agreeableness": "How do you treat other people?",
    "conscientiousness": "How do you do your work?",
}
# types by questions, in the order above: 1 agrees, -1 disagrees, 0 does not mind
TASTES = np.array([
    [1, -1, -1, 1, -1, -1, 0, 1, 1, -1, 1, 1],
    [-1, 1, 1, -1, 1, 1, 1, -1, -1, 1, 1, 1],
    [-1, 0, -1, 1, 1, -1, -1, 1, 0, 1, 1, 0],
    [1, -1, 1, -1, -1, -1, 1, -1, 1, 0, 1, 1],
])  # fmt: skip
BETA, LEAST_GAP = 3.0, 0.2  # inverse temperature of a choice; difference below which a pair is drawn again


def make_rows(statements: pd.DataFrame, seed: int, options: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """Train and test rows of people of four types; no statement stands in both."""
    rng = np.random.default_rng(seed)
    drawn = statements.groupby("persona", group_keys=False).sample(options.statements // 12 + 15, random_state=seed)
    drawn = drawn.assign(axis=drawn["persona"].map(list(QUESTIONS).index))
    sign = np.where(drawn["agree"] == 1, 1.0, -1.0) * (2 * drawn["conf"] - 1)
    drawn = drawn.assign(strength=sign).sample(frac=1, random_state=seed)
    by_axis = {axis: part for axis, part in drawn.groupby("axis")}
    each = options.statements // 12
    parts = {
        "train": {a: p.iloc[:each] for a, p in by_axis.items()},
        "test": {a: p.iloc[each:] for a, p in by_axis.items()},
    }
    types = np.arange(options.people) % options.types
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for person, kind in enumerate(types):
        for part, count in (("train", options.pairs), ("test", 12)):
            while count:
                axis = int(rng.integers(12))
                pool = parts[part][axis]
                pair = pool.iloc[rng.choice(len(pool), 2, replace=False)]
                utility = TASTES[kind, axis] * pair["strength"].to_numpy()
                if abs(utility[0] - utility[1]) < LEAST_GAP:
                    continue
                first = int(rng.random() >= 1 / (1 + np.exp(-BETA * (utility[0] - utility[1]))))
                texts = pair["statement"].tolist()
                asked = row(f"p{person}", list(QUESTIONS.values())[axis], texts[first], texts[1 - first])
                rows[part].append(asked | {"type": "ABCD"[kind]})
                count -= 1
    return rows["train"], rows["test"]


def row(person: str, question: str, chosen: str, rejected: str) -> dict[str, Any]:
    """A judgement as conversations."""
    system = {"role": "system", "content": "Answer in one sentence."}
    answers = {"chosen": chosen, "rejected": rejected}
    return {"annotator_id": person, "prompt": [system, {"role": "user", "content": question}]} | {
        side: [{"role": "assistant", "content": text}] for side, text in answers.items()
    }


def measure(model: Path, statements: pd.DataFrame, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One population through `palign reward`'s own set-up and trainer."""
    train, test = make_rows(statements, seed, options)
    flags = ["--model_name_or_path", str(model), "--n_prototypes", options.n_prototypes, "--seed", str(seed)]
    flags += ["--pooling", options.pooling] if options.pooling else []
    with tempfile.TemporaryDirectory() as name:
        setup, prefs = set_up(Path(name), train, test, *flags), Preferences.from_rows(test)
        record: dict[str, Any] = {"seed": seed, "K": setup.n_prototypes}
        for kind, trainer in trained(setup):
            record |= judge(trainer.predict_scores(prefs), prefs, kind)
    return record


def write(statements: pd.DataFrame, options: argparse.Namespace) -> None:
    """The first seed's rows as two files."""
    options.write.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "test"), make_rows(statements, options.seeds[0], options), strict=True):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (options.write / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{options.write / name}.jsonl: {len(rows)} rows")


def main() -> None:
    """Print a row a seed and the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("statements_file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--n_prototypes", default="4")
    parser.add_argument("--pooling")
    parser.add_argument("--people", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--statements", type=int, default=240)
    parser.add_argument("--types", type=int, default=4, choices=range(1, 5), help="of people")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write rows there, and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    statements = pd.read_csv(options.statements_file)
    statements = statements[statements["persona"].isin(QUESTIONS)]
    if options.write:
        write(statements, options)
        return
    rows = []
    for seed in options.seeds:
        rows.append(measure(options.model, statements, seed, options))
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    shown = {k: round(float(np.mean([r[k] for r in rows])), 4) for k in rows[0] if k != "seed"}
    print(f"mean of {len(rows)}: {shown}")


if __name__ == "__main__":
    main()
