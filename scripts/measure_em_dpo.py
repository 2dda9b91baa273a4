"""Types found and served on persona rows (known types), with a language model trained in the process.

    python make_persona.py --statements persona12.csv.gz --out persona_pure_0 --mode pure --seed 0     # and 1, 2
    OMP_NUM_THREADS=1 python scripts/measure_em_dpo.py --data persona_pure_0 persona_pure_1 --rows rankings

For each folder: a Llama shape of about a million parameters is trained on the statements of the train files, then
`recipes/em_dpo.py` runs with the options of configs/em_dpo/persona.yaml and its baselines. Evaluation is on pairs of
statements that occur in no train file. Prints type accuracy, ARI, and pair accuracy by model, and writes them to
`--output_dir`/measured_<rows>.json.
"""

import argparse
import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer, train_tiny_lm

ROOT = Path(__file__).parents[1]


def load_recipe() -> ModuleType:
    """`recipes/em_dpo.py` as a module."""
    spec = importlib.util.spec_from_file_location("em_dpo_recipe", ROOT / "recipes" / "em_dpo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> list[dict[str, Any]]:
    """JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def first_of_each(rows: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """At most `n` rows of every annotator."""
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        seen[row["annotator_id"]] += 1
        if seen[row["annotator_id"]] <= n:
            kept.append(row)
    return kept


def with_types(rows: list[dict[str, Any]], truth: dict[str, Any], path: Path) -> None:
    """Rows again, with the annotator's true type in a column, which only evaluation and `oracle` read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = truth["types"]
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row | {"type": names[row["annotator_id"]]}, ensure_ascii=False) + "\n")


def train_language_model(data: Path, folder: Path, *, n_steps: int, seed: int) -> None:
    """On every (prompt, statement) of the train files, each statement under the open prompt, too."""
    if (folder / "config.json").is_file():
        return
    texts: dict[tuple[str, str], None] = {}
    for name in ("train", "rankings_train"):
        for row in read(data / f"{name}.jsonl"):
            for said in row.get("completions") or [row["chosen"], row["rejected"]]:
                texts[row["prompt"], said] = None
    prompts, said = ([pair[i] for pair in texts] for i in (0, 1))
    tokenizer = make_tiny_tokenizer([*dict.fromkeys(prompts), *dict.fromkeys(said)])
    model = make_tiny_lm(tokenizer, hidden_size=128, n_layers=4, seed=seed)
    train_tiny_lm(model, tokenizer, prompts, said, n_steps=n_steps, seed=seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(data: Path, args: argparse.Namespace, rest: list[str]) -> dict[str, float]:
    """One folder: language model, mixture, baselines; returns the recipe's summary."""
    seed = json.loads((data / "truth.json").read_text())["seed"]
    output = Path(args.output_dir) / f"{data.name}_{args.rows}"
    truth = true_types(data)
    train = "rankings_train" if args.rows == "rankings" else "train"
    with_types(read(data / f"{train}.jsonl"), truth, output / "rows" / "train.jsonl")
    with_types(first_of_each(read(data / "test.jsonl"), args.eval_rows), truth, output / "rows" / "test.jsonl")
    model = Path(args.model_dir or args.output_dir) / f"lm_seed{seed}"
    train_language_model(data, model, n_steps=args.lm_steps, seed=seed)
    return load_recipe().main([
        "--model_name_or_path", str(model), "--dataset_name", str(output / "rows" / "train.jsonl"),
        "--eval_dataset_name", str(output / "rows" / "test.jsonl"), "--output_dir", str(output), "--n_types",
        args.n_types, "--seed", str(seed), "--disable_tqdm", "true", "--use_cpu", "true",
        "--config", str(ROOT / "recipes/configs/em_dpo/persona.yaml"), *rest,
    ])  # fmt: skip


def true_types(data: Path) -> dict[str, dict[str, str]]:
    """`types`: annotator id → name of the type."""
    truth = json.loads((data / "truth.json").read_text(encoding="utf-8"))
    return {"types": {name: str(person["type"]) for name, person in truth["annotators"].items()}}


def main() -> None:
    """Every folder in turn; a table at the end. Further flags go to the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders that make_persona.py wrote")
    parser.add_argument("--rows", choices=("rankings", "pairs"), default="rankings")
    parser.add_argument("--output_dir", default="outputs/measure_em_dpo")
    parser.add_argument("--model_dir", default=None, help="folder of language models lm_seed0 …, made where missing")
    parser.add_argument("--eval_rows", type=int, default=40, help="pairs of each annotator that all is judged on")
    parser.add_argument("--lm_steps", type=int, default=900)
    parser.add_argument("--n_types", default="4")
    args, rest = parser.parse_known_args()
    found = {data.name: measure(data, args, rest) for data in args.data}
    path = Path(args.output_dir) / f"measured_{args.rows}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, summary in found.items():
        keys = [k for k in summary if k.startswith("types/") or (k.endswith("/accuracy") and k.count("/") == 1)]
        print(name, {key: round(summary[key], 3) for key in keys})


if __name__ == "__main__":
    main()
