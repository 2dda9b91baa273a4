"""The table of docs/ppo_measurements.md: runs the PPO recipe for several seeds and conditionings and sums them up.

    python scripts/measure_ppo.py --output_dir outputs/measure_ppo --seeds 0 1 2
    python scripts/measure_ppo.py --output_dir outputs/measure_ppo --only_table       # from runs that are there

Each run is `recipes/ppo_pal.py --policy_conditioning adapter --compare_with none prompt --seed S`: three policies from
one language model and one PAL reward model, judged on the same held-out rows.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
MODELS = ("reference", "none", "prompt", "adapter")
TYPES = ("cheerful", "thorough", "careful")


def run(seed: int, folder: Path, extra: list[str]) -> None:
    """One run of the recipe, its output in `folder/log.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["--policy_conditioning", "adapter", "--compare_with", "none", "prompt", "--disable_tqdm", "true"]
    command = [sys.executable, "recipes/ppo_pal.py", *flags, "--seed", str(seed), "--output_dir", str(folder), *extra]
    environment = {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)


def table(summaries: dict[int, dict[str, float]]) -> str:
    """Markdown: gold utility by type and KL of every policy, by seed and on average."""
    head = "| seed | policy | " + " | ".join(TYPES) + " | KL |"
    lines = [head, "|---" * (len(TYPES) + 3) + "|"]
    cells = {}
    for seed, summary in summaries.items():
        for model in (name for name in MODELS if f"{name}/gold" in summary):
            values = [summary[f"{model}/{name}/gold"] for name in TYPES] + [summary[f"{model}/kl"]]
            cells.setdefault(model, []).append(values)
            lines.append(f"| {seed} | {model} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    for model, values in cells.items():
        means = " | ".join(f"**{value:.2f}**" for value in np.mean(values, axis=0))
        lines.append(f"| mean of {len(values)} | {model} | {means} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/measure_ppo"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only_table", action="store_true")
    options, extra = parser.parse_known_args()
    folders = {seed: options.output_dir.resolve() / f"seed_{seed}" for seed in options.seeds}
    for seed, folder in folders.items():
        if not options.only_table:
            run(seed, folder, extra)
    summaries = {
        seed: json.loads((folder / "summary.json").read_text(encoding="utf-8")) for seed, folder in folders.items()
    }
    print(table(summaries))


if __name__ == "__main__":
    main()
