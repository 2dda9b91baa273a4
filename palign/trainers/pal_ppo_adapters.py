"""`policy_conditioning="adapter"`: one LoRA per prototype, each trained on that prototype's reward alone."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palign.rewards import PersonalizedReward, Scorer
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.value_model import make_value_model


@dataclass
class PrototypeAdapters:
    """A policy with one adapter per prototype.

    Attributes:
        policy: the base with the adapters `type_0` … `type_{K−1}`; `policy.set_adapter("type_0")` selects one.
        histories: per prototype, the metrics of every update.
    """

    policy: PeftModel
    histories: list[list[dict[str, float]]]


def adapter_name(prototype: int) -> str:
    """Name of the adapter, and of its folder, of prototype `prototype`."""
    return f"type_{prototype}"


def choose_prototypes(weights: np.ndarray, *, draw: bool = False, seed: int = 0) -> np.ndarray:
    """Which adapter serves each person: `(n_people,)` integers.

    Args:
        weights: `(n_people, n_prototypes)`, rows on the simplex.
        draw: False serves a person by their dominant prototype, True by a draw in proportion to their weights.
        seed: of the draw.
    """
    weights = np.asarray(weights, dtype=float)
    if not draw:
        return weights.argmax(1)
    ends = weights.cumsum(1) / weights.sum(1, keepdims=True)
    return (np.random.default_rng(seed).random((len(weights), 1)) > ends).sum(1).clip(max=weights.shape[1] - 1)


def train_prototype_adapters(
    model: PreTrainedModel,
    reward_model: Scorer,
    args: PALPPOConfig,
    processing_class: PreTrainedTokenizerBase,
    train_dataset: Sequence[dict[str, Any]],
    *,
    n_prototypes: int,
    peft_config: PeftConfig,
    n_value_layers: int | None = None,
    judge: Callable[[str, str], float] | None = None,
) -> PrototypeAdapters:
    """Train the adapters one after another on all prompts, and save each in `output_dir/type_k`.

    Args:
        model: the base, a causal language model; it comes back with the adapters on it.
        reward_model: whose `score` takes `weights`.
        args: of every run; `total_episodes` are shared out evenly over the prototypes.
        processing_class: the policy's tokenizer.
        train_dataset: rows as `PALPPOTrainer` takes them; the people play no part in a prototype's reward.
        n_prototypes: K.
        peft_config: of every adapter.
        n_value_layers: see `make_value_model`.
        judge: see `PALPPOTrainer`.
    """
    histories = []
    for prototype in range(n_prototypes):
        own = copy.copy(args)
        own.output_dir = str(Path(args.output_dir) / adapter_name(prototype))
        own.total_episodes = max(1, args.total_episodes // n_prototypes)
        weights = torch.eye(n_prototypes)[prototype]
        trainer = PALPPOTrainer(
            model,
            PersonalizedReward(reward_model, weights=weights, standardize=args.standardize_rewards),
            own,
            processing_class,
            train_dataset,
            value_model=make_value_model(model, n_layers=n_value_layers),
            peft_config=copy.deepcopy(peft_config),
            judge=judge,
        )
        trainer.train()
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()
        histories.append(trainer.history)
        model = trainer.accelerator.unwrap_model(trainer.model).policy.unload()
        if hasattr(model, "peft_config"):
            del model.peft_config
    folders = [Path(args.output_dir) / adapter_name(k) for k in range(n_prototypes)]
    policy = PeftModel.from_pretrained(model, folders[0], adapter_name=adapter_name(0))
    for prototype, folder in enumerate(folders[1:], 1):
        policy.load_adapter(folder, adapter_name=adapter_name(prototype))
    return PrototypeAdapters(policy.eval(), histories)
