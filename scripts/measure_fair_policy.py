"""The fair policy of the embedded default over several seeds: every policy of the table, mean and by seed.

    python scripts/measure_fair_policy.py --seeds 42 43 44 --output_dir outputs/measure_fair_policy

Each seed is a population, a language model and a mixture of its own, made by `recipes/fair_policy.py`; what is there
already is read. Further flags go to the recipe. Prints a Markdown table and writes `measured.json`.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pandas as pd

SHOWN = ("max_regret", "mean_regret", "max_relative_regret", "kl", "votes/worst_accuracy", "gold/worst",
         "gold/max_regret")  # fmt: skip


def recipe() -> ModuleType:
    """`recipes/fair_policy.py` as a module."""
    path = Path(__file__).parents[1] / "recipes" / "fair_policy.py"
    spec = importlib.util.spec_from_file_location("fair_policy_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def policies_of(summary: dict[str, float]) -> list[str]:
    """Names of the table, the least worst regret first."""
    names = [name.removesuffix("/max_regret") for name in summary if name.endswith("/max_regret")]
    return sorted((n for n in names if not n.endswith("/gold")), key=lambda n: summary[f"{n}/max_regret"])


def main() -> None:
    """Run every seed, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--output_dir", default="outputs/measure_fair_policy")
    args, further = parser.parse_known_args()
    found = {}
    for seed in args.seeds:
        output = Path(args.output_dir) / f"seed_{seed}"
        flags = ["--output_dir", str(output), "--default_mixture_path", str(output / "none"), "--seed", str(seed)]
        done = output / "summary.json"
        found[seed] = json.loads(done.read_text()) if done.is_file() else recipe().main([*flags, *further])
    frame = pd.DataFrame(found)
    means = frame.mean(axis=1).to_dict()
    names = policies_of(means)
    table = pd.DataFrame([[means.get(f"{name}/{metric}", float("nan")) for metric in SHOWN] for name in names], names)
    lines = [f"| policy | {' | '.join(SHOWN)} |", "|" + "---|" * (len(SHOWN) + 1)]
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |" for name, row in table.iterrows()]
    print("\n".join(lines))
    margins = frame.loc[["chosen/less_than_pooled/value", "chosen/less_than_pooled/low"]]
    print(f"\nworst regret of pooled DPO less that of the chosen policy, by seed:\n{margins.round(3).to_string()}")
    Path(args.output_dir, "measured.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
