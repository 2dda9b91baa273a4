"""What a training really allocates on the CPU, stage by stage, beside what the planner says of it beforehand.

    OMP_NUM_THREADS=1 python scripts/measure_memory.py                            # every recipe at three sizes
    OMP_NUM_THREADS=1 python scripts/measure_memory.py --only em_dpo --sizes small --launcher zero3

Each run is a process of its own (two of them for a launcher that divides). Memory is what PyTorch's allocator gives
out on the training thread, every allocation and release by the profiler, so that nothing else of the process is in
it; the process's resident peak stands beside it. Stages are told apart by the functions that they are.
"""

import argparse
import bisect
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SIZES = {
    "small": {"hidden_size": 128, "intermediate_size": 344, "n_layers": 6, "n_heads": 4, "vocab_size": 2000},
    "medium": {"hidden_size": 256, "intermediate_size": 688, "n_layers": 5, "n_heads": 8, "vocab_size": 4000},
    "large": {"hidden_size": 512, "intermediate_size": 1376, "n_layers": 6, "n_heads": 8, "vocab_size": 8000},
}
RECIPES = ("em_dpo", "pal_reward", "ppo_pal", "grpo_pal", "fair_policy", "evaluate_fairness")
DIVIDES = {"zero2": 2, "zero3": 3}
N_PROMPT, N_ANSWER = 24, 40  # tokens
BUCKET = 100_000  # numbers of DeepSpeed's buckets: its own would hide all else at these sizes
MIB = 2**20
WORDS = ("red", "blue", "green", "grey", "pink", "gold", "teal", "lime")


class Stages:
    """When which stage was running."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, str]] = []
        self._stack = ["elsewhere"]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Inside this context what is allocated is of that stage."""
        self._stack.append(name)
        self.changes.append((time.time_ns(), name))
        try:
            yield
        finally:
            self._stack.pop()
            self.changes.append((time.time_ns(), self._stack[-1]))

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Every call of `owner.method` is that stage."""
        inner = getattr(owner, method)

        @functools.wraps(inner)
        def within(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return inner(*args, **kwargs)

        setattr(owner, method, within)

    def peaks(self, events: list[tuple[int, int]], held: int) -> dict[str, int]:
        """Most bytes that were allocated at once in each stage; `held` more lie in mapped files."""
        times = [moment for moment, _ in self.changes]
        live, found = held, {}
        for moment, size in sorted(events):
            live += size
            place = bisect.bisect(times, moment) - 1
            name = self.changes[place][1] if place >= 0 else "elsewhere"
            found[name] = max(found.get(name, 0), live)
        return found


def make_folder(folder: Path, world: SimpleNamespace) -> None:
    """A Llama of random weights with its tokenizer, as a user has one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from palign.models.tiny import make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer([" ".join(WORDS)] * 4)
    config = LlamaConfig(
        vocab_size=world.vocab_size, hidden_size=world.hidden_size, intermediate_size=world.intermediate_size,
        num_hidden_layers=world.n_layers, num_attention_heads=world.n_heads, num_key_value_heads=world.n_heads // 2,
        max_position_embeddings=1024, tie_word_embeddings=False, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[world.dtype]
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def text(seed: int, n_words: int) -> str:
    """Words that are one token each, drawn by a number."""
    state, words = seed * 7919 + 13, []
    for _ in range(n_words):
        state = (state * 1103515245 + 12345) % 2**31
        words.append(WORDS[state // 65536 % len(WORDS)])
    return " ".join(words)


def make_rows(n_rows: int) -> list[dict[str, Any]]:
    """Pairs of prompts of `N_PROMPT` and answers of at most `N_ANSWER` tokens, the end of text among them."""
    return [
        {"annotator_id": f"p{i % 6}", "prompt": text(i, N_PROMPT),
         "chosen": " " + text(1000 + i, N_ANSWER - 1 - i % 3), "rejected": " " + text(5000 + i, N_ANSWER - 1)}
        for i in range(n_rows)
    ]  # fmt: skip


def common(folder: str, world: SimpleNamespace, **further: Any) -> dict[str, Any]:
    """Options of every trainer."""
    return {
        "output_dir": f"{folder}/out", "per_device_train_batch_size": world.batch_size, "use_cpu": True,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1000, "seed": 0,
        "gradient_checkpointing": world.gradient_checkpointing, "bf16": world.bf16, "max_steps": 3,
        "deepspeed": deepspeed_config(world), **further,
    }  # fmt: skip


def deepspeed_config(world: SimpleNamespace) -> dict[str, Any] | None:
    """What accelerate_configs/zero{2,3}.yaml amounts to."""
    if world.launcher not in DIVIDES:
        return None
    zero = {"stage": DIVIDES[world.launcher], "reduce_bucket_size": BUCKET} | (
        {"stage3_gather_16bit_weights_on_model_save": True} if world.launcher == "zero3" else {}
    )
    return {
        "train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto", "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto", "steps_per_print": 10_000, "zero_optimization": zero,
    }  # fmt: skip


def lora(world: SimpleNamespace, task: str | None = "CAUSAL_LM") -> Any:
    """On all linear layers."""
    from peft import LoraConfig

    return LoraConfig(
        r=world.lora_r, lora_alpha=world.lora_r, lora_dropout=0.0, target_modules="all-linear", task_type=task
    )


def load(folder: str, world: SimpleNamespace, stages: "Stages | None" = None) -> tuple[Any, Any]:
    """Model and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with nullcontext() if stages is None else stages.stage("loading"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=world.dtype)
    return model, AutoTokenizer.from_pretrained(folder)


def em_dpo(folder: str, world: SimpleNamespace, stages: Stages) -> Any:
    """Reference pass, start, two rounds, E-steps."""
    from palign.trainers.mixture_dpo_config import MixtureDPOConfig
    from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer

    stages.watch(MixtureDPOTrainer, "_reference_pass", "reference")
    stages.watch(MixtureDPOTrainer, "training_step", "training")
    stages.watch(MixtureDPOTrainer, "_e_step", "judging")
    args = MixtureDPOConfig(
        **common(folder, world, n_types=world.n_types, n_rounds=1, n_permutations=0, n_restarts=1),
        e_step_batch_size=world.eval_batch_size, max_length=N_PROMPT + N_ANSWER,
    )  # fmt: skip
    model, tokenizer = load(folder, world, stages)
    trainer = MixtureDPOTrainer(model, args, make_rows(48), processing_class=tokenizer, peft_config=lora(world))
    trainer.train()
    return trainer


def pal_reward(folder: str, world: SimpleNamespace, stages: Stages) -> Any:
    """Embeddings, heads, LoRA on the backbone."""
    from palign.data.preferences import Preferences
    from palign.trainers.pal_reward_config import PALRewardConfig
    from palign.trainers.pal_reward_trainer import PALRewardTrainer

    stages.watch(PALRewardTrainer, "_states", "embedding")
    stages.watch(PALRewardTrainer, "training_step", "training")
    args = PALRewardConfig(
        **common(folder, world, head_epochs=1, embedding_batch_size=world.eval_batch_size),
    )  # fmt: skip
    rows = Preferences.from_rows(make_rows(48))
    with stages.stage("loading"):
        model = backbone_model(folder, world, rows)
    trainer = PALRewardTrainer(model, args, rows, peft_config=lora(world, None))
    trainer.train()
    return trainer


def backbone_model(folder: str, world: SimpleNamespace, rows: Any, *, is_float32: bool = False) -> Any:
    """A PAL reward model on the folder's body."""
    from palign.models.backbones import Backbone
    from palign.models.pal import PALRewardModel

    backbone = Backbone.from_pretrained(folder, dtype=world.dtype)
    if is_float32:  # here, and not by the threads that load, whose memory is not seen
        backbone.float()
    return PALRewardModel.from_backbone(
        backbone.model, tokenizer=backbone.tokenizer, annotators=rows.annotators(), n_prototypes=2
    )


def policy(folder: str, world: SimpleNamespace, stages: Stages, trainer_class: Any, args: Any) -> Any:
    """A policy with an adapter (or whole) and a PAL reward on a backbone of the same shape."""
    from palign.data.preferences import Preferences
    from palign.rewards import PersonalizedReward

    stages.watch(trainer_class, "_generate_single_turn", "generation")
    stages.watch(trainer_class, "_calculate_rewards", "judging")
    stages.watch(trainer_class, "_generate_and_score_completions", "scoring")
    stages.watch(trainer_class, "training_step", "training")
    rows = make_rows(48)
    model, tokenizer = load(folder, world, stages)
    with stages.stage("loading"):
        reward = backbone_model(folder, world, Preferences.from_rows(rows), is_float32=True).eval()
    asked = [{name: row[name] for name in ("prompt", "annotator_id")} for row in rows]
    trainer = trainer_class(
        model, PersonalizedReward(reward, standardize=False), args, tokenizer, asked,
        peft_config=lora(world) if world.use_peft else None,
    )  # fmt: skip
    suppress_end(model, tokenizer)
    trainer.train()
    return trainer


def suppress_end(model: Any, tokenizer: Any) -> None:
    """Completions run to their full length, as the plan supposes."""
    model.generation_config.suppress_tokens = [tokenizer.eos_token_id]


POLICY = {
    "num_iterations": 2, "learning_rate": 1e-6, "n_table_rows": 0, "standardize_rewards": False,
    "policy_conditioning": "none", "max_kl": None, "max_empty_fraction": 1.0,
}  # fmt: skip


def ppo_pal(folder: str, world: SimpleNamespace, stages: Stages) -> Any:
    """Rollouts of two batches."""
    from palign.trainers.pal_ppo_config import PALPPOConfig
    from palign.trainers.pal_ppo_trainer import PALPPOTrainer

    options = POLICY | {"steps_per_generation": 2, "max_completion_length": N_ANSWER}
    if not world.use_peft:
        options |= {"critic": "head"}
    return policy(folder, world, stages, PALPPOTrainer, PALPPOConfig(**common(folder, world, **options)))


def grpo_pal(folder: str, world: SimpleNamespace, stages: Stages) -> Any:
    """Rollouts of two batches in groups of four."""
    from palign.trainers.pal_grpo_config import PALGRPOConfig
    from palign.trainers.pal_grpo_trainer import PALGRPOTrainer

    options = POLICY | {"steps_per_generation": 2, "max_completion_length": N_ANSWER, "num_generations": 4}
    return policy(folder, world, stages, PALGRPOTrainer, PALGRPOConfig(**common(folder, world, **options)))


def make_mixture(folder: str, world: SimpleNamespace) -> str:
    """An untrained mixture, saved, in a process of its own."""
    place = f"{folder}/mixture"
    if not Path(place, "mixture.json").is_file():
        from palign.trainers.mixture_dpo_config import MixtureDPOConfig
        from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer

        args = MixtureDPOConfig(
            **common(folder, world, n_types=world.n_types, n_rounds=1, n_permutations=0, n_restarts=1)
            | {"output_dir": place, "max_steps": 1, "deepspeed": None},
            max_length=N_PROMPT + N_ANSWER,
        )  # fmt: skip
        model, tokenizer = load(folder, world)
        trainer = MixtureDPOTrainer(model, args, make_rows(48), processing_class=tokenizer, peft_config=lora(world))
        trainer.train()
        trainer.save_model()
    return place


def fair_policy(folder: str, world: SimpleNamespace, stages: Stages) -> Any:
    """Answers, judging, one distilled route."""
    from palign.models.mixture_policy import MixturePolicy
    from palign.models.policy_draws import PolicyReader
    from palign.trainers.fair.route_trainer import RouteTrainer
    from palign.trainers.fair_policy_config import FairPolicyConfig
    from palign.trainers.fair_policy_trainer import FairPolicyTrainer

    stages.watch(PolicyReader, "_sample", "generation")
    stages.watch(PolicyReader, "_read", "judging")
    stages.watch(RouteTrainer, "training_step", "training")
    args = FairPolicyConfig(
        **common(folder, world, n_prompts=8, n_eval_prompts=8, n_samples=2, n_eval_samples=2, n_bootstrap=10),
        max_new_tokens=N_ANSWER, draw_batch_size=world.eval_batch_size, group_size=2, judges=["types"],
        distill_targets=world.distill_targets,
    )  # fmt: skip
    with stages.stage("loading"):
        mixture = MixturePolicy.from_pretrained(f"{folder}/mixture", dtype=world.dtype)
    mixture.policies.policy.generation_config.eos_token_id = None
    trainer = FairPolicyTrainer(mixture, args, make_rows(48), make_rows(96)[48:])
    trainer.train()
    return trainer


def evaluate_fairness(folder: str, world: SimpleNamespace, stages: Stages) -> Any:
    """A mixture scores rows."""
    from palign.data.preferences import Preferences
    from palign.evaluation.judging import scores
    from palign.evaluation.judging.kinds import recognise

    stages.watch(scores, "score_source", "judging")
    rows = Preferences.from_rows(make_rows(48))
    scores.score_source(recognise(f"{folder}/mixture"), rows, batch_size=world.eval_batch_size, dtype=world.dtype)
    return None


WORKS: dict[str, Callable[[str, SimpleNamespace, Stages], Any]] = {
    name: globals()[name] for name in RECIPES
}  # fmt: skip


def child(options: argparse.Namespace) -> None:
    """One process: works under the profiler, writes its peaks."""
    import warnings

    from torch.profiler import ProfilerActivity, profile

    from palign.parallel.deepspeed_launch import prepare_deepspeed

    warnings.filterwarnings("ignore")
    world, stages = SimpleNamespace(**json.loads(options.child)), Stages()
    prepare_deepspeed(is_asked=world.launcher in DIVIDES)
    if world.launcher in DIVIDES:
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo")  # before a model is loaded in parts
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = WORKS[world.recipe](options.folder, world, stages)
    events = [(event.start_ns(), event.nbytes()) for event in profiler.profiler.kineto_results.events()
              if event.name() == "[memory]"]  # fmt: skip
    peaks = stages.peaks(events, 0)
    written = {"stages": peaks, "peak": max(peaks.values())}
    written["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rank = os.environ.get("RANK", "0")
    Path(f"{options.output}.{rank}").write_text(json.dumps(written), encoding="utf-8")
    del kept
    sys.stdout.flush()
    os._exit(0)


def measured(world: dict[str, Any]) -> dict[str, Any]:
    """Peaks of the process that holds most, by stage."""
    n = 1 if world["launcher"] == "single" else 2
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), SimpleNamespace(**world))
        if world["recipe"] in ("fair_policy", "evaluate_fairness"):
            make_mixture(folder, SimpleNamespace(**world))
        launcher = [sys.executable]
        if n > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n)]
        output = Path(folder) / "peaks"
        command = [*launcher, __file__, "--child", json.dumps(world), "--folder", folder, "--output", str(output)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        environment |= {"ACCELERATE_USE_DEEPSPEED": "true"} if world["launcher"] in DIVIDES else {}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        files = sorted(Path(folder).glob("peaks.*"))
        if len(files) != n:
            raise RuntimeError(f"{world}: {len(files)} of {n} processes came to an end.\n{done.stderr[-6000:]}")
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return max(found, key=lambda part: part["peak"])


def world_of(options: argparse.Namespace, recipe: str, size: str) -> dict[str, Any]:
    """All that a run depends on."""
    names = ("batch_size", "eval_batch_size", "n_types", "lora_r", "dtype", "bf16", "gradient_checkpointing",
             "use_peft", "launcher", "distill_targets")  # fmt: skip
    return {"recipe": recipe, **SIZES[size], **{name: getattr(options, name) for name in names}}


def parse() -> argparse.Namespace:
    """What is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--launcher", choices=("single", "multi_gpu", "zero2", "zero3"), default="single")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--eval_batch_size", type=int, default=16)
    parser.add_argument("--n_types", type=int, default=2)
    parser.add_argument("--lora_r", type=int, default=8)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--distill_targets", choices=("soft", "samples"), default="samples")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--use_peft", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--output", help="a JSON file of all figures")
    for name in ("child", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser.parse_args()


def planned(world: dict[str, Any]) -> dict[str, float]:
    """Bytes by stage, as the planner says beforehand."""
    from palign.pipelines.memory.plan import plan_memory
    from palign.pipelines.memory.run import PlannedRun
    from palign.pipelines.memory.shape import read_shape

    run = PlannedRun(
        recipe=world["recipe"], launcher=world["launcher"], num_processes=1 if world["launcher"] == "single" else 2,
        per_device_train_batch_size=world["batch_size"], eval_batch_size=world["eval_batch_size"],
        prompt_length=N_PROMPT, max_length=N_PROMPT + N_ANSWER, max_new_tokens=N_ANSWER, n_types=world["n_types"],
        lora_r=world["lora_r"], use_peft=world["use_peft"], dtype=world["dtype"], bf16=world["bf16"],
        gradient_checkpointing=world["gradient_checkpointing"], steps_per_generation=2, group_size=2,
        distill_targets=world["distill_targets"], critic="lora" if world["use_peft"] else "head", device="cpu",
        reduce_bucket_size=BUCKET,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        make_folder(Path(folder), SimpleNamespace(**world))
        plan = plan_memory(run, read_shape(folder))
    return {name: plan.total(name) for name in plan.stages}


def main() -> None:
    """Measure and compare."""
    options = parse()
    if options.child:
        child(options)
    print("| recipe | size | stage | planned, MiB | measured, MiB | planned / measured |\n|---|---|---|---|---|---|")
    found: list[dict[str, Any]] = []
    for recipe in options.only:
        for size in options.sizes:
            world = world_of(options, recipe, size)
            plan, run = planned(world), measured(world)
            of_stages = run["stages"]
            rows = {name: (plan[name], of_stages[name]) for name in plan if name in of_stages}
            rows["**peak**"] = max(plan.values()), run["peak"]
            for name, (before, after) in rows.items():
                print(
                    f"| `{recipe}` | {size} | {name} | {before / MIB:.1f} | {after / MIB:.1f} | {before / after:.2f} |"
                )
            print(f"| `{recipe}` | {size} | elsewhere | | {of_stages.get('elsewhere', 0) / MIB:.1f} | |")
            print(f"| `{recipe}` | {size} | resident peak | | {run['rss'] / MIB:.0f} | |", flush=True)
            found.append({"world": world, "planned": plan, "measured": run})
    if options.output:
        Path(options.output).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
