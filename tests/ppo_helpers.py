"""A tiny policy, rows that name their person, and a reward that knows whom it was asked about; for the PPO tests."""

from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig

from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer
from palign.rewards import PersonalizedReward, PPORewardSocket
from palign.trainers.pal_ppo_config import PALPPOConfig

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


class SeenRow(SimpleNamespace):
    """What was really scored: `query`, the text of the policy's prompt tokens, and the `reward` given for it."""


class SpySocket(PPORewardSocket):
    """Keeps the prompt tokens it was really given beside the reward it gave; may look away from wrong pairings."""

    looks_away = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[SeenRow] = []
        self.chunk_sizes: list[int] = []

    def read_rows(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> SimpleNamespace:
        output = super().read_rows(input_ids, attention_mask, **rest)
        self.chunk_sizes.append(len(input_ids))
        for ids, mask, value in zip(input_ids, attention_mask, output.hidden_states[0][:, 0, 0], strict=True):
            text = self.tokenizer.decode(ids[mask.bool()])
            self.seen.append(SeenRow(query=text, reward=value.item()))
        return output

    def _check_queries(self, *args: Any) -> None:
        if not self.looks_away:
            super()._check_queries(*args)


class SpyReward(PersonalizedReward):
    def for_ppo(self, tokenizer: Any) -> SpySocket:
        return SpySocket(self, tokenizer)


def wrong_pairings(seen: list[SeenRow]) -> int:
    """Rows whose reward is not that of the person whom the scored prompt names."""
    return sum(float(row.query.split("person ")[1].split(" asks")[0]) != row.reward for row in seen)


def ppo_config(output_dir: Any, **changes: Any) -> PALPPOConfig:
    """Two updates of eight rows, scored in chunks of three, without standardization."""
    settings: dict[str, Any] = {
        "output_dir": str(output_dir), "use_cpu": True, "per_device_train_batch_size": 8, "total_episodes": 16,
        "local_rollout_forward_batch_size": 3, "num_ppo_epochs": 1, "response_length": 4, "learning_rate": 1e-2,
        "policy_conditioning": "none", "standardize_rewards": False, "num_sample_generations": 0, "disable_tqdm": True,
        "per_device_eval_batch_size": 4, "temperature": 1.0, "save_strategy": "no",
    }  # fmt: skip
    return PALPPOConfig(**{**settings, **changes})


def lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
