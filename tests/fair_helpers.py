"""A small language model that names a colour, and two planted types who like opposite ones, as a finished mixture."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mixture_helpers import COLD, THINGS, WARM, colour_lm, colour_tokenizer, lora

from palign.data.preferences import Preferences
from palign.models.adapters import TypePolicies, add_type_adapters, save_type_adapters
from palign.models.mixture_files import MixtureRecord, save_mixture
from palign.models.mixture_policy import MixturePolicy
from palign.models.tiny import train_tiny_lm
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer

PROMPTS = [f"what colour is the {first} {second}?" for first in THINGS for second in THINGS if first != second]
TRAIN, FRESH = PROMPTS[::2], PROMPTS[1::2]


def colour_rows(prompts: list[str], n_annotators: int = 8, n_rows: int = 12, *, seed: int = 0) -> Preferences:
    """Even annotators like warm colours, odd ones cold ones; one in ten votes is a slip."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(n_annotators):
        for _ in range(n_rows):
            pair = [rng.choice(WARM), rng.choice(COLD)]
            if person % 2 != (rng.random() < 0.1):
                pair.reverse()
            chosen, rejected = (f" the door is {colour}" for colour in pair)
            rows.append({"annotator_id": f"p{person}", "prompt": prompts[rng.integers(len(prompts))],
                         "chosen": chosen, "rejected": rejected, "type": "wc"[person % 2]})  # fmt: skip
    return Preferences.from_rows(rows)


def speaking_lm(n_steps: int = 120) -> Any:
    """It says " the door is <colour>", each colour as often."""
    rng = np.random.default_rng(0)
    prompts = [PROMPTS[i] for i in rng.integers(len(PROMPTS), size=400)]
    answers = [f" the door is {rng.choice(WARM + COLD)}" for _ in prompts]
    model = colour_lm()
    train_tiny_lm(model, colour_tokenizer(), prompts, answers, n_steps=n_steps, show_progress=False)
    return model


def planted_mixture(folder: Path, *, epochs: float = 5.0) -> MixturePolicy:
    """Two trained types, written to `folder` as `recipes/em_dpo.py` would; about half a minute."""
    rows = colour_rows(TRAIN)
    args = MixtureDPOConfig(
        output_dir=str(folder), n_types="2", types_from="given", per_device_train_batch_size=16, learning_rate=1e-3,
        num_train_epochs=epochs, beta=0.5, use_cpu=True, disable_tqdm=True, report_to="none", seed=0,
        logging_strategy="no",
    )  # fmt: skip
    trainer = MixtureDPOTrainer(
        speaking_lm(), args, rows, processing_class=colour_tokenizer(), peft_config=lora(4),
        responsibilities=np.eye(2)[np.arange(8) % 2],
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    return trainer.mixture_policy()


def random_mixture(folder: Path, n_types: int = 2, *, spread: float = 0.3) -> MixturePolicy:
    """An untrained base with adapters of random weights, written to `folder`; a second."""
    model = colour_lm()
    model.save_pretrained(folder / "base_model")
    colour_tokenizer().save_pretrained(folder / "base_model")
    model.name_or_path = str(folder / "base_model")
    policy = add_type_adapters(model, lora(2), n_types, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    save_type_adapters(policy, folder)
    people = colour_rows(TRAIN).annotators()
    gamma = np.eye(n_types)[np.arange(len(people)) % n_types]
    record = MixtureRecord(people, gamma, np.full(len(people), 12), gamma.mean(0), 0.5, 64, None)
    save_mixture(record, folder)
    return MixturePolicy(TypePolicies(policy), colour_tokenizer(), record)
