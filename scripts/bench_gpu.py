"""Speed on one card: PAL reward, EM mixture-DPO (K = 4) and PPO beside TRL's DPOTrainer, in one run.

    python scripts/bench_gpu.py --output gpu.json            # on a card: a Llama shape of 0.8B, bf16, LoRA
    OMP_NUM_THREADS=1 python scripts/bench_gpu.py            # without one: the tiny shape, a check that all of it runs

Every run starts from a fresh model of random weights, twice over (`--repeats`); the faster one counts, so that what
is loaded or compiled once is not charged to whoever comes first. Runs:

- `dpo_trl`: TRL's `DPOTrainer`, LoRA, one epoch;
- `em_mixture_dpo`: `MixtureDPOTrainer`, four types, the same pairs, reference pass, linear head, both E-steps in it;
- `pal_reward`: `PALRewardTrainer`, embeddings, head and people, then one epoch of LoRA with them;
- `ppo_pal`: `PALPPOTrainer` with a PAL reward model of the same shape, so that each update pays for its reward.

Seconds are wall seconds of construction and training together (TRL's loads nothing in between). Positions are those
that pass the decoder, padding too, counted by a hook; "trained" are those of them that carry a gradient. Work, with N
the parameters of the matrices that a position meets (embedding table left out, head counted where the run has one):

- 2N per position without gradient (E-steps, references, rollouts, embeddings, rewards);
- 4N per trained position with LoRA: forward, and backward through activations alone, the frozen matrices having no
  gradient of their own; 6N where gradient checkpointing runs the forward twice;
- 6N (8N) where all weights are trained.

Attention's own products and LoRA's are left out, so shares are low by a few per cent. A share is that work over
seconds, over the rate of a large matrix product measured first in the same run and type. Peak memory is what the run
had allocated on the card; on a CPU it is the largest resident size of the process so far, which only grows.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
from bench_mixture_dpo import make_rows
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from palign.data.preferences import Preferences
from palign.models.pal import PALRewardModel
from palign.models.tiny import make_tiny_tokenizer
from palign.rewards import PersonalizedReward
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.pal_reward_trainer import PALRewardTrainer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = {
    "tiny": {
        "hidden_size": 64, "n_layers": 2, "n_heads": 4, "intermediate_size": 172, "vocab_size": 1024,
        "n_annotators": 12, "n_each": 8, "n_words": 20, "batch_size": 8, "ppo_batch_size": 16, "n_updates": 3,
        "response_length": 16, "matmul_size": 512,
    },
    "0.8b": {
        "hidden_size": 1536, "n_layers": 24, "n_heads": 12, "intermediate_size": 4096, "vocab_size": 32_000,
        "n_annotators": 60, "n_each": 32, "n_words": 220, "batch_size": 16, "ppo_batch_size": 64, "n_updates": 6,
        "response_length": 128, "matmul_size": 8192,
    },
}  # fmt: skip
Options = argparse.Namespace


@dataclass
class Figures:
    """Of one run. `flops` as the module says; `share` of the matrix rate, in [0, 1]."""

    seconds: float
    n_trained: int
    n_passed: int
    trained_per_second: float
    passed_per_second: float
    flops: float
    share: float
    peak_gib: float


class Work:
    """Positions and floating-point operations of the decoders that it watches."""

    def __init__(self) -> None:
        self.n_trained, self.n_passed, self.flops = 0, 0, 0.0

    def watch(self, model: nn.Module, *, recomputes: bool = False, trains_all: bool = False) -> None:
        """Count what passes `model`, a causal language model, its body or a classifier on one."""
        body = getattr(model, getattr(model, "base_model_prefix", ""), model)
        heads = [part for part in (getattr(model, "lm_head", None),) if part is not None]
        n = sum(p.numel() for layer in (*body.layers, *heads) for p in layer.parameters() if p.dim() == 2)
        of_trained = n * ((6 if trains_all else 4) + (2 if recomputes else 0))

        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = kwargs.get("input_ids", args[0] if args else None)
            given = kwargs["inputs_embeds"] if given is None else given
            n_positions = given.shape[0] * given.shape[1]
            is_trained = torch.is_grad_enabled() and module.training
            self.n_passed += n_positions
            self.n_trained += n_positions if is_trained else 0
            self.flops += n_positions * (of_trained if is_trained else 2 * n)

        body.register_forward_pre_hook(count, with_kwargs=True)


def matrix_rate(size: int, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Floating-point operations a second of (size, size) products: best of five looks."""
    a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):
        _wait()
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 5:
            for _ in range(10):
                a @ b
            n += 10
            _wait()
        best = max(best, 2 * size**3 * n / (time.perf_counter() - start))
    return best


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def fresh_model(options: Options, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random weights of the shape asked for, on the device; bf16 on a card."""
    config = LlamaConfig(
        vocab_size=max(options.vocab_size, len(tokenizer)), hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size, num_hidden_layers=options.n_layers,
        num_attention_heads=options.n_heads, num_key_value_heads=options.n_heads, max_position_embeddings=4096,
        attention_dropout=0.0, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    with DEVICE:
        return LlamaForCausalLM(config).to(torch.bfloat16 if options.bf16 else torch.float32)


def lora(options: Options, task: str | None = "CAUSAL_LM") -> LoraConfig:
    """The same for everybody."""
    return LoraConfig(r=options.lora_r, lora_alpha=options.lora_r, target_modules="all-linear", task_type=task)


def common(folder: str, options: Options, **further: Any) -> dict[str, Any]:
    """What all trainers are told."""
    return {
        "output_dir": folder, "per_device_train_batch_size": options.batch_size, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1000, "seed": 0,
        "use_cpu": DEVICE.type == "cpu", "gradient_checkpointing": options.gradient_checkpointing, **further,
    }  # fmt: skip


def run_dpo(folder: str, data: SimpleNamespace, options: Options, work: Work) -> Callable[[], None]:
    model = fresh_model(options, data.tokenizer)
    work.watch(model, recomputes=options.gradient_checkpointing)
    pairs = Dataset.from_list([{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in data.rows])
    args = DPOConfig(
        **common(folder, options, num_train_epochs=1, max_length=1024, bf16=options.bf16, learning_rate=1e-4)
    )

    def run() -> None:
        DPOTrainer(
            model=model, args=args, train_dataset=pairs, processing_class=data.tokenizer, peft_config=lora(options)
        ).train()

    return run


def run_mixture(folder: str, data: SimpleNamespace, options: Options, work: Work) -> Callable[[], None]:
    model = fresh_model(options, data.tokenizer)
    work.watch(model, recomputes=options.gradient_checkpointing)
    args = MixtureDPOConfig(
        **common(
            folder, options, num_train_epochs=1, n_rounds=2, n_types=options.n_types, n_permutations=0,
            max_length=1024, bf16=options.bf16, e_step_batch_size=4 * options.batch_size,
        )
    )  # fmt: skip

    def run() -> None:
        MixtureDPOTrainer(
            model, args, data.rows, processing_class=data.tokenizer, peft_config=lora(options)
        ).train()  # fmt: skip

    return run


def run_pal(folder: str, data: SimpleNamespace, options: Options, work: Work) -> Callable[[], None]:
    body, rows = fresh_model(options, data.tokenizer).model, Preferences.from_rows(data.rows)
    work.watch(body, recomputes=options.gradient_checkpointing)
    model = PALRewardModel.from_backbone(body, tokenizer=data.tokenizer, annotators=rows.annotators()).to(DEVICE)
    args = PALRewardConfig(
        **common(folder, options, num_train_epochs=1, bf16=options.bf16, embedding_batch_size=4 * options.batch_size)
    )
    return lambda: PALRewardTrainer(model, args, rows, peft_config=lora(options, None)).train()


def ppo_args(folder: str, options: Options) -> PALPPOConfig:
    """Two passes over each rollout in two steps; no samples shown."""
    return PALPPOConfig(
        **common(
            folder, options, per_device_train_batch_size=options.ppo_batch_size // 2, steps_per_generation=2,
            max_steps=4 * options.n_updates, num_iterations=2, learning_rate=1e-6,
            max_completion_length=options.response_length, temperature=1.0, n_table_rows=0, standardize_rewards=False,
            policy_conditioning="none", max_empty_fraction=1.0, max_kl=None,
        )
    )  # fmt: skip


def run_pal_ppo(folder: str, data: SimpleNamespace, options: Options, work: Work) -> Callable[[], None]:
    policy = fresh_model(options, data.tokenizer)
    work.watch(policy, recomputes=options.gradient_checkpointing)
    body, annotators = fresh_model(options, data.tokenizer).model, Preferences.from_rows(data.rows).annotators()
    work.watch(body)
    judge = PALRewardModel.from_backbone(body, tokenizer=data.tokenizer, annotators=annotators).to(DEVICE).eval()
    asked = [{name: row[name] for name in ("prompt", "annotator_id")} for row in data.rows]

    def run() -> None:
        PALPPOTrainer(
            policy, PersonalizedReward(judge), ppo_args(folder, options), data.tokenizer, asked,
            peft_config=lora(options),
        ).train()  # fmt: skip

    return run


RUNS = {
    "dpo_trl": run_dpo,
    "em_mixture_dpo": run_mixture,
    "pal_reward": run_pal,
    "ppo_pal": run_pal_ppo,
}
AGAINST = {"em_mixture_dpo": "dpo_trl", "pal_reward": "dpo_trl"}


def measure(name: str, data: SimpleNamespace, options: Options, rate: float) -> Figures:
    """One run from a fresh model."""
    work = Work()
    with tempfile.TemporaryDirectory() as folder:
        run = RUNS[name](folder, data, options, work)
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        _wait()
        start = time.perf_counter()
        run()
        _wait()
        seconds = time.perf_counter() - start
    if DEVICE.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Figures(
        seconds, work.n_trained, work.n_passed, work.n_trained / seconds, work.n_passed / seconds, work.flops,
        work.flops / seconds / rate, peak,
    )  # fmt: skip


def as_table(found: dict[str, Figures]) -> str:
    """Markdown."""
    lines = [
        "| run | s | trained tokens/s | all tokens/s | share of the matrix rate | peak memory | time over TRL's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, f in found.items():
        other = found.get(AGAINST.get(name, ""))
        ratio = "" if other is None else f"{f.seconds / other.seconds:.2f} × `{AGAINST[name]}`"
        lines.append(
            f"| `{name}` | {f.seconds:.1f} | {f.trained_per_second:,.0f} | {f.passed_per_second:,.0f} | "
            f"{f.share:.1%} | {f.peak_gib:.1f} GiB | {ratio} |"
        )
    return "\n".join(lines)


def parse() -> Options:
    """A shape, and whatever of it is asked for otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.8b" if DEVICE.type == "cuda" else "tiny")
    for name in SHAPES["tiny"]:
        parser.add_argument(f"--{name}", type=int, help="instead of the shape's")
    parser.add_argument("--n_types", type=int, default=4)
    parser.add_argument("--lora_r", type=int, default=16)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=DEVICE.type == "cuda")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--output", help="a JSON file of all figures")
    options = parser.parse_args()
    for name, value in SHAPES[options.shape].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Measure the matrix rate, then every run; print a table."""
    options = parse()
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    if DEVICE.type == "cpu":
        print("This is the CPU run: it shows that everything runs, not how fast a card is.")
    rows = make_rows(options.n_annotators, options.n_each, options.n_words, seed=0)
    tokenizer = make_tiny_tokenizer([text for row in rows for text in (row["prompt"], row["chosen"])])
    data = SimpleNamespace(rows=rows, tokenizer=tokenizer)
    rate = matrix_rate(options.matmul_size, torch.bfloat16 if options.bf16 else torch.float32)
    n_parameters = sum(p.numel() for p in fresh_model(options, tokenizer).parameters())
    print(
        f"{device}, {n_parameters / 1e6:,.1f}M parameters, {'bf16' if options.bf16 else 'float32'}, "
        f"{len(rows):,} pairs, matrix products at {rate / 1e12:.3f} TFLOP/s", flush=True,
    )  # fmt: skip
    found: dict[str, Figures] = {}
    for name in options.only:
        looks = [measure(name, data, options, rate) for _ in range(options.repeats)]
        found[name] = min(looks, key=lambda figures: figures.seconds)
        print(f"{name}: {found[name].seconds:.1f} s", flush=True)
    print(as_table(found))
    if options.output:
        content = {
            "device": device, "n_parameters": n_parameters, "matrix_rate": rate, "options": vars(options),
            "runs": {name: asdict(figures) for name, figures in found.items()},
        }  # fmt: skip
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)


if __name__ == "__main__":
    main()
