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
from typing import Any

from prepare_common import make_parser, save

from palign.data.preferences import Preferences
from palign.data.public_sets.folders import polis_rows


def read_rows(args: argparse.Namespace) -> tuple[dict[str, list[dict[str, Any]]], Counter]:
    """Rows of "train" and "test", and what was left out and how often."""
    names = ("conversation", "form", "n_items", "rows", "min_votes", "test_share", "seed")
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    dropped: Counter = Counter()
    for row in polis_rows(args.folder, dropped, **{name: getattr(args, name) for name in names}):
        rows[row.pop("part")].append(row)
    return rows, dropped


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
