"""LLMFAO (crowd workers compare LLM responses) to preference rows.

    python scripts/prepare_llmfao.py FOLDER OUT [--split row|prompt] [--test_share 0.2] [--seed 0]

FOLDER holds comparisons_public.csv, prompts.csv and responses.csv.gz of github.com/dustalov/llmfao. The person is the
worker; ties say nothing about a pair and are left out and counted. `chosen_index` and `rejected_index` are the
responses' rows in responses.csv.gz, and so in a file of their embeddings; `prompt_type` is the kind of the prompt.

Data: CC BY 4.0, Dmitry Ustalov and llmonitor.com. Keep this attribution with what you write.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from prepare_common import add_split, make_parser, need_files, split_and_save


def read_rows(folder: Path) -> tuple[list[dict[str, Any]], Counter]:
    """The rows, and what was left out and how often."""
    need_files(folder, "comparisons_public.csv", "prompts.csv", "responses.csv.gz")
    responses = pd.read_csv(folder / "responses.csv.gz", keep_default_na=False)
    text, row_of = responses["text"].tolist(), {number: row for row, number in enumerate(responses["resp"])}
    prompts = pd.read_csv(folder / "prompts.csv", keep_default_na=False).set_index("prompt")
    rows, dropped = [], Counter()
    for judged in pd.read_csv(folder / "comparisons_public.csv", keep_default_na=False).itertuples():
        if judged.winner == "tie":
            dropped["ties"] += 1
            continue
        sides = [row_of[judged.resp_left], row_of[judged.resp_right]]
        chosen, rejected = sides if judged.winner == "left" else sides[::-1]
        if text[chosen] == text[rejected]:
            dropped["pairs of equal responses"] += 1
            continue
        prompt = prompts.loc[judged.prompt]
        rows.append(
            {
                "annotator_id": f"worker_{judged.worker}",
                "prompt": prompt["text"],
                "chosen": text[chosen],
                "rejected": text[rejected],
                "chosen_index": chosen,
                "rejected_index": rejected,
                "prompt_type": prompt["type"],
            }
        )
    return rows, dropped


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_split(parser)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    all_rows, left_out = read_rows(arguments.folder)
    split_and_save(all_rows, arguments, left_out)
