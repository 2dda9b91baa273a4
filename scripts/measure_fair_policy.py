"""The fair policy of the embedded default over several seeds: every policy of the table, mean and by seed.

    python scripts/measure_fair_policy.py --seeds 42 43 44 --output_dir outputs/measure_fair_policy

Each seed is a population, a language model and a mixture of its own, made by `recipes/fair_policy.py`; what is there
already is read. Further flags go to the recipe. Prints a Markdown table and writes `measured.json`.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType

import pandas as pd

SHOWN = (
    "max_regret", "max_relative_regret", "kl", "votes/worst_accuracy", "by_votes/max_regret", "gold/worst",
    "gold/mean", "gold/max_regret",
)  # fmt: skip
NOT_BELOW = 0.05  # of its range: how far mean gold may lie below pooled DPO's
WITHIN = 0.15  # of the exact optimum: strictly of the range from the reference to it, literally of its own value


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
    return sorted((n for n in names if "/" not in n), key=lambda n: summary[f"{n}/max_regret"])


def asked(summary: dict[str, float]) -> dict[str, float]:
    """What is asked of the chosen policy, by the gold utility of the type served worst, of one seed.

    `more/<policy>` is how much more it gives than that policy, `more_low/<policy>` the lower end of the paired
    interval; `share_of_way` is the part of the way from the measured reference to the exact optimum, the strict
    reading of "within 15 % of the optimum", and `share_of_value` the utility over that of the optimum, the literal
    one; `mean_below` is how far its mean over people lies below pooled DPO's, as a part of the range from the
    reference's mean to pooled DPO's. `is_reached` reads strictly, `is_reached_by_value` literally.
    """
    others = [name.split("/")[0] for name in summary if name.endswith("/gold/chosen_more/value")]
    kept = [n for n in others if n in ("pooled", "reference", "uniform") or n.startswith("type_")]
    figures = {f"more/{name}": summary[f"{name}/gold/chosen_more/value"] for name in kept}
    figures |= {f"more_low/{name}": summary[f"{name}/gold/chosen_more/low"] for name in kept}
    pooled, reference = (summary[f"{name}/gold/mean"] for name in ("pooled", "reference"))
    below = (pooled - summary["chosen/gold/mean"]) / abs(pooled - reference)
    shares = {
        "share_of_way": summary["room/gold_single"],
        "share_of_value": summary["chosen/gold/worst"] / summary["room/optimum"],
    }
    figures |= shares | {"mean_below": below, "room": summary["room/single"]}
    is_rest = below <= NOT_BELOW and all(value > 0 for name, value in figures.items() if name.startswith("more_low/"))
    reached = {name: float(is_rest and share >= 1 - WITHIN) for name, share in shares.items()}
    return figures | {"is_reached": reached["share_of_way"], "is_reached_by_value": reached["share_of_value"]}


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
        start = time.process_time()
        is_new = not done.is_file()
        found[seed] = recipe().main([*flags, *further]) if is_new else json.loads(done.read_text())
        if is_new:
            print(f"seed {seed}: {time.process_time() - start:.0f} seconds of processor time", flush=True)
    frame = pd.DataFrame(found)
    means = frame.mean(axis=1).to_dict()
    names = policies_of(means)
    table = pd.DataFrame([[means.get(f"{name}/{metric}", float("nan")) for metric in SHOWN] for name in names], names)
    lines = [f"| policy | {' | '.join(SHOWN)} |", "|" + "---|" * (len(SHOWN) + 1)]
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |" for name, row in table.iterrows()]
    print("\n".join(lines))
    margins = frame.loc[["chosen/less_than_pooled/value", "chosen/less_than_pooled/low"]]
    print(f"\nworst regret of pooled DPO less that of the chosen policy, by seed:\n{margins.round(3).to_string()}")
    if all("room/gold_single" in summary for summary in found.values()):
        figures = pd.DataFrame({seed: asked(summary) for seed, summary in found.items()})
        print(f"\nasked of the chosen policy:\n{figures.round(3).to_string()}")
    seconds = frame.loc[[name for name in frame.index if name.endswith("_seconds")]]
    print(f"\nseconds (of the clock):\n{seconds.round(1).to_string()}")
    Path(args.output_dir, "measured.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
