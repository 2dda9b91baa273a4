"""One LoRA per prototype, each trained by PPO on that prototype's reward alone."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palign.rewards import PersonalizedReward, Scorer
from palign.trainers.deepspeed_runs import trained_model
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.prototype_adapters import History, PrototypeAdapters, train_one_by_one
from palign.trainers.value_model import make_value_model


def train_prototype_adapters(
    model: PreTrainedModel,
    reward_model: Scorer,
    args: PALPPOConfig,
    processing_class: PreTrainedTokenizerBase,
    train_dataset: Sequence[dict[str, Any]],
    *,
    n_prototypes: int,
    peft_config: PeftConfig,
    n_value_layers: int | None = None,
    judge: Callable[[str, str], float] | None = None,
) -> PrototypeAdapters:
    """Train the adapters one after another on all prompts, and save each in `output_dir/type_k`.

    Args:
        model: the base, a causal language model; it comes back with the adapters on it.
        reward_model: whose `score` takes `weights`.
        args: of every run; `total_episodes` (or those of `num_train_epochs`) and `max_steps` are shared out evenly
            over the prototypes.
        processing_class: the policy's tokenizer.
        train_dataset: rows as `PALPPOTrainer` takes them; the people play no part in a prototype's reward.
        n_prototypes: K.
        peft_config: of every adapter.
        n_value_layers: see `make_value_model`.
        judge: see `PALPPOTrainer`.
    """
    n_episodes = args.total_episodes
    if n_episodes is None:  # as TRL counts them
        n_episodes = int(args.num_train_epochs * len(train_dataset))

    def train_one(base: PreTrainedModel, weights: Tensor, own: PALPPOConfig) -> tuple[PeftModel, History]:
        own.total_episodes = max(1, n_episodes // n_prototypes)
        own.max_steps = max(1, args.max_steps // n_prototypes) if args.max_steps > 0 else args.max_steps
        trainer = PALPPOTrainer(
            base,
            PersonalizedReward(reward_model, weights=weights, standardize=args.standardize_rewards),
            own,
            processing_class,
            train_dataset,
            value_model=make_value_model(base, n_layers=n_value_layers),
            peft_config=copy.deepcopy(peft_config),
            judge=judge,
        )
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()
        return trained_model(trainer, "policy"), trainer.history

    return train_one_by_one(model, args, train_one, n_prototypes=n_prototypes)
