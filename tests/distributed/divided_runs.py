"""Passes of each recipe on a base that is loaded in parts and stays so, beside the same on one process."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForSequenceClassification
from transformers.integrations import HfDeepSpeedConfig

from palign import PALRewardConfig, PALRewardModel, PALRewardTrainer, PersonalizedReward
from palign.conditioning import WhoIsAsking
from palign.evaluation.evaluate import evaluate_models
from palign.evaluation.judging.kinds import recognise
from palign.evaluation.judging.samples import policy_table, sample_rows
from palign.models.adapters import add_type_adapters, save_type_adapters
from palign.models.files.base_files import load_base
from palign.models.files.mixture import MixtureRecord, save_mixture
from palign.models.mixture_policy import MixturePolicy
from palign.models.tiny import make_tiny_lm
from palign.parallel.sharded import forwards, whole, whole_tensor
from palign.pipelines.grpo import GRPORuns
from palign.pipelines.ppo import PPORuns
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.trainers.fair_policy_trainer import FairPolicyTrainer
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from palign.trainers.pal_grpo_config import PALGRPOConfig, PALRLOOConfig
from palign.trainers.pal_ppo_config import PALPPOConfig
from tests.distributed.equal_runs import DDP, FSDP_2, ZERO, ZERO_3, common, how, launched, losses, start_deepspeed
from tests.distributed.residency import Residency, watched
from tests.worlds.colour import THINGS, colour_tokenizer, planted
from tests.worlds.lora import lora
from tests.worlds.planted import PROMPTS, colour_rows

# nothing stays whole, and no more is gathered than what is run just now: a tiny model would fit into every bucket
IN_PARTS = {
    "stage": 3, "stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0,
    "stage3_gather_16bit_weights_on_model_save": True,
}  # fmt: skip
ONE = DDP
MOST = 0.6  # of a base on one of two processes
# whose forward pass holds one unit and the message it came in, and whose backward pass the next one, too
N_LAYERS = {ZERO_3: 8, FSDP_2: 40}
TRAIN, HELD_OUT, LATER = (planted(n_annotators=4, n_rows=4, seed=seed) for seed in range(3))


def save_base(folder: Path, seed: int = 0, *, stage: int = ZERO_3) -> str:
    """An untrained base of which what is gathered at once is a small share, as in a large model; its folder."""
    return save_untrained(folder, N_LAYERS[stage], seed=seed)


def save_untrained(folder: Path, n_layers: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> str:
    """An untrained base of that many layers, with its tokenizer; its folder."""
    model = make_tiny_lm(colour_tokenizer(), hidden_size=64, n_layers=n_layers, n_heads=2, max_length=64, seed=seed)
    model.to(dtype).save_pretrained(folder)
    colour_tokenizer().save_pretrained(folder)
    return str(folder)


def small_lora(**changes: Any) -> Any:
    """On two layers of each block; under ZeRO-3 every module takes its time."""
    return lora(2, target_modules=["q_proj", "up_proj"], lora_dropout=0.0, **changes)


def options(folder: Path, stage: int, n_ranks: int) -> dict[str, Any]:
    """Of all trainers; on parts every tensor is divided, and nothing is gathered ahead."""
    found = common(folder, ONE, n_ranks, 1)
    return found | ({"deepspeed": ZERO | {"zero_optimization": IN_PARTS}} if stage == ZERO_3 else {})


def looked_at(stage: int) -> Any:
    """A `Residency` that sees what is gathered, or one that sees nothing."""
    launched(stage)
    if stage == ONE:
        return nullcontext(Residency())
    if stage == ZERO_3:
        start_deepspeed()  # as a launcher does, before anything is loaded
    return watched(by_deepspeed=stage == ZERO_3)


def one_pass(folder: Path, stage: int, n_ranks: int, base: str) -> dict[str, Any]:
    """Loading, a pass on the parts, and, to see that it is seen, all of the base at once."""
    with looked_at(stage) as seen:
        args = MixtureDPOConfig(**options(folder, stage, n_ranks))
        model = load_base(base, divided=True).eval()
        seen.at("pass")
        with torch.no_grad(), forwards(model):
            logits = model(torch.arange(6)[None]).logits
        seen.at("gathered")
        with whole(model.parameters()):
            held = [whole_tensor(parameter) for parameter in model.parameters()] if stage == FSDP_2 else []
            del held
        return {"shares": seen.shares, "logits": logits[0, -1, :20].tolist(), "n": args.world_size}


def mixture(folder: Path, stage: int, n_ranks: int, base: str) -> dict[str, Any]:
    """EM mixture-DPO: reference, rounds, held-out likelihood, scores and answers."""
    with looked_at(stage) as seen:
        args = MixtureDPOConfig(
            n_types=2, n_permutations=0, n_restarts=2, num_train_epochs=1, n_rounds=2, m_step="sampled", beta=0.5,
            e_step_batch_size=5, **options(folder, stage, n_ranks),
        )  # fmt: skip
        model = load_base(base, divided=True)
        seen.at("reference")
        trainer = MixtureDPOTrainer(
            model, args, TRAIN, HELD_OUT, processing_class=colour_tokenizer(), peft_config=small_lora()
        )
        linear = trainer.linear_scores(HELD_OUT)
        seen.at("training")
        trainer.train()
        seen.at("saving")
        trainer.save_model()
        seen.at("evaluation")
        found = trainer.evaluate(HELD_OUT)
        policy = trainer.mixture_policy()
        scores = policy.scores(LATER, together=True)
        seen.at("answers")
        answers = policy.generate(["what colour is the door?"] * 2, type=1, max_new_tokens=4, temperature=0)
        seen.at("end")
        return {
            **how(trainer), "shares": seen.shares, "loss": losses(trainer), "answers": " | ".join(answers),
            "responsibilities": trainer.mixture.responsibilities.tolist(), "linear": linear.numpy().tolist(),
            "likelihood": found["eval_log_likelihood"], "scores": scores.numpy().tolist(),
        }  # fmt: skip


def reward(folder: Path, stage: int, n_ranks: int, base: str, use_peft: bool = True) -> dict[str, Any]:
    """PAL reward with LoRA: embeddings, heads, both together, people placed, held-out scores, newcomers, files.

    `use_peft`: else the backbone is trained whole.
    """
    with looked_at(stage) as seen:
        args = PALRewardConfig(
            head_epochs=2, num_train_epochs=1, embedding_batch_size=5, train_backbone=not use_peft,
            embedding_cache_dir=str(folder / f"vectors_{os.environ.get('RANK', 0)}"),  # no two see one disk
            **options(folder, stage, n_ranks) | ({} if use_peft else {"learning_rate": 2e-4}),
        )  # fmt: skip
        torch.manual_seed(0)
        model = PALRewardModel.from_backbone(
            base, annotators=TRAIN.annotators(), n_prototypes=2, preference_dim=8, inner_size=16, dropout=0.0,
            divided=True,
        )  # fmt: skip
        trainer = PALRewardTrainer(model, args, TRAIN, HELD_OUT, peft_config=small_lora() if use_peft else None)
        seen.at("training")
        trainer.train()
        seen.at("saving")
        trainer.save_model()
        seen.at("evaluation")
        found = trainer.evaluate()
        scores = trainer.predict_scores(LATER, together=True)
        fit = trainer.model.fit_annotators(LATER)
        _, of_prototypes, _ = trainer.prototype_scores(LATER)
        texts = [text for _, text in LATER.items]
        one_by_one = PersonalizedReward(model, standardize=False).batch(
            [LATER.prompts[prompt] for prompt, _ in LATER.items], texts, [TRAIN.annotator_ids[0]] * len(texts)
        )
        seen.at("end")
        return {
            **how(trainer), "shares": seen.shares, "loss": losses(trainer), "likelihood": found["eval_log_likelihood"],
            "scores": scores.numpy().tolist(), "weights": model.people.all().detach().numpy().tolist(),
            "newcomers": fit.weights.numpy().tolist(), "prototypes": of_prototypes.tolist(),
            "rewards": one_by_one.raw.tolist(),
        }  # fmt: skip


def save_reward(folder: Path, backbone: str) -> str:
    """A reward model of the rows' people on a base of its own, with an adapter; its folder."""
    torch.manual_seed(0)
    model = PALRewardModel.from_backbone(backbone, annotators=TRAIN.annotators(), n_prototypes=2, preference_dim=8)
    model.backbone.model = get_peft_model(model.backbone.model, small_lora(task_type="FEATURE_EXTRACTION"))
    model.save_pretrained(folder)
    return str(folder)


def policy_rows(n: int, first: int = 0) -> list[dict[str, str]]:
    """One prompt each, of the rows' people in turn."""
    return [
        {"prompt": f"what colour is the {THINGS[(first + i) % len(THINGS)]}?", "annotator_id": f"p{i % 4}"}
        for i in range(n)
    ]


RUNS = {
    "grpo": (GRPORuns, PALGRPOConfig, {"num_generations": 4}, {"algorithm": "grpo"}),
    "rloo": (GRPORuns, PALRLOOConfig, {"num_generations": 4}, {"algorithm": "rloo"}),
    "ppo": (PPORuns, PALPPOConfig, {"critic": "lora", "num_iterations": 1}, {}),
}  # fmt: skip
WHOLE: dict[str, dict[str, Any]] = {  # further options where the policy is trained whole
    "grpo": {"beta": 0.1, "learning_rate": 1e-3}, "rloo": {"beta": 0.1, "learning_rate": 1e-3},
    "ppo": {"learning_rate": 1e-3},
}  # fmt: skip


def policies(
    folder: Path,
    stage: int,
    n_ranks: int,
    base: str,
    reward_model: str,
    recipe: str,
    critic: str | None = None,
    use_peft: bool = True,
) -> dict[str, Any]:
    """What the recipes of policies do: answers of the reference, two policies in turn, their answers, judged.

    `critic`: of PPO, another than the usual one. `use_peft`: else the policies are trained whole.
    """
    with looked_at(stage) as seen:
        runs_of, config, further, of_runs = RUNS[recipe]
        further = further | ({} if critic is None else {"critic": critic}) | ({} if use_peft else WHOLE[recipe])
        args = config(
            **options(folder, stage, n_ranks) | {"learning_rate": 2e-2} | further, max_steps=2,
            max_completion_length=4, n_reference_completions=8, missing_eos_penalty=None,
        )  # fmt: skip
        model = load_base(base, divided=True)
        judge = PALRewardModel.from_pretrained(reward_model, divided=True)
        people = [f"p{i}" for i in range(4)]
        who = WhoIsAsking.from_weights(people, judge.weights_for(people).numpy())
        runs = runs_of(
            model, colour_tokenizer(), PersonalizedReward(judge), who, policy_rows(8), policy_rows(6, first=3),
            args, peft_config=small_lora() if use_peft else None, **of_runs,
        )  # fmt: skip
        seen.at("reference answers")
        samples = {"reference": sample_rows(**runs.sampling(None) | {"batch_size": 2})}
        found: dict[str, Any] = {}
        for name in ("none", "prompt"):
            seen.at("training")
            run = runs.train(name)
            found[f"{name}/reward"] = run.history["objective/reward"].tolist()
            found[f"{name}/kl"] = run.history["objective/kl"].tolist()
            seen.at("answers")
            samples[name] = sample_rows(**runs.sampling(run) | {"batch_size": 2})
            found[f"{name}/sampled_kl"] = samples[name].kl.tolist()
        seen.at("judging")
        tables = {name: policy_table(name, runs.eval_rows, drawn, runs.reward) for name, drawn in samples.items()}
        for name, table in tables.items():
            found |= {f"{name}/texts": " | ".join(table["completion"]), f"{name}/judged": table["reward"].tolist()}
        seen.at("end")
        PartialState().wait_for_everyone()
        weights = load_file(folder / "prompt" / f"{'adapter_' if use_peft else ''}model.safetensors")
        state = PartialState()
        return {
            "num_processes": state.num_processes, "distributed_type": state.distributed_type.value, "stage": stage,
            "shares": seen.shares, "in_file": seen.in_file, **found,
            "weights": np.concatenate([weights[name].float().numpy().ravel() for name in sorted(weights)]).tolist(),
        }  # fmt: skip


def save_types(folder: Path, base: str, *, spread: float = 0.3) -> str:
    """A mixture of two types of random adapters on a base; its folder."""
    policy = add_type_adapters(AutoModelForCausalLM.from_pretrained(base), small_lora(), 2, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    save_type_adapters(policy, folder)
    people = colour_rows(PROMPTS[::2]).annotators()
    gamma = np.eye(2)[np.arange(len(people)) % 2]
    save_mixture(MixtureRecord(people, gamma, np.full(len(people), 12), gamma.mean(0), 0.5, 64, base), folder)
    return str(folder)


def fair(folder: Path, stage: int, n_ranks: int, mixture: str, reward_model: str) -> dict[str, Any]:
    """Every policy answers and is judged, the game, routes that are trained and merged, the table, the adapter."""
    with looked_at(stage) as seen:
        args = FairPolicyConfig(
            routes=["distill", "merge"], n_prompts=8, n_eval_prompts=8, n_samples=1, n_eval_samples=1,
            max_new_tokens=2, n_bootstrap=10, group_size=2, max_steps=2, draw_batch_size=8,
            judges=["types", "votes", "pal"], **options(folder, stage, n_ranks),
        )  # fmt: skip
        rows = colour_rows(PROMPTS[:8]), colour_rows(PROMPTS[8:16], n_rows=3)
        policy = MixturePolicy.from_pretrained(mixture, divided=True)
        judge = PALRewardModel.from_pretrained(reward_model, divided=True)
        trainer = FairPolicyTrainer(policy, args, *rows, pal=judge)
        seen.at("estimation")
        trainer.estimate()
        seen.at("routes")
        record = trainer.train()
        seen.at("saving")
        trainer.save_model()
        PartialState().wait_for_everyone()
        seen.at("end")
        state = PartialState()
        return {
            "num_processes": state.num_processes, "distributed_type": state.distributed_type.value, "stage": stage,
            "shares": seen.shares, "chosen": record["chosen"], "value": record["game"]["value"]["value"],
            "regrets": [row["max_regret"]["value"] for row in record["table"]],
            "values": record["game"]["values"], "votes": [scores.tolist() for scores in trainer.vote_scores.values()],
        }  # fmt: skip


def save_judged(folder: Path, base: str, mixture: str, reward_model: str) -> list[str]:
    """Models of each kind that is read in parts: PAL, mixture, an adapter by its implicit reward, TRL's reward."""
    config = AutoConfig.from_pretrained(base)
    config.num_labels = 1
    torch.manual_seed(3)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    colour_tokenizer().save_pretrained(folder)
    return [reward_model, mixture, f"{mixture}/type_1", str(folder)]


def evaluation(folder: Path, stage: int, n_ranks: int, models: list[str]) -> dict[str, Any]:
    """Models of several kinds on the same rows."""
    with looked_at(stage) as seen:
        config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": IN_PARTS}
        held = HfDeepSpeedConfig(config) if stage == ZERO_3 else None
        state = PartialState(cpu=True)
        sources = [recognise(path, name=f"model_{i}") for i, path in enumerate(models)]
        found = evaluate_models(sources, LATER, batch_size=5)
        del held
        seen.at("end")
        table = None if found is None else found.table
        told = {} if table is None else {name: table[name].tolist() for name in ("accuracy", "log_likelihood")}
        return {"num_processes": state.num_processes, "stage": stage, "shares": seen.shares} | told
