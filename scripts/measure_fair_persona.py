"""The fair policy of the persona population: types of known tastes that answer the beginnings of statements.

    OMP_NUM_THREADS=1 python scripts/measure_em_dpo.py --data persona_pure_0 --rows pairs
    OMP_NUM_THREADS=1 python scripts/measure_fair_persona.py --data persona_pure_0 \
        --mixture_path outputs/measure_em_dpo/persona_pure_0_pairs

The pairs have thirteen prompts in all, so the game is played on the first words of statements of the test file that
begin no statement of the train file: two thirds to solve it, one third to measure. Votes are the pairs, and pooled DPO
is the baseline of the mixture. Further flags go to `recipes/fair_policy.py`. Printed at the end: for every policy the
accuracy of its own implicit reward on the held-out votes of the type it serves worst, and how much that is more than
pooled DPO's, with the paired interval over people.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from measure_em_dpo import read
from measure_fair_policy import recipe

OPEN_PROMPT = "Say something about yourself.\nStatement:"
N_WORDS = 3


def beginnings(rows: list[dict[str, Any]]) -> set[str]:
    """The first words of every statement, as a prompt that a language model goes on from."""
    said = {row[side] for row in rows for side in ("chosen", "rejected")}
    return {f"{OPEN_PROMPT} {' '.join(text.split()[:N_WORDS])}" for text in said if len(text.split()) > 2 * N_WORDS}


def main() -> None:
    """Write the prompts, run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that make_persona.py wrote")
    parser.add_argument("--mixture_path", type=Path, required=True, help="folder that measure_em_dpo.py wrote")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/measure_fair_persona"))
    parser.add_argument("--n_prompts", type=int, default=144, help="a third of them to measure on")
    args, further = parser.parse_known_args()
    prompts = sorted(beginnings(read(args.data / "test.jsonl")) - beginnings(read(args.data / "train.jsonl")))
    kept = [prompts[i] for i in np.random.default_rng(0).permutation(len(prompts))[: args.n_prompts]]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in kept), encoding="utf-8")
    rows = args.mixture_path / "rows"
    summary = recipe().main([
        "--mixture_path", str(args.mixture_path), "--dataset_name", str(rows / "train.jsonl"),
        "--eval_dataset_name", str(rows / "test.jsonl"), "--prompts_name", str(path), "--eval_fraction", "0.33",
        "--output_dir", str(args.output_dir), "--use_cpu", "true", "--disable_tqdm", "true", "--guard", "warn",
        "--n_samples", "4", "--n_eval_samples", "8", "--max_new_tokens", "32", "--draw_batch_size", "256",
        "--max_steps", "100", "--per_device_train_batch_size", "16", "--learning_rate", "2e-3", *further,
    ])  # fmt: skip
    table = json.loads((args.output_dir / "game.json").read_text(encoding="utf-8"))["table"]
    lines = ["| policy | KL | votes, worst type | more than pooled DPO |", "|---|---|---|---|"]
    for row in sorted(table, key=lambda row: -row["votes"]["worst_accuracy"]):
        more = "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row["votes"]["more_than_pooled"])
        cells = (row["name"], f"{row['kl']['value']:.2f}", f"{row['votes']['worst_accuracy']:.3f}", more)
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    print({name: round(value, 3) for name, value in summary.items() if name.startswith("chosen/")})


if __name__ == "__main__":
    main()
