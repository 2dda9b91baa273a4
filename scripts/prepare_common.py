"""What the prepare_*.py scripts share: their command line, and the two files they write."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from palign.data.preferences import Preferences
from palign.data.public_sets.folders import need_files
from palign.data.sources import save_preferences
from palign.data.splits import split_by_prompt, split_by_row

__all__ = ["add_split", "make_parser", "need_files", "save", "split_and_save"]

SPLITS = {"row": split_by_row, "prompt": split_by_prompt}


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """`FOLDER OUT --test_share --seed`, with the script's docstring as help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the source's files lie")
    parser.add_argument("out", type=Path, help="where train.jsonl and test.jsonl are written")
    parser.add_argument("--test_share", type=float, default=0.2, help="share of the test rows (default 0.2)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def add_split(parser: argparse.ArgumentParser) -> None:
    """`--split row|prompt`."""
    parser.add_argument("--split", choices=sorted(SPLITS), default="row", help="what may not be in both files")


def split_and_save(rows: list[dict[str, Any]], args: argparse.Namespace, dropped: Counter) -> None:
    """Check the rows, split them as `--split` says, write both parts and say what was left out."""
    prefs = Preferences.from_rows(rows)
    save(*SPLITS[args.split](prefs, fraction=args.test_share, seed=args.seed), args.out, dropped)


def save(train: Preferences, test: Preferences, out: Path, dropped: Counter) -> None:
    """Write train.jsonl and test.jsonl and say how many rows and people they hold, and what was left out."""
    for name, part in (("train", train), ("test", test)):
        save_preferences(part, out / f"{name}.jsonl")
        print(f"{out / name}.jsonl: {len(part)} rows by {len(part.annotators())} annotators")
    for reason, count in dropped.items():
        print(f"left out: {count} {reason}")
