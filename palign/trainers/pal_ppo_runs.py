"""Policies trained by PPO, one per way of saying who is asking."""

from dataclasses import dataclass
from typing import Any

from palign.trainers.pal_grpo_runs import GRPORuns
from palign.trainers.pal_grpo_trainer import PersonalGroupTrainer
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.ppo.critic import take_off_critic

__all__ = ["PPORuns"]


@dataclass
class PPORuns(GRPORuns):
    """`PolicyRuns` by `PALPPOTrainer`."""

    @property
    def trainer_class(self) -> type[PersonalGroupTrainer]:
        """`PALPPOTrainer`."""
        return PALPPOTrainer

    def _trained(self, trainer: PersonalGroupTrainer) -> Any:
        policy = super()._trained(trainer)
        take_off_critic(policy)
        return policy
