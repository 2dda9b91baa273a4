"""LLMFAO (crowd workers compare LLM responses) to preference rows.

    python scripts/prepare_llmfao.py FOLDER OUT [--split row|prompt] [--test_share 0.2] [--seed 0]

FOLDER holds comparisons_public.csv, prompts.csv and responses.csv.gz of github.com/dustalov/llmfao. The person is the
worker; ties say nothing about a pair and are left out and counted. `chosen_index` and `rejected_index` are the
responses' rows in responses.csv.gz, and so in a file of their embeddings; `prompt_type` is the kind of the prompt.

Data: CC BY 4.0, Dmitry Ustalov and llmonitor.com. Keep this attribution with what you write.
"""

import argparse
from collections import Counter

from prepare_common import add_split, make_parser, split_and_save

from palign.data.public_sets.folders import llmfao_rows


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add_split(parser)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()
    left_out: Counter = Counter()
    split_and_save(list(llmfao_rows(arguments.folder, left_out)), arguments, left_out)
