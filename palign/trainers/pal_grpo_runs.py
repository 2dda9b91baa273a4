"""Policies trained by GRPO or RLOO, one per way of saying who is asking."""

import copy
from dataclasses import dataclass
from typing import Any

import pandas as pd
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from palign.parallel.deepspeed_launch import trained_model
from palign.rewards import PersonalizedReward
from palign.trainers.pal_grpo_config import GroupAlgorithm, GroupPolicyConfig
from palign.trainers.pal_grpo_trainer import PALGRPOTrainer, PALRLOOTrainer, PersonalGroupTrainer
from palign.trainers.policy_runs import PolicyRun, PolicyRuns
from palign.trainers.prototype_adapters import History, adapter_name, train_one_by_one

__all__ = ["GRPORuns"]

TRAINERS = {GroupAlgorithm.GRPO: PALGRPOTrainer, GroupAlgorithm.RLOO: PALRLOOTrainer}


@dataclass
class GRPORuns(PolicyRuns):
    """`PolicyRuns` by `PALGRPOTrainer` or `PALRLOOTrainer`.

    Args:
        algorithm: which of the two.
    """

    algorithm: GroupAlgorithm = GroupAlgorithm.GRPO

    @property
    def max_new_tokens(self) -> int:
        """Length at which completions are cut."""
        return self.args.max_completion_length

    @property
    def trainer_class(self) -> type[PersonalGroupTrainer]:
        """What trains."""
        return TRAINERS[self.algorithm]

    def _trainer(
        self, model: PreTrainedModel, reward: PersonalizedReward, args: Any, **who: Any
    ) -> PersonalGroupTrainer:
        trainer = self.trainer_class(
            model, reward, args, self.tokenizer, self.train_rows,
            peft_config=copy.deepcopy(self.peft_config), judge=self.judge, **who,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()
        return trainer

    def _trained(self, trainer: PersonalGroupTrainer) -> Any:
        """The policy, whole and by itself."""
        return trained_model(trainer)

    def _train_one(self, model: PreTrainedModel, args: GroupPolicyConfig) -> PolicyRun:
        trainer = self._trainer(model, self.reward, args, who=self.who)
        policy = self._trained(trainer)
        return PolicyRun(args.policy_conditioning, policy.eval(), pd.DataFrame(trainer.history))

    def _train_adapters(self, model: PreTrainedModel, args: GroupPolicyConfig) -> PolicyRun:
        if self.peft_config is None:
            raise ValueError(
                "policy_conditioning='adapter' trains one LoRA per prototype; give a PEFT config (--use_peft)."
            )
        n_prototypes = self.who.n_types

        def train_one(base: PreTrainedModel, weights: Tensor, own: Any) -> tuple[PeftModel, History]:
            own.max_steps = max(1, own.max_steps // n_prototypes) if own.max_steps > 0 else own.max_steps
            own.num_train_epochs = own.num_train_epochs / n_prototypes
            reward = PersonalizedReward(self.reward.model, weights=weights, standardize=args.standardize_rewards)
            trainer = self._trainer(base, reward, own)
            return self._trained(trainer), trainer.history

        trained = train_one_by_one(model, args, train_one, n_prototypes=n_prototypes)
        parts = [pd.DataFrame(history).assign(adapter=adapter_name(k)) for k, history in enumerate(trained.histories)]
        return PolicyRun(args.policy_conditioning, trained.policy, pd.concat(parts))
