"""What K types cost: EM mixture-DPO against one epoch of TRL's DPOTrainer, and against the papers' schedule.

    OMP_NUM_THREADS=1 python scripts/bench_mixture_dpo.py
    OMP_NUM_THREADS=1 python scripts/bench_mixture_dpo.py --n_annotators 20 --n_each 8 --n_words 60 \
        --n_prompt_words 60 --vocab_size 32000 --only ours k1

One model, the same pairs, in one run, each from a fresh copy:

- `dpo`: TRL's `DPOTrainer` with LoRA, one epoch (reference log-probabilities by adapters off, as it does by default);
- `ours`: K types, reference pass, linear head, two rounds that share one epoch, both E-steps;
- `k1`: the same with one type;
- `ours2`: the same with a whole epoch in each round;
- `schedule`: the papers' schedule, five rounds (`--n_schedule_rounds`), each training every type from the reference
  for an epoch over all rows with its weights.

No completion occurs twice, so that nothing is saved by computing it once. Processor seconds (wall seconds on a GPU)
and their ratio to `dpo`. `--vocab_size` gives the model more words than the texts use.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from palign.data.synthetic_text import make_text_population, preference_rows
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer


def make_rows(
    n_annotators: int, n_each: int, n_words: int, seed: int, n_prompt_words: int = 0
) -> list[dict[str, Any]]:
    """Pairs of sentences made long by more of the same kind of words; every completion is another one."""
    rng = np.random.default_rng(seed)
    rows = preference_rows(make_text_population(n_annotators, seed=seed), n_per_annotator=n_each, seed=seed)
    for number, row in enumerate(rows):
        if n_prompt_words:
            words = str(row["chosen"]).split()
            row["prompt"] = (
                f"{' '.join(words[i] for i in rng.integers(len(words), size=n_prompt_words))} {row['prompt']}"
            )
        for name in ("chosen", "rejected"):
            words = str(row[name]).split()
            tail = [words[i] for i in rng.integers(len(words), size=n_words)]
            row[name] = f" {row[name]} {' '.join(tail)} {number}"
    return rows


def common(output: str, args: argparse.Namespace, **further: Any) -> dict[str, Any]:
    """Options that all trainers share."""
    return {
        "output_dir": output, "per_device_train_batch_size": args.batch_size, "learning_rate": 1e-3, "beta": 0.1,
        "max_length": 1024, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1000,
        "use_cpu": not torch.cuda.is_available(), "bf16": args.bf16, "gradient_checkpointing": False, "seed": 0,
        **further,
    }  # fmt: skip


def time_of(work: Callable[[], None]) -> float:
    """Processor seconds, or wall seconds where a GPU works."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def run_dpo(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list, args: argparse.Namespace) -> None:
    """TRL, one epoch."""
    data = Dataset.from_list([{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows])
    with tempfile.TemporaryDirectory() as output:
        settings = DPOConfig(**common(output, args, num_train_epochs=1))
        trainer = DPOTrainer(
            model=model, args=settings, train_dataset=data, processing_class=tokenizer, peft_config=lora(args)
        )
        trainer.train()


def run_mixture(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list, args: argparse.Namespace, **options: Any
) -> np.ndarray:
    """Ours, from the reference pass to the last E-step; returns the responsibilities."""
    given = options.pop("responsibilities", None)
    with tempfile.TemporaryDirectory() as output:
        settings = MixtureDPOConfig(
            **common(
                output, args, **({"n_types": args.n_types, "n_permutations": 0, "e_step_batch_size": 64} | options)
            )
        )
        trainer = MixtureDPOTrainer(
            model, settings, rows, processing_class=tokenizer, peft_config=lora(args), responsibilities=given
        )
        trainer.train()
        return trainer.mixture.responsibilities.numpy()


def run_schedule(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: list, args: Any) -> None:
    """Five rounds, each from the reference, all rows for all types, no row left out."""
    people = list(dict.fromkeys(row["annotator_id"] for row in rows))
    gamma = np.random.default_rng(0).dirichlet(np.ones(args.n_types), len(people))
    for _ in range(args.n_schedule_rounds):
        run_mixture(
            copy.deepcopy(model), tokenizer, rows, args, types_from="given", responsibilities=gamma,
            m_step="weighted", min_responsibility=0.0, n_rounds=1, num_train_epochs=1,
        )  # fmt: skip


def lora(args: argparse.Namespace) -> LoraConfig:
    """The same for everybody."""
    return LoraConfig(r=args.lora_r, lora_alpha=args.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")


def main() -> None:
    """Time everything `repeats` times in turn; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {
        "n_types": 4, "n_annotators": 60, "n_each": 16, "n_words": 40, "batch_size": 16, "lora_r": 16,
        "hidden_size": 128, "n_layers": 4, "repeats": 3, "n_schedule_rounds": 5, "n_prompt_words": 0, "vocab_size": 0,
    }  # fmt: skip
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--only", nargs="+", default=None, help="of: dpo, ours, k1, ours2, schedule; dpo always runs")
    args = parser.parse_args()
    rows = make_rows(args.n_annotators, args.n_each, args.n_words, seed=0, n_prompt_words=args.n_prompt_words)
    tokenizer = make_tiny_tokenizer([text for row in rows for text in (row["prompt"], row["chosen"])])
    base = make_tiny_lm(tokenizer, hidden_size=args.hidden_size, n_layers=args.n_layers)
    if args.vocab_size:
        base.resize_token_embeddings(args.vocab_size)
    runs: dict[str, Callable[[LlamaForCausalLM], Any]] = {
        "dpo": lambda model: run_dpo(model, tokenizer, rows, args),
        "ours": lambda model: run_mixture(model, tokenizer, rows, args, n_rounds=2, num_train_epochs=1),
        "k1": lambda model: run_mixture(model, tokenizer, rows, args, n_types=1, n_rounds=1, num_train_epochs=1),
        "ours2": lambda model: run_mixture(model, tokenizer, rows, args, n_rounds=2, num_train_epochs=2),
        "schedule": lambda model: run_schedule(model, tokenizer, rows, args),
    }
    runs = {name: run for name, run in runs.items() if not args.only or name in ("dpo", *args.only)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(args.repeats):
        for name, run in runs.items():
            if name == "schedule" and repeat:
                continue
            model = copy.deepcopy(base)
            seconds[name].append(time_of(lambda run=run, model=model: run(model)))
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    ratios = {name: value / medians["dpo"] for name, value in medians.items()}
    print(json.dumps({"rows": len(rows), "seconds": medians, "ratio_to_dpo": ratios}, indent=1))


if __name__ == "__main__":
    main()
