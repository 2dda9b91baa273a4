"""A tiny policy, rows that name their person, and a reward that knows whom it was asked about; nothing of PPO."""

from types import SimpleNamespace
from typing import Any

import torch

from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer

N_PEOPLE = 40


def named_rows(n_rows: int = N_PEOPLE) -> list[dict[str, str]]:
    """One row per person; the prompt says the person's id, so that a wrong pairing can be seen."""
    return [
        {"prompt": f"person {i} asks about the garden", "annotator_id": f"{i}", "type": ("even", "odd")[i % 2]}
        for i in range(n_rows)
    ]


def tiny_policy(seed: int = 0) -> tuple[Any, Any]:
    """An untrained one-layer policy and its tokenizer."""
    texts = [row["prompt"] for row in named_rows()] + ["the garden is open and quiet today."] * 3
    tokenizer = make_tiny_tokenizer(texts, vocab_size=400)
    return make_tiny_lm(tokenizer, hidden_size=16, n_layers=1, n_heads=2, seed=seed), tokenizer


class IdReward:
    """Rewards every completion with the number of the person it was asked about: rewards that show the pairing."""

    def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
        return torch.tensor([float(person) for person in annotator_ids])


class IdAndLength:
    """The number of the person, and a hundredth for each character: differs within a group, and shows the pairing."""

    def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
        pairs = zip(annotator_ids, completions, strict=True)
        return torch.tensor([float(person) + len(text) / 100 for person, text in pairs])


class SeenRow(SimpleNamespace):
    """What was really scored: `query`, the text of the policy's prompt tokens, and the `reward` given for it."""


def wrong_pairings(seen: list[SeenRow]) -> int:
    """Rows whose reward is not that of the person whom the scored prompt names."""
    return sum(float(row.query.split("person ")[1].split(" asks")[0]) != row.reward for row in seen)


def train_beyond_the_limit(trainer: Any, first: int, resume: bool) -> None:
    """Train a policy whose KL the guard takes for too large from update `first` on."""
    watch = trainer.guard.watch
    trainer.guard.watch = lambda step, kl, empty: watch(step, 99.0 if step >= first else 0.0, 0.0)
    trainer.train(resume_from_checkpoint=resume)


def went_back_at(update: int, guard: Any, step: int, parameters: dict[str, torch.nn.Parameter]) -> None:
    """Stopped there, holding the weights that were good and not the last ones."""
    assert step == update and guard.stop_reason.startswith(f"update {update}: ")
    good, latest = guard.good_weights, guard.latest_weights
    for name, parameter in parameters.items():
        assert torch.equal(parameter, good[name]), name
    assert any(not torch.equal(good[name], latest[name]) for name in good)
