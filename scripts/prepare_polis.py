"""A Polis conversation (people agree, pass or disagree with one another's statements) to preference rows.

    python scripts/prepare_polis.py FOLDER OUT --conversation brexit [--form pairs|rankings] [--rows 40] [--seed 0]

FOLDER holds NAME.statements.csv (statement, text) and NAME.votes.csv.gz (user, group, statement, vote), a table of
github.com/compdemocracy/openData. A vote is 1 (agree), 0 (pass) or -1 (disagree), so a voter's statements form a
ranking of three tiers. `pairs` draws two statements of different tiers, `rankings` draws --n_items statements that are
not all of one tier, as `completions` with `ratings`. Each voter's statements are split before anything is drawn: what
someone voted on in train.jsonl is not in their rows of test.jsonl. `opinion_group` is the conversation's own.

Data was gathered using the Polis software (compdemocracy.org/polis) and is sub-licensed under CC BY 4.0 with
Attribution to The Computational Democracy Project. Keep this attribution with what you write.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prepare_common import make_parser, need_files, save

from palign.data.preferences import Preferences


def find_conversation(folder: Path, name: str) -> str:
    """The one conversation of the folder whose name contains `name`; ValueError lists them otherwise."""
    suffix = ".votes.csv.gz"
    names = sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
    found = [known for known in names if name in known]
    if len(found) != 1:
        what = f"{len(found)} conversations" if found else "no conversation"
        raise ValueError(f"{what} in {folder} match {name!r}; there are {', '.join(found or names) or 'none'}.")
    return found[0]


class Voter:
    """One person's votes, split in two, and the rows drawn from a part."""

    def __init__(self, votes: pd.DataFrame, test_share: float, rng: np.random.Generator):
        order = rng.permutation(len(votes))
        n_test = round(test_share * len(votes))
        statements, tiers = votes["statement"].to_numpy(), votes["vote"].to_numpy()
        self.rng = rng
        self.parts = {
            name: (statements[rows], tiers[rows])
            for name, rows in (("test", order[:n_test]), ("train", order[n_test:]))
        }

    def draw(self, part: str, n_items: int, n_rows: int) -> list[tuple[list[int], list[int]]]:
        """Up to `n_rows` different (statements, votes) of `n_items` each that are not all of one tier, best first."""
        statements, tiers = self.parts[part]
        if len(statements) < n_items or len(set(tiers)) < 2:
            return []
        drawn: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
        for _ in range(5 * n_rows):
            rows = self.rng.choice(len(statements), size=n_items, replace=False)
            if len(drawn) < n_rows and len(set(tiers[rows])) > 1:
                rows = rows[np.argsort(-tiers[rows], kind="stable")]
                drawn[tuple(sorted(rows))] = (statements[rows].tolist(), tiers[rows].tolist())
        return list(drawn.values())


def read_rows(args: argparse.Namespace) -> tuple[dict[str, list[dict[str, Any]]], Counter]:
    """Rows of "train" and "test", and what was left out and how often."""
    name = find_conversation(args.folder, args.conversation)
    need_files(args.folder, f"{name}.statements.csv", f"{name}.votes.csv.gz")
    text = pd.read_csv(args.folder / f"{name}.statements.csv", keep_default_na=False).set_index("statement")["text"]
    votes = pd.read_csv(args.folder / f"{name}.votes.csv.gz")
    rng = np.random.default_rng(args.seed)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    dropped = Counter()
    for user, own in votes.groupby("user"):
        group = own["group"].iloc[0]
        head = {"annotator_id": f"voter_{user}", "prompt": f"Conversation: {name}. Statement:\n"}
        head["opinion_group"] = None if pd.isna(group) else f"group_{int(group)}"
        if len(own) < args.min_votes:
            dropped[f"voters with fewer than {args.min_votes} votes"] += 1
            continue
        voter = Voter(own, args.test_share, rng)
        n_items = 2 if args.form == "pairs" else args.n_items
        n_rows = {"train": args.rows, "test": max(1, round(args.rows * args.test_share))}
        drawn = {part: voter.draw(part, n_items, n_rows[part]) for part in rows}
        if not drawn["train"]:
            dropped["voters who voted alike on everything"] += 1
            continue
        for part in rows:
            rows[part] += [head | _judgement(args.form, *judged, text) for judged in drawn[part]]
    return rows, dropped


def _judgement(form: str, statements: list[int], votes: list[int], text: pd.Series) -> dict[str, Any]:
    texts = [text[statement] for statement in statements]
    if form == "pairs":
        return {"chosen": texts[0], "rejected": texts[1]}
    return {"completions": texts, "ratings": votes}


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--conversation", required=True, help="name of the conversation, or a part of it")
    parser.add_argument("--form", choices=["pairs", "rankings"], default="pairs")
    parser.add_argument("--n_items", type=int, default=4, help="statements of a ranking (default 4)")
    parser.add_argument("--rows", type=int, default=40, help="train rows of a voter, at most (default 40)")
    parser.add_argument("--min_votes", type=int, default=10, help="least votes of a voter (default 10)")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    parts, left_out = read_rows(arguments)
    save(Preferences.from_rows(parts["train"]), Preferences.from_rows(parts["test"]), arguments.out, left_out)
