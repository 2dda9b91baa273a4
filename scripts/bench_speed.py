"""What a step, an estimation of regret and a small run cost, beside TRL or beside another checkout.

    OMP_NUM_THREADS=1 python scripts/bench_speed.py step            # LoRA step of pairs: peak memory over TRL's
    git worktree add /tmp/before COMMIT
    OMP_NUM_THREADS=1 python scripts/bench_speed.py rankings --beside /tmp/before
    OMP_NUM_THREADS=1 python scripts/bench_speed.py estimation      # over plain generation of the same completions
    OMP_NUM_THREADS=1 python scripts/bench_speed.py types           # step of four types, a pass each, over one pass
    OMP_NUM_THREADS=1 python scripts/bench_speed.py reward --beside /tmp/before    # palign reward, 100 rows of vectors

Every run is a process of its own, and runs of the two sides alternate; the least processor time of `--repeats` counts.
Peak memory is the resident set at its largest, less that before the step. EM mixture-DPO as a whole against TRL's
`DPOTrainer` is in `bench_mixture_dpo.py`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]


def make_model(vocab_size: int, hidden_size: int = 128, n_layers: int = 4) -> Any:
    """A small Llama of random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=n_layers,
            num_attention_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )  # fmt: skip
    )


def lora() -> Any:
    """The same for everybody."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def make_items(n_rows: int, n_each: int, n_prompt: int, n_completion: int, vocab_size: int) -> Any:
    """`n_rows` prompts with `n_each` completions, of lengths within a quarter of those asked for."""
    import numpy as np

    from palign.models.completions import TokenizedItems

    rng = np.random.default_rng(0)

    def text(n: int) -> list[int]:
        return rng.integers(5, vocab_size, size=rng.integers(n * 3 // 4, n * 5 // 4 + 1)).tolist()

    pairs = [(prompt, text(n_completion)) for prompt in (text(n_prompt) for _ in range(n_rows)) for _ in range(n_each)]
    if hasattr(TokenizedItems, "from_pairs"):
        return TokenizedItems.from_pairs(pairs, 0)
    lengths = [len(head) + len(tail) for head, tail in pairs]
    ids = np.array([token for head, tail in pairs for token in (*head, *tail)], dtype=np.int32)
    return TokenizedItems(ids, np.cumsum(lengths), np.array([len(head) for head, _ in pairs]), 0)


def our_step(n_each: int, n_rows: int, n_prompt: int, n_completion: int, vocab_size: int) -> dict[str, float]:
    """One LoRA step of rankings of `n_each`: processor seconds (the second of two) and peak memory, GiB."""
    import torch
    from peft import get_peft_model

    from palign.functional.losses import plackett_luce
    from palign.models.completions import policy_logps

    model = get_peft_model(make_model(vocab_size), lora()).train()
    batch = make_items(n_rows, n_each, n_prompt, n_completion, vocab_size).collate(range(n_rows * n_each))
    ranks = torch.arange(n_each).expand(n_rows, n_each)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    before, seconds = resident(), []
    for _ in range(2):
        start = time.process_time()
        plackett_luce(0.1 * policy_logps(model, **batch).view(n_rows, n_each), ranks).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
    return {"seconds": seconds[-1], "peak": peak() - before}


def trl_step(n_rows: int, n_prompt: int, n_completion: int, vocab_size: int) -> dict[str, float]:
    """One step of TRL's DPOTrainer on pairs as long."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    from palign.models.tiny import make_tiny_tokenizer

    tokenizer: PreTrainedTokenizerFast = make_tiny_tokenizer(["a b c d e f"])
    words = "a b c d e f".split()

    def text(n: int, shift: int) -> str:
        return " ".join(words[(i + shift) % 6] for i in range(n))

    rows = [
        {
            "prompt": text(n_prompt, i),
            "chosen": f" {text(n_completion, i + 1)}",
            "rejected": f" {text(n_completion, i)}",
        }
        for i in range(2 * n_rows)
    ]
    model = make_model(vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(
            output_dir=folder, per_device_train_batch_size=n_rows, max_steps=2, report_to="none", save_strategy="no",
            disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=2048,
        )  # fmt: skip
        trainer = DPOTrainer(
            model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
            peft_config=lora(),
        )  # fmt: skip
        before = resident()
        trainer.train()
    return {"peak": peak() - before}


def estimation(vocab_size: int) -> dict[str, float]:
    """Answers of four types and the reference with what all think of them, over the same answers alone."""
    import torch

    from palign.models.adapters import add_type_adapters
    from palign.models.policy_draws import DrawSettings, PolicyReader, readable_prompts, stop_ids
    from palign.models.tiny import make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer(["tell me about the sea and the sky now please"])
    model = add_type_adapters(make_model(vocab_size), lora(), 4, seed=0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    prompts = [f"tell me about the sea and the sky{' now please' * (i % 5)}" for i in range(64)]
    settings = DrawSettings(n_samples=4, max_new_tokens=48, batch_size=128)
    reader = PolicyReader(model, tokenizer, [f"type_{k}" for k in range(4)])
    ids = readable_prompts(prompts, tokenizer, model.config, settings.max_new_tokens)
    speakers, stops = [*reader.judges, None], stop_ids(tokenizer, model)
    reader._sample(None, ids[:4], settings, stops, "warm-up")
    plain = seconds_of(lambda: [reader._sample(name, ids, settings, stops, "plain") for name in speakers])
    whole = seconds_of(lambda: [reader.draws(name, prompts, settings) for name in speakers])
    return {"ratio": whole / plain, "plain": plain, "whole": whole}


def types(vocab_size: int) -> dict[str, float]:
    """A step of sixteen pairs, each of one of four types, over the same sixteen under one type."""
    import torch

    from palign.models.adapters import TypePolicies, add_type_adapters

    policies = TypePolicies(add_type_adapters(make_model(vocab_size), lora(), 4, seed=0).train())
    batch = make_items(16, 2, 70, 80, vocab_size).collate(range(32))
    of_row = torch.randint(4, (16,), generator=torch.Generator().manual_seed(0)).repeat_interleave(2)
    drawn = torch.nn.functional.one_hot(of_row, 4).bool()
    alone = torch.zeros_like(drawn)
    alone[:, 0] = True

    def step(cells: torch.Tensor) -> float:
        policies.zero_grad()
        return seconds_of(lambda: policies(**batch, needs_grad=cells).sum().backward())

    four, one = (min(step(cells) for _ in range(6)) for cells in (drawn, alone))
    return {"ratio": four / one, "four types": four, "one type": one}


def reward() -> dict[str, float]:
    """`palign reward` on 100 rows of vectors, from the command line to the report."""
    import numpy as np

    rng = np.random.default_rng(0)
    vectors, tastes = rng.normal(size=(60, 16)).astype("float32"), rng.normal(size=(10, 16))
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), []
        np.save(folder / "items.npy", vectors)
        for number in range(100):
            a, b = rng.choice(60, 2, replace=False)
            if tastes[number % 10] @ vectors[a] < tastes[number % 10] @ vectors[b]:
                a, b = b, a
            rows.append({"annotator_id": f"p{number % 10}", "chosen_index": int(a), "rejected_index": int(b)})
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = "import sys; from palign.cli.command import main; sys.exit(main())"
        options = ["reward", "--dataset_name", str(folder / "rows.jsonl"), "--embeddings", str(folder / "items.npy")]
        options += ["--output_dir", str(folder / "out"), "--use_cpu", "true"]
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        # not where this was started: python -c looks for the package there first, and only then in the tree to measure
        subprocess.run([sys.executable, "-c", command, *options], check=True, capture_output=True, cwd=folder)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime}


def seconds_of(work: Callable[[], object]) -> float:
    """Processor seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def resident() -> float:
    """GiB now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30


def peak() -> float:
    """GiB at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "step": lambda: our_step(2, 8, 80, 80, 150_000),
    "step_trl": lambda: trl_step(8, 80, 80, 150_000),
    "rankings": lambda: our_step(4, 8, 200, 60, 2_000),
    "estimation": lambda: estimation(16_000),
    "types": lambda: types(700),
    "reward": reward,
}


def measured(part: str, tree: Path) -> dict[str, float]:
    """One part in a process of its own, with the package of that checkout."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    run = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), part, "--child"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    """Measure one part and print its figures, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--beside", type=Path, default=None, help="another checkout to measure against")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(PARTS[args.part]()))
        return
    sides = {"here": (args.part, HERE)}
    if args.part == "step":
        sides["trl"] = ("step_trl", HERE)
    if args.beside is not None:
        sides["beside"] = (args.part, args.beside.resolve())
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, (part, tree) in sides.items():
            runs[name].append(measured(part, tree))
            print(name, runs[name][-1], file=sys.stderr, flush=True)
    least = {name: {key: min(run[key] for run in part) for key in part[0]} for name, part in runs.items()}
    for other in ("trl", "beside"):
        if other in least:
            shared = [key for key in least["here"] if key in least[other]]
            least[f"here over {other}"] = {key: least["here"][key] / least[other][key] for key in shared}
    print(json.dumps(least, indent=1))


if __name__ == "__main__":
    main()
