"""A small language model that names a colour, and two planted types who like opposite ones, as a finished mixture."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from palign.data.preferences import Preferences
from palign.models.adapters import TypePolicies, add_type_adapters, route, save_type_adapters
from palign.models.completions import TokenizedItems, policy_logps
from palign.models.files.mixture import MixtureRecord, save_mixture
from palign.models.mixture_policy import MixturePolicy
from palign.models.tiny import train_tiny_lm
from tests.worlds.colour import COLD, THINGS, WARM, colour_lm, colour_tokenizer
from tests.worlds.lora import lora

PROMPTS = [f"what colour is the {first} {second}?" for first in THINGS for second in THINGS if first != second]
TRAIN, FRESH = PROMPTS[::2], PROMPTS[1::2]


def saying(colour: str) -> str:
    """An answer."""
    return f" the door is {colour} {colour}"


def colour_rows(
    prompts: list[str], n_annotators: int = 8, n_rows: int = 12, *, cold_every: int = 2, seed: int = 0
) -> Preferences:
    """The last of every `cold_every` annotators likes cold colours, the others warm ones; one in ten votes slips."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(n_annotators):
        for _ in range(n_rows):
            pair = [rng.choice(WARM), rng.choice(COLD)]
            is_cold = person % cold_every == cold_every - 1
            if is_cold != (rng.random() < 0.1):
                pair.reverse()
            chosen, rejected = (saying(colour) for colour in pair)
            rows.append({"annotator_id": f"p{person}", "prompt": prompts[rng.integers(len(prompts))],
                         "chosen": chosen, "rejected": rejected, "type": "wc"[is_cold]})  # fmt: skip
    return Preferences.from_rows(rows)


def speaking_lm(n_steps: int = 250) -> Any:
    """It says " the door is <colour> <colour>", any colour, twice the same.

    Colours that were always exchangeable would have one embedding, and no adapter could tell them apart.
    """
    rng = np.random.default_rng(0)
    prompts = [PROMPTS[i] for i in rng.integers(len(PROMPTS), size=600)]
    model = colour_lm()
    answers = [saying(rng.choice(WARM + COLD)) for _ in prompts]
    train_tiny_lm(
        model, colour_tokenizer(), prompts, answers, n_steps=n_steps, learning_rate=1e-2, show_progress=False
    )
    return model


def planted_mixture(folder: Path, *, n_steps: int = 80) -> MixturePolicy:
    """Two types who name a colour of their own nine times in ten; three in four people are of the warm one.

    The adapters are trained on such answers, so that what each policy says is known.
    """
    model, tokenizer = speaking_lm(), colour_tokenizer()
    model.save_pretrained(folder / "base_model")
    tokenizer.save_pretrained(folder / "base_model")
    model.name_or_path = str(folder / "base_model")
    policy = add_type_adapters(model, lora(4), 2, seed=0)
    rng = np.random.default_rng(0)
    for name, (own, other) in zip(("type_0", "type_1"), ((WARM, COLD), (COLD, WARM)), strict=True):
        adapter = [p for n, p in policy.named_parameters() if f".{name}." in n]
        optimizer = torch.optim.AdamW(adapter, lr=1e-2)
        for _ in range(n_steps):
            rows = [
                {"annotator_id": "x", "prompt": PROMPTS[rng.integers(len(PROMPTS))],
                 "chosen": saying(rng.choice(other if rng.random() < 0.1 else own)), "rejected": " no"}
                for _ in range(32)
            ]  # fmt: skip
            prefs = Preferences.from_rows(rows)
            batch = TokenizedItems.of(prefs, tokenizer).collate(prefs.item_indices[:, 0])
            with route(policy, name):
                loss = -policy_logps(policy, **batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_type_adapters(policy, folder)
    people = colour_rows(TRAIN).annotators()
    gamma = np.eye(2)[(np.arange(len(people)) % 4 == 3).astype(int)]
    record = MixtureRecord(people, gamma, np.full(len(people), 12), gamma.mean(0), 0.5, 64, None)
    save_mixture(record, folder)
    return MixturePolicy(TypePolicies(policy), tokenizer, record)


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
