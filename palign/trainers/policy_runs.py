"""One policy per way of saying who is asking, trained and saved one after another from one language model."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import PartialState
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.data.rendering import render_prompt
from palign.rewards import PersonalizedReward
from palign.trainers.pal_ppo_adapters import adapter_name, train_prototype_adapters
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.value_model import make_value_model

N_TABLE_ROWS = 8  # spread over the eval rows, for the sample table


@dataclass
class PolicyRun:
    """A trained policy.

    Attributes:
        conditioning: how it learns who is asking.
        policy: the language model with its adapter(s).
        history: metrics by update, column `adapter` with several adapters; also saved as `history.csv`.
    """

    conditioning: PolicyConditioning
    policy: PreTrainedModel
    history: pd.DataFrame


@dataclass
class PolicyRuns:
    """What every run shares.

    Args:
        model: the language model to start from, which is also the reference.
        tokenizer: of `model`.
        reward: of the person each row belongs to.
        who: names for the people.
        train_rows, eval_rows: `prompt`, `annotator_id` and perhaps groups.
        args: of every run.
        peft_config: of every adapter; None trains the whole policy.
        n_value_layers: see `make_value_model`.
        judge: see `PALPPOTrainer`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reward: PersonalizedReward
    who: WhoIsAsking
    train_rows: Sequence[dict[str, Any]]
    eval_rows: Sequence[dict[str, Any]]
    args: PALPPOConfig
    peft_config: PeftConfig | None = None
    n_value_layers: int | None = None
    judge: Callable[[str, str], float] | None = None
    _latest: PreTrainedModel | None = None

    def train(self, conditioning: PolicyConditioning | str) -> PolicyRun:
        """Train one policy, save it under `output_dir/<conditioning>`; the policy of the run before is gone then.

        Raises:
            ValueError: `conditioning="adapter"` without `peft_config`.
        """
        conditioning = PolicyConditioning(conditioning)
        args = copy.copy(self.args)
        args.policy_conditioning, args.output_dir = conditioning, str(Path(self.args.output_dir) / conditioning.value)
        model = self._clean_model()
        if conditioning is PolicyConditioning.ADAPTER:
            run = self._train_adapters(model, args)
        else:
            run = self._train_one(model, args)
        if PartialState().is_main_process:
            run.history.to_csv(Path(args.output_dir) / "history.csv", index=False)
        self._latest = run.policy
        return run

    def _clean_model(self) -> PreTrainedModel:
        """The language model as it was given: adapters are taken off again, a fully trained policy is a copy."""
        if self.peft_config is None:
            return copy.deepcopy(self.model)
        if isinstance(self._latest, PeftModel):
            self.model, self._latest = self._latest.unload(), None
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config
        return self.model

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
        trainer.train()
        trainer.save_model()
        policy = trainer.accelerator.unwrap_model(trainer.model).policy
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

    def eval_prompts(self, conditioning: PolicyConditioning | str | None) -> list[str]:
        """The prompts of `eval_rows` as a policy meets them; None for the reference, which is told nothing."""
        prompts = [row["prompt"] for row in self.eval_rows]
        if conditioning is not None and PolicyConditioning(conditioning) is PolicyConditioning.PROMPT:
            prompts = self.who.condition(prompts, [str(row["annotator_id"]) for row in self.eval_rows])
        return [render_prompt(prompt, self.tokenizer) for prompt in prompts]

    def eval_adapters(self) -> list[str]:
        """The adapter that serves each of `eval_rows`: that of the person's dominant prototype."""
        return [adapter_name(self.who.types[str(row["annotator_id"])]) for row in self.eval_rows]
