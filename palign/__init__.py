"""palign: preferences with a name on each of them, rewards and policies that know who they serve.

`import palign` loads nothing heavy: a public name is imported from its module when it is first asked for. It lets the
Auto classes of transformers know palign's classifier, as soon as they are loaded (`palign.auto_classes`).
"""

import importlib

from palign.auto_classes import register_when_loaded

__version__ = "0.1.0"

register_when_loaded()

# public name -> the module that defines it
_MODULE_OF = {
    "AnnotatorIndex": "palign.data.annotators",
    "Preferences": "palign.data.preferences",
    "load_preferences": "palign.data.loading",
    "load_embeddings": "palign.data.loading",
    "DataArguments": "palign.data.arguments",
    "split_by_annotator": "palign.data.splits",
    "split_by_prompt": "palign.data.splits",
    "split_by_item": "palign.data.splits",
    "split_by_row": "palign.data.splits",
    "PALRewardModel": "palign.models.pal",
    "MetricModel": "palign.models.metric.model",
    "register_head": "palign.models.pal_config",
    "PersonalizedReward": "palign.rewards",
    "different_pairs": "palign.questions",
    "next_questions": "palign.questions",
    "PALRewardConfig": "palign.trainers.pal_reward_config",
    "PALRewardTrainer": "palign.trainers.pal_reward_trainer",
    "PALPPOConfig": "palign.trainers.pal_ppo_config",
    "PALPPOTrainer": "palign.trainers.pal_ppo_trainer",
    "PALGRPOConfig": "palign.trainers.pal_grpo_config",
    "PALGRPOTrainer": "palign.trainers.pal_grpo_trainer",
    "PALRLOOConfig": "palign.trainers.pal_grpo_config",
    "PALRLOOTrainer": "palign.trainers.pal_grpo_trainer",
    "MixturePolicy": "palign.models.mixture_policy",
    "MixtureDPOConfig": "palign.trainers.mixture_dpo_config",
    "MixtureDPOTrainer": "palign.trainers.mixture_dpo_trainer",
    "FairPolicyConfig": "palign.trainers.fair_policy_config",
    "FairPolicyTrainer": "palign.trainers.fair_policy_trainer",
    "GroupFrame": "palign.evaluation.group_frame",
    "push_folder": "palign.models.files.hub",
}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'palign' has no attribute {name!r}; it has {', '.join(sorted(_MODULE_OF))}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
