"""What the runs of PPO and GRPO share: where the models lie that policies are compared on."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from policy_helpers import IdReward, lora, named_rows, tiny_policy

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.rewards import PersonalizedReward
from palign.trainers.pal_ppo_runs import PPORuns
from palign.trainers.policy_runs import PolicyRun

ELSEWHERE = torch.device("meta")


def runs_elsewhere(peft_config: Any = None) -> PPORuns:
    """Training takes place on another device than the one the model was loaded on."""
    model, tokenizer = tiny_policy()
    args = SimpleNamespace(device=ELSEWHERE, temperature=1.0, seed=0, response_length=4)
    reward = PersonalizedReward(IdReward(), standardize=False)
    return PPORuns(model, tokenizer, reward, WhoIsAsking(), named_rows(4), named_rows(4), args, peft_config)


@pytest.mark.parametrize("peft_config", [None, lora()])
def test_the_reference_answers_on_the_device_of_training(peft_config: Any) -> None:
    found = runs_elsewhere(peft_config).sampling(None)
    assert found["policy"].device == ELSEWHERE and "reference" not in found


def test_a_policy_trained_whole_is_compared_with_a_reference_on_its_own_device() -> None:
    runs = runs_elsewhere()
    policy = runs._clean_model()
    assert policy is not runs.model and policy.device == torch.device("cpu")
    run = PolicyRun(PolicyConditioning.NONE, policy.to(ELSEWHERE), None)
    found = runs.sampling(run)
    assert found["policy"] is policy and found["reference"] is runs.model
    assert found["policy"].device == found["reference"].device == ELSEWHERE


def test_a_quantized_model_stays_where_it_was_loaded() -> None:
    """transformers refuses to move some of them."""
    runs = runs_elsewhere(lora())
    runs.model.is_quantized = True
    assert runs.sampling(None)["policy"].device == torch.device("cpu")
