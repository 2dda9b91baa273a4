"""Policies trained by PPO, one per way of saying who is asking."""

import copy
from dataclasses import dataclass

import pandas as pd
from transformers import PreTrainedModel

from palign.trainers.deepspeed_runs import trained_model
from palign.trainers.pal_ppo_adapters import train_prototype_adapters
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.policy_runs import PolicyRun, PolicyRuns
from palign.trainers.prototype_adapters import adapter_name
from palign.trainers.value_model import make_value_model

__all__ = ["PPORuns"]

N_TABLE_ROWS = 8  # spread over the eval rows, for the sample table


@dataclass
class PPORuns(PolicyRuns):
    """`PolicyRuns` by `PALPPOTrainer`.

    Args:
        n_value_layers: see `make_value_model`.
    """

    n_value_layers: int | None = None

    @property
    def max_new_tokens(self) -> int:
        """Length at which completions are cut."""
        return self.args.response_length

    def _train_one(self, model: PreTrainedModel, args: PALPPOConfig) -> PolicyRun:
        value_model = make_value_model(model, n_layers=self.n_value_layers)
        trainer = PALPPOTrainer(
            model,
            self.reward,
            args,
            self.tokenizer,
            self.train_rows,
            eval_dataset=self.eval_rows[:: max(1, len(self.eval_rows) // N_TABLE_ROWS)][:N_TABLE_ROWS],
            who=self.who,
            value_model=value_model,
            peft_config=copy.deepcopy(self.peft_config),
            judge=self.judge,
        )
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        trainer.save_model()
        policy = trained_model(trainer, "policy")
        return PolicyRun(args.policy_conditioning, policy.eval(), pd.DataFrame(trainer.history))

    def _train_adapters(self, model: PreTrainedModel, args: PALPPOConfig) -> PolicyRun:
        if self.peft_config is None:
            raise ValueError(
                "policy_conditioning='adapter' trains one LoRA per prototype; give a PEFT config (--use_peft)."
            )
        trained = train_prototype_adapters(
            model,
            self.reward.model,
            args,
            self.tokenizer,
            self.train_rows,
            n_prototypes=self.who.n_types,
            peft_config=self.peft_config,
            n_value_layers=self.n_value_layers,
            judge=self.judge,
        )
        parts = [pd.DataFrame(history).assign(adapter=adapter_name(k)) for k, history in enumerate(trained.histories)]
        return PolicyRun(args.policy_conditioning, trained.policy, pd.concat(parts))
