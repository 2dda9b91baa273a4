"""From one process to two on CPU (gloo), for every trainer: strong and weak scaling, and what is lost where.

    OMP_NUM_THREADS=1 python scripts/bench_scaling.py --output scaling.json      # both cores quiet, about ten minutes
    OMP_NUM_THREADS=1 python scripts/bench_scaling.py --size tiny                # that it runs, not how it scales

Strong: the same rows and the same global batch, half of it on each process; the ratio is time of one over time of two.
Weak: twice the rows, the batch of one on each; the ratio is twice the time of one over time of two. Both are 2 where
nothing is lost. The clock starts when models and rows are made, and stops when training has ended.

A strong ratio is 2 × economy × presence, exactly up to the presence of the one process:

- economy: CPU seconds of the one process over those of both together; below 1 where both do the same work, or smaller
  batches are less economical;
- presence: CPU seconds of both over their wall seconds; below 1 where one waits, because the other works alone, has
  more to do, or gradients are on their way.

Every process asserts that there are two, and that the module that is trained is wrapped for it: `torchrun`, for
`accelerate launch --cpu --num_processes 2` silently runs one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SIZES = {
    "tiny": {
        "hidden_size": 32, "n_layers": 1, "n_annotators": 8, "n_each": 4, "n_words": 4, "batch_size": 8,
        "n_updates": 2, "n_prompts": 8, "length": 8, "head_epochs": 1, "n_restarts": 2,
    },
    "full": {
        "hidden_size": 128, "n_layers": 4, "n_annotators": 40, "n_each": 12, "n_words": 40, "batch_size": 16,
        "n_updates": 8, "n_prompts": 96, "length": 32, "head_epochs": 10, "n_restarts": 4,
    },
}  # fmt: skip
WRAPPED = "DistributedDataParallel"
Work = Callable[[], Any]  # trains, and returns the module as it was wrapped; None where nothing is


def common(folder: str, world: SimpleNamespace, **further: Any) -> dict[str, Any]:
    """What every configuration shares; `world.batch_size` is that of a process."""
    return {
        "output_dir": folder, "per_device_train_batch_size": world.batch_size, "use_cpu": True, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1000, "seed": 0, "num_train_epochs": 1,
        "gradient_checkpointing": False, "bf16": False, **further,
    }  # fmt: skip


def lora(task: str | None = "CAUSAL_LM") -> Any:
    """The same everywhere."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type=task)


def pal(folder: str, world: SimpleNamespace, *, trains_backbone: bool) -> Work:
    """Stage one (embeddings, head, people) or, with few epochs of that, stage two (LoRA with them)."""
    from palign.data.preferences import Preferences
    from palign.models.pal import PALRewardModel
    from palign.trainers.pal_reward_config import PALRewardConfig
    from palign.trainers.pal_reward_trainer import PALRewardTrainer

    rows = Preferences.from_rows(world.rows)
    model = PALRewardModel.from_backbone(world.model, tokenizer=world.tokenizer, annotators=rows.annotators())
    epochs = 1 if trains_backbone else world.head_epochs
    args = PALRewardConfig(**common(folder, world, head_epochs=epochs))
    trainer = PALRewardTrainer(model, args, rows, peft_config=lora(None) if trains_backbone else None)

    def run() -> Any:
        trainer.train()
        return trainer.model_wrapped if trains_backbone else None

    return run


def em_mixture(folder: str, world: SimpleNamespace) -> Work:
    """Reference pass, linear head, two rounds over one epoch, both E-steps."""
    from palign.trainers.mixture_dpo_config import MixtureDPOConfig
    from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer

    args = MixtureDPOConfig(
        **common(folder, world, n_types=3, n_rounds=2, n_permutations=0, n_restarts=world.n_restarts)
    )

    def run() -> Any:
        trainer = MixtureDPOTrainer(
            world.model, args, world.rows, processing_class=world.tokenizer, peft_config=lora()
        )  # fmt: skip
        trainer.train()
        return trainer.model_wrapped

    return run


def ppo(folder: str, world: SimpleNamespace) -> Work:
    """Updates of four batches of a process, with a PAL reward on a backbone like the policy."""
    from palign.rewards import PersonalizedReward
    from palign.trainers.pal_ppo_config import PALPPOConfig
    from palign.trainers.pal_ppo_trainer import PALPPOTrainer

    args = PALPPOConfig(
        **common(
            folder, world, steps_per_generation=2, num_iterations=2, learning_rate=1e-6, max_steps=4 * world.n_updates,
            max_completion_length=world.length, n_table_rows=0, standardize_rewards=False, policy_conditioning="none",
            max_kl=None, max_empty_fraction=1.0,
        )
    )  # fmt: skip
    reward = PersonalizedReward(judge(world))
    trainer = PALPPOTrainer(world.model, reward, args, world.tokenizer, asked(world), peft_config=lora())

    def run() -> Any:
        trainer.train()
        return trainer.model

    return run


def grpo(folder: str, world: SimpleNamespace) -> Work:
    """Updates of four batches of a process, in groups of four, with a PAL reward on a backbone like the policy."""
    from palign.rewards import PersonalizedReward
    from palign.trainers.pal_grpo_config import PALGRPOConfig
    from palign.trainers.pal_grpo_trainer import PALGRPOTrainer

    args = PALGRPOConfig(
        **common(
            folder, world, gradient_accumulation_steps=4, max_steps=world.n_updates, num_generations=4,
            max_completion_length=world.length, learning_rate=1e-6, standardize_rewards=False,
            policy_conditioning="none", max_kl=None, max_empty_fraction=1.0,
        )
    )  # fmt: skip
    reward = PersonalizedReward(judge(world))
    trainer = PALGRPOTrainer(world.model, reward, args, world.tokenizer, asked(world), peft_config=lora())

    def run() -> Any:
        trainer.train()
        return trainer.model_wrapped

    return run


def judge(world: SimpleNamespace) -> Any:
    """A PAL reward model of its own backbone, not trained."""
    import copy

    from palign.data.preferences import Preferences
    from palign.models.pal import PALRewardModel

    people = Preferences.from_rows(world.rows).annotators()
    backbone = copy.deepcopy(world.model)
    return PALRewardModel.from_backbone(backbone, tokenizer=world.tokenizer, annotators=people).eval()


def asked(world: SimpleNamespace) -> list[dict[str, Any]]:
    """Prompts with a name on each of them."""
    return [{name: row[name] for name in ("prompt", "annotator_id")} for row in world.rows]


def fair_policy(folder: str, world: SimpleNamespace) -> Work:
    """Draws, game, one distilled adapter and its measure, for two types of random adapters."""
    import numpy as np
    import torch

    from palign.data.preferences import Preferences
    from palign.models.adapters import TypePolicies, add_type_adapters
    from palign.models.files.mixture import MixtureRecord
    from palign.models.mixture_policy import MixturePolicy
    from palign.trainers.fair_policy_config import FairPolicyConfig
    from palign.trainers.fair_policy_trainer import FairPolicyTrainer

    rows = Preferences.from_rows(world.rows)
    people = rows.annotators()
    policy = add_type_adapters(world.model, lora(), 2, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    gamma = np.eye(2)[np.arange(len(people)) % 2]
    record = MixtureRecord(
        people, gamma, np.full(len(people), len(rows) // len(people)), gamma.mean(0), 0.1, 512, None
    )
    args = FairPolicyConfig(
        **common(
            folder, world, n_prompts=world.n_prompts, n_eval_prompts=world.n_prompts, n_samples=2, n_eval_samples=2,
            max_new_tokens=world.length, n_bootstrap=50, draw_batch_size=64,
        )
    )  # fmt: skip
    fresh = [f"{row['prompt']} please?" for row in world.rows]
    trainer = FairPolicyTrainer(
        MixturePolicy(TypePolicies(policy), world.tokenizer, record), args, rows, rows,
        prompts=list(dict.fromkeys(row["prompt"] for row in world.rows)), eval_prompts=list(dict.fromkeys(fresh)),
    )  # fmt: skip

    def run() -> None:
        trainer.train()

    return run


def evaluation(folder: str, world: SimpleNamespace) -> Work:
    """A PAL reward model scores all rows."""
    from accelerate import PartialState

    from palign.data.preferences import Preferences
    from palign.evaluation.evaluate import evaluate_models
    from palign.evaluation.judging.kinds import recognise
    from palign.models.pal import PALRewardModel

    rows, state = Preferences.from_rows(world.rows), PartialState(cpu=True)
    model = PALRewardModel.from_backbone(world.model, tokenizer=world.tokenizer, annotators=rows.annotators())
    if state.is_main_process:
        model.save_pretrained(folder)
    state.wait_for_everyone()

    def run() -> None:
        evaluate_models([recognise(folder)], rows, batch_size=32)
        state.wait_for_everyone()

    return run


WORKS: dict[str, Callable[[str, SimpleNamespace], Work]] = {
    "pal_reward_heads": lambda folder, world: pal(folder, world, trains_backbone=False),
    "pal_reward_lora": lambda folder, world: pal(folder, world, trains_backbone=True),
    "em_mixture_dpo": em_mixture,
    "ppo": ppo,
    "grpo": grpo,
    "fair_policy": fair_policy,
    "evaluation": evaluation,
}
TRAINS_WRAPPED = ("pal_reward_lora", "em_mixture_dpo", "ppo", "grpo")


def child(options: argparse.Namespace) -> None:
    """One process: makes its world, waits for the other, works, writes its times."""
    from accelerate import PartialState
    from bench_mixture_dpo import make_rows

    from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer

    state = PartialState(cpu=True)
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    assert state.num_processes == expected == options.n_processes, (state.num_processes, expected)
    assert state.distributed_type.value == ("MULTI_CPU" if expected > 1 else "NO"), state.distributed_type
    world = SimpleNamespace(**SIZES[options.size], n_processes=expected)
    factor = 2 if options.kind == "weak" else 1
    world.batch_size //= 1 if options.kind == "weak" else expected
    world.n_each, world.n_prompts = world.n_each * factor, world.n_prompts * factor
    world.rows = make_rows(world.n_annotators, world.n_each, world.n_words, seed=0)
    for number, row in enumerate(world.rows):
        row["prompt"] = f"{row['prompt']} {number % (2 * world.n_prompts)}"
    world.tokenizer = make_tiny_tokenizer([text for row in world.rows for text in (row["prompt"], row["chosen"])])
    world.model = make_tiny_lm(world.tokenizer, hidden_size=world.hidden_size, n_layers=world.n_layers)
    run = WORKS[options.child](options.folder, world)
    state.wait_for_everyone()
    wall, cpu = time.perf_counter(), time.process_time()
    trained = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if options.child in TRAINS_WRAPPED and expected > 1:
        assert type(trained).__name__ == WRAPPED, type(trained)
    written = {"wall": wall, "cpu": cpu, "wrapper": type(trained).__name__}
    Path(f"{options.output}.{state.process_index}").write_text(json.dumps(written), encoding="utf-8")
    state.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)


def measured(name: str, kind: str, n_processes: int, size: str) -> dict[str, float]:
    """Wall seconds of the slowest process and CPU seconds of all, of one run."""
    launcher = [sys.executable]
    if n_processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "times"
        flags = ["--child", name, "--kind", kind, "--n_processes", str(n_processes), "--size", size]
        command = [*launcher, __file__, *flags, "--folder", folder, "--output", str(output)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        files = sorted(Path(folder).glob("times.*"))
        if len(files) != n_processes:
            raise RuntimeError(
                f"{name}: {len(files)} of {n_processes} processes came to an end.\n{done.stderr[-4000:]}"
            )
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return {"wall": max(part["wall"] for part in found), "cpu": sum(part["cpu"] for part in found)}


def main() -> None:
    """Every work on one process, on two with the same rows, on two with twice the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--repeats", type=int, default=1, help="of which the fastest counts")
    parser.add_argument("--output", help="a JSON file of all figures")
    for name in ("child", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="strong", help=argparse.SUPPRESS)
    parser.add_argument("--n_processes", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
    found: dict[str, dict[str, dict[str, float]]] = {}
    print("| work | one process, s | strong | economy | presence | weak |\n|---|---|---|---|---|---|")
    for name in options.only:
        runs = {"one": ("strong", 1), "strong": ("strong", 2), "weak": ("weak", 2)}
        found[name] = {
            run: min(
                (measured(name, kind, n, options.size) for _ in range(options.repeats)), key=lambda part: part["wall"]
            )
            for run, (kind, n) in runs.items()
        }
        one, strong, weak = (found[name][run] for run in runs)
        print(
            f"| `{name}` | {one['wall']:.1f} | {one['wall'] / strong['wall']:.2f} | "
            f"{one['cpu'] / strong['cpu']:.2f} | "
            f"{strong['cpu'] / 2 / strong['wall']:.2f} | {2 * one['wall'] / weak['wall']:.2f} |", flush=True,
        )  # fmt: skip
    if options.output:
        Path(options.output).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
