"""One tiny run of each trainer, as it is killed: the command that begins it is the one that goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import set_seed

from palign.data.preferences import Preferences
from palign.models import embeddings as embeddings_module
from palign.models.backbones import Backbone
from palign.models.embeddings import EmbeddingStore
from palign.models.files.game import load_game
from palign.models.files.mixture import load_mixture
from palign.models.mixture_policy import MixturePolicy
from palign.models.pal import PALRewardModel
from palign.rewards import PersonalizedReward
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.trainers.fair_policy_trainer import FairPolicyTrainer
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.pal_reward_trainer import PALRewardTrainer
from tests.worlds.colour import colour_lm, colour_tokenizer, planted
from tests.worlds.group_policy import make_trainer as group_trainer
from tests.worlds.lora import lora
from tests.worlds.planted import FRESH, colour_rows, random_mixture
from tests.worlds.planted import TRAIN as GAME_PROMPTS
from tests.worlds.ppo_policy import named_rows, ppo_config, tiny_policy
from tests.worlds.recipes import RECIPES, load_recipe
from tests.worlds.reward_models import make_people, text_model, text_rows
from tests.worlds.tiny_policy import IdAndLength

QUIET = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "logging_strategy": "no", "seed": 0}
KEPT = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}


def mixture(folder: Path) -> None:
    """Ten steps in three rounds of EM, a checkpoint after every second step and every round; an epoch has six."""
    _reads_or_says_so(load_mixture, folder)
    set_seed(0)
    args = MixtureDPOConfig(
        output_dir=str(folder), n_types=2, n_rounds=3, max_steps=10, per_device_train_batch_size=8, n_restarts=2,
        n_permutations=0, head_dim=8, learning_rate=1e-3, **QUIET, **(KEPT | {"save_steps": 2}),
    )  # fmt: skip
    rows = planted(n_annotators=8, n_rows=6)
    trainer = MixtureDPOTrainer(colour_lm(), args, rows, processing_class=colour_tokenizer(), peft_config=lora())
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()


def mixture_of(folder: Path) -> dict[str, torch.Tensor]:
    record = load_mixture(folder)
    found = {"responsibilities": torch.from_numpy(record.responsibilities)}
    for k in range(2):
        tensors = load_file(folder / f"type_{k}" / "adapter_model.safetensors")
        found |= {f"type_{k}.{name}": tensor for name, tensor in tensors.items()}
    return found


def reward(folder: Path) -> None:
    """A head, then LoRA on the backbone for eight steps, a checkpoint after each; an epoch has five."""
    _reads_or_says_so(PALRewardModel.from_pretrained, str(folder))
    set_seed(0)
    people = make_people(5)
    model = text_model(annotators=people, dropout=0.0)
    args = PALRewardConfig(
        output_dir=str(folder), head_epochs=3, max_steps=8, per_device_train_batch_size=8, learning_rate=1e-3,
        embedding_cache_dir=str(folder / "embeddings"), **QUIET, **KEPT,
    )  # fmt: skip
    trainer = PALRewardTrainer(model, args, Preferences.from_rows(text_rows(40)), peft_config=lora())
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()


def reward_of(folder: Path) -> dict[str, torch.Tensor]:
    adapter = load_file(folder / "backbone_adapter" / "adapter_model.safetensors")
    return load_file(folder / "model.safetensors") | {f"adapter.{name}": t for name, t in adapter.items()}


def ppo(folder: Path) -> None:
    """Eight updates, two on each rollout, a checkpoint after each."""
    set_seed(0)
    model, tokenizer = tiny_policy()
    args = ppo_config(
        folder, max_steps=8, num_iterations=2, standardize_rewards=True, n_reference_completions=4,
        learning_rate=1e-3, **KEPT,
    )  # fmt: skip
    rows = named_rows(20)
    trainer = PALPPOTrainer(
        model, PersonalizedReward(IdAndLength(), standardize=True), args, tokenizer, rows, peft_config=lora(),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    if trainer.accelerator.is_main_process:
        names = ("objective/reward", "objective/kl", "completions/mean_length", "critic/explained_variance")
        history = [[row[name] for name in names] for row in trainer.history]
        (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")


def ppo_of(folder: Path) -> dict[str, torch.Tensor]:
    history = torch.tensor(json.loads((folder / "history.json").read_text(encoding="utf-8")), dtype=torch.float64)
    return load_file(folder / "adapter_model.safetensors") | {"history": history}


def grpo(folder: Path) -> None:
    """Seven updates, two on each generation, a checkpoint after each; an epoch has four."""
    set_seed(0)
    trainer = group_trainer(
        folder, "grpo", PersonalizedReward(IdAndLength(), standardize=False), max_steps=7, steps_per_generation=2,
        train_dataset=named_rows(8), **KEPT,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()


def grpo_of(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "adapter_model.safetensors")
    assert any(t.any() for name, t in found.items() if "lora_B" in name), "nothing has moved: equal says nothing"
    return found


def ppo_recipe(folder: Path) -> None:
    """Two policies one after another, eight updates each, a checkpoint at every tenth of it, and the report."""
    smoke = str(RECIPES / "configs" / "ppo_pal" / "smoke.yaml")
    flags = ["--output_dir", str(folder), "--disable_tqdm", "true", "--resume_from_checkpoint", "true"]
    load_recipe("ppo_pal").main(["--config", smoke, *flags])


def ppo_recipe_of(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for name in ("none", "prompt"):
        found |= {f"{name}.{key}": t for key, t in load_file(folder / name / "adapter_model.safetensors").items()}
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found | {key: torch.tensor(value) for key, value in summary.items() if not key.endswith("seconds")}


def fair(folder: Path) -> None:
    """Two routes and the pooled baseline of four steps each, over draws of seven policies."""
    _reads_or_says_so(load_game, folder)
    set_seed(0)
    args = FairPolicyConfig(
        output_dir=str(folder), routes=["distill", "merge"], n_prompts=8, n_samples=2, n_eval_prompts=8,
        n_eval_samples=2, max_new_tokens=6, draw_batch_size=64, max_steps=4, per_device_train_batch_size=4,
        learning_rate=1e-3, n_bootstrap=20, max_kl=1e6, **QUIET,
    )  # fmt: skip
    trainer = FairPolicyTrainer(_types(folder), args, colour_rows(GAME_PROMPTS), colour_rows(FRESH, seed=1))
    trainer.train()
    trainer.save_model()


def fair_of(folder: Path) -> dict[str, torch.Tensor]:
    record = load_game(folder)
    regrets = torch.tensor([row["regrets"] for row in record["table"]], dtype=torch.float64)
    found = {"regrets": regrets, "weights": torch.tensor(record["game"]["policy_weights"]["value"])}
    return load_file(folder / "adapter_model.safetensors") | found


def embeddings(folder: Path) -> None:
    """Three hundred texts, in parts of eight."""
    embeddings_module.TEXTS_AT_ONCE = 8
    store, backbone, texts = _store(folder)
    store.fill(backbone, texts, progress=False)


def embeddings_of(folder: Path) -> dict[str, torch.Tensor]:
    store, _, texts = _store(folder)
    return {"vectors": torch.from_numpy(store.vectors[store.rows(texts)].copy())}


def _store(folder: Path) -> tuple[EmbeddingStore, Backbone, list[str]]:
    backbone = text_model().backbone
    texts = [f"{row['prompt']} {row['chosen']}" for row in text_rows(300)]
    return EmbeddingStore(folder, backbone.fingerprint(), backbone.hidden_size), backbone, texts


TRAIN = {"mixture": mixture, "reward": reward, "ppo": ppo, "grpo": grpo, "fair": fair, "embeddings": embeddings}
TRAIN["ppo_recipe"] = ppo_recipe
READ = {
    "mixture": mixture_of,
    "reward": reward_of,
    "ppo": ppo_of,
    "grpo": grpo_of,
    "ppo_recipe": ppo_recipe_of,
    "fair": fair_of,
    "embeddings": embeddings_of,
}


def _run(name: str) -> Callable[[Path], dict[str, torch.Tensor]]:
    def run(folder: Path) -> dict[str, torch.Tensor]:
        TRAIN[name](folder)
        return READ[name](folder)

    return run


RUNS = {name: _run(name) for name in TRAIN}


def _types(folder: Path) -> MixturePolicy:
    """Two types that were trained before: written once, whole, and read from then on."""
    source = folder.parent / "types"
    if not (source / "mixture.json").is_file():
        random_mixture(source)
    return MixturePolicy.from_pretrained(source)


def _reads_or_says_so(load: Any, folder: Any) -> None:
    """What an interruption left at the top of the folder is whole, or the loader says that it is nothing."""
    try:
        load(folder)
    except ValueError as error:
        if "lacks" not in str(error) and "holds no" not in str(error):
            raise
