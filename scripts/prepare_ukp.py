"""UKPConvArg (which of two arguments convinces more) to preference rows.

    python scripts/prepare_ukp.py FOLDER OUT [--min_judgments 40] [--split row|prompt] [--test_share 0.2] [--seed 0]

FOLDER holds arguments.csv.gz (arg, topic, text) and judgments.csv.gz (topic, arg1, arg2, worker, label), a table form
of github.com/UKPLab/acl2016-convincing-arguments. The person is the worker, the prompt the debate and its side;
judgments of "equal" are left out and counted, and so are workers with fewer than --min_judgments of all kinds.

Data: CC BY 4.0, Habernal and Gurevych (2016); arguments from createdebate.com (CC BY 3.0) and convinceme.net (public
domain). Keep this attribution with what you write.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from prepare_common import add_split, make_parser, need_files, split_and_save


def read_rows(folder: Path, min_judgments: int) -> tuple[list[dict[str, Any]], Counter]:
    """The rows, and what was left out and how often."""
    need_files(folder, "arguments.csv.gz", "judgments.csv.gz")
    text = pd.read_csv(folder / "arguments.csv.gz", dtype=str, keep_default_na=False).set_index("arg")["text"]
    text = text.to_dict()
    judgments = pd.read_csv(folder / "judgments.csv.gz", dtype=str, keep_default_na=False)
    count = judgments["worker"].map(judgments["worker"].value_counts())
    rows, dropped = [], Counter()
    for judged, n_of_worker in zip(judgments.itertuples(), count, strict=True):
        chosen, rejected = (judged.arg1, judged.arg2) if judged.label == "a1" else (judged.arg2, judged.arg1)
        if n_of_worker < min_judgments:
            dropped[f"judgments of workers with fewer than {min_judgments}"] += 1
        elif judged.label == "equal":
            dropped["ties"] += 1
        elif text[chosen] == text[rejected]:
            dropped["pairs of equal arguments"] += 1
        else:
            rows.append(
                {
                    "annotator_id": judged.worker,
                    "prompt": prompt_of(judged.topic),
                    "chosen": text[chosen],
                    "rejected": text[rejected],
                    "topic": judged.topic,
                }
            )
    return rows, dropped


def prompt_of(topic: str) -> str:
    """The debate and its side, which the topic holds as "is-it-better_yes"."""
    debate, _, side = topic.replace("-", " ").partition("_")
    return f"Debate: {debate.strip()}. Side: {side.strip()}. Argument:\n"


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_split(parser)
    parser.add_argument("--min_judgments", type=int, default=40, help="least judgments of a worker (default 40)")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    all_rows, left_out = read_rows(arguments.folder, arguments.min_judgments)
    split_and_save(all_rows, arguments, left_out)
