"""One small model of every kind on disk, and rows about colours to judge them by."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import BertConfig, BertForSequenceClassification, LlamaForSequenceClassification

from palign.data.annotators import AnnotatorIndex
from palign.models.pal import PALRewardModel
from tests.worlds.colour import COLD, THINGS, WARM, colour_lm, colour_tokenizer
from tests.worlds.lora import lora
from tests.worlds.planted import random_mixture

PEOPLE = [f"p{number}" for number in range(6)]


def rows_of_colours(n_rows: int = 24, *, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs and rankings of three, with a country and an age band that hang together with nothing."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(n_rows):
        thing = THINGS[rng.integers(len(THINGS))]
        colours = rng.permutation(WARM + COLD)[: 2 + number % 2]
        rows.append({
            "annotator_id": PEOPLE[number % 6], "prompt": f"what colour is the {thing}?",
            "completions": [f" the {thing} is {colour}" for colour in colours],
            "country": ["NL", "PL"][number % 6 % 2], "age": [30, 60, 60][number % 6 % 3],
        })  # fmt: skip
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def save_with_tokenizer(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    colour_tokenizer().save_pretrained(folder)
    return folder


def make_model(kind: str, folder: Path) -> Path:
    """A model of one kind in a folder of its name; an adapter's base stands beside it."""
    torch.manual_seed(0)
    tokenizer, place = colour_tokenizer(), folder / kind
    if kind == "reward":
        config = colour_lm().config
        config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
        return save_with_tokenizer(LlamaForSequenceClassification(config), place)
    if kind == "encoder":
        config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                            intermediate_size=32, num_labels=1)  # fmt: skip
        return save_with_tokenizer(BertForSequenceClassification(config), place)
    if kind in ("causal", "base"):
        return save_with_tokenizer(colour_lm(seed=0 if kind == "base" else 7), place)
    if kind in ("adapter", "fair"):
        base = make_model("base", folder)
        model = colour_lm()
        model.name_or_path = str(base)
        policy = get_peft_model(model, lora())
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        policy.save_pretrained(place)
        if kind == "fair":
            (place / "game.json").write_text(json.dumps({"format": 1, "beta": 0.25}), encoding="utf-8")
        return place
    if kind == "mixture":
        random_mixture(place)
        return place
    model = PALRewardModel.from_backbone(
        colour_lm(), tokenizer=tokenizer, n_prototypes=3, annotators=AnnotatorIndex(PEOPLE[:5]), preference_dim=4
    )
    torch.nn.init.normal_(model.people.logits.weight)
    model.save_pretrained(place)
    return place
