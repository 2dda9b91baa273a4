"""A spy at PPO's socket and quick arguments; what other policies are tested with, too, is in policy_helpers."""

from types import SimpleNamespace
from typing import Any

import torch
from policy_helpers import N_PEOPLE, IdReward, SeenRow, lora, named_rows, tiny_policy, wrong_pairings

from palign.rewards import PersonalizedReward, PPORewardSocket
from palign.trainers.pal_ppo_config import PALPPOConfig

__all__ = [
    "N_PEOPLE", "IdReward", "SeenRow", "SpyReward", "SpySocket", "lora", "named_rows", "ppo_config", "tiny_policy",
    "wrong_pairings",
]  # fmt: skip


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


def ppo_config(output_dir: Any, **changes: Any) -> PALPPOConfig:
    """Two updates of eight rows, scored in chunks of three, without standardization."""
    settings: dict[str, Any] = {
        "output_dir": str(output_dir), "use_cpu": True, "per_device_train_batch_size": 8, "total_episodes": 16,
        "local_rollout_forward_batch_size": 3, "num_ppo_epochs": 1, "response_length": 4, "learning_rate": 1e-2,
        "policy_conditioning": "none", "standardize_rewards": False, "num_sample_generations": 0, "disable_tqdm": True,
        "per_device_eval_batch_size": 4, "temperature": 1.0, "save_strategy": "no",
    }  # fmt: skip
    return PALPPOConfig(**{**settings, **changes})
