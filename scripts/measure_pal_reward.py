"""The tables of recipes/README.md for PAL reward models: runs the recipe over data sets and settings and sums them up.

    python scripts/measure_pal_reward.py --output_dir outputs/measure --data persona_pure_0 persona_pure_1 \
        --embeddings persona.npy --n_prototypes 2 4 6 auto

A data set is a folder with train.jsonl and test.jsonl, and new_annotators_adapt.jsonl and new_annotators_test.jsonl if
it has newcomers; every further flag goes to recipes/pal_reward.py. Columns are those of its summary.json.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(folder: Path, n_prototypes: str, output: Path, extra: list[str]) -> dict[str, float]:
    """One run of the recipe; its summary."""
    command = [sys.executable, "recipes/pal_reward.py", "--dataset_name", str(folder / "train.jsonl")]
    command += ["--eval_dataset_name", str(folder / "test.jsonl"), "--n_prototypes", n_prototypes]
    newcomers = [folder / "new_annotators_adapt.jsonl", folder / "new_annotators_test.jsonl"]
    if all(file.exists() for file in newcomers):
        command += ["--newcomers_dataset_name", str(newcomers[0]), "--newcomers_eval_dataset_name", str(newcomers[1])]
    command += ["--output_dir", str(output), "--disable_tqdm", "true", *extra]
    output.mkdir(parents=True, exist_ok=True)
    environment = {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    with (output / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
    return json.loads((output / "summary.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--n_prototypes", nargs="+", default=["4"])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/measure_pal_reward"))
    options, extra = parser.parse_known_args()
    shown: list[str] | None = None
    for folder in options.data:
        for n_prototypes in options.n_prototypes:
            output = options.output_dir.resolve() / f"{folder.name}_K{n_prototypes}"
            summary = run(folder.resolve(), n_prototypes, output, extra)
            if shown is None:
                shown = list(summary)
                print("| data | K asked | " + " | ".join(shown) + " |\n" + "|---" * (len(shown) + 2) + "|")
            cells = " | ".join(f"{summary.get(name, float('nan')):.3f}" for name in shown)
            print(f"| {folder.name} | {n_prototypes} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
