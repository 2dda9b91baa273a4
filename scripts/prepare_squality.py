"""SQuALITY's human evaluation (four people rank and rate three summaries) to preference rows.

    python scripts/prepare_squality.py FOLDER OUT [--form rankings|ratings] [--split row|prompt] [--test_share 0.2]

FOLDER holds all-responses.jsonl and rankings.json of github.com/nyu-mll/SQuALITY, data/human-eval. `rankings` writes
`completions` best first by the raters' strict ranks, `ratings` writes them beside the ratings from 1 to 100. The
files name stories and questions by number only, so the prompt does too; `systems` says who wrote each completion.
Blanks and line breaks become single blanks: only the human summaries end with a blank and have line breaks, and they
rank best in all but a few rows.

Data: responses and summaries CC BY 4.0, Wang, Pang, Chen, Phang and Bowman (2022). Keep this attribution with what you
write.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from prepare_common import add_split, make_parser, need_files, split_and_save


def read_rows(folder: Path, form: str) -> tuple[list[dict[str, Any]], Counter]:
    """The rows, and what was left out and how often."""
    need_files(folder, "all-responses.jsonl", "rankings.json")
    lines = (folder / "all-responses.jsonl").read_text(encoding="utf-8").split("\n")
    stories = {story["passage-id"]: story["questions"] for story in map(json.loads, filter(str.strip, lines))}
    rows, dropped = [], Counter()
    for judged in json.loads((folder / "rankings.json").read_text(encoding="utf-8")):
        written = stories[judged["passage"]][judged["question"]]
        systems = sorted(judged["rank"], key=judged["rank"].get)
        completions = [" ".join(written[system]["response"].split()) for system in systems]
        if len(set(completions)) < len(completions):
            dropped["rows with two equal summaries"] += 1
            continue
        row = {
            "annotator_id": f"rater_{judged['worker']}",
            "prompt": f"Story {judged['passage']}, question {judged['question']}. Summary:\n",
            "completions": completions,
            "passage": judged["passage"],
            "systems": ", ".join(systems),
        }
        if form == "ratings":
            row["ratings"] = [judged["rating"][system] for system in systems]
        rows.append(row)
    return rows, dropped


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_split(parser)
    parser.add_argument("--form", choices=["rankings", "ratings"], default="rankings")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    all_rows, left_out = read_rows(arguments.folder, arguments.form)
    split_and_save(all_rows, arguments, left_out)
