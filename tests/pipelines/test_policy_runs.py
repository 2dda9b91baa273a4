"""What the runs of PPO and GRPO share: where the models lie that policies are compared on."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.evaluation.judging.samples import sample_policy
from palign.pipelines.policies import PolicyRun
from palign.pipelines.ppo import PPORuns
from palign.rewards import PersonalizedReward
from tests.worlds.lora import lora
from tests.worlds.tiny_policy import IdReward, named_rows, tiny_policy

ELSEWHERE = torch.device("meta")


def runs_elsewhere(peft_config: Any = None) -> PPORuns:
    """Training takes place on another device than the one the model was loaded on."""
    model, tokenizer = tiny_policy()
    args = SimpleNamespace(
        device=ELSEWHERE, temperature=1.0, seed=0, max_completion_length=4, plain_prompts=False, disable_tqdm=True
    )
    reward = PersonalizedReward(IdReward(), standardize=False)
    return PPORuns(model, tokenizer, reward, WhoIsAsking(), named_rows(4), named_rows(4), args, peft_config)


@pytest.mark.parametrize("peft_config", [None, lora(4)])
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


def test_eval_prompts_begin_as_those_that_the_policy_was_trained_on() -> None:
    """With bos, once, and told who is asking where the policy is."""
    runs = runs_elsewhere()
    bos = [("<bos>", runs.tokenizer.bos_token_id)]
    runs.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=bos)
    runs.who.add([str(i) for i in range(4)], torch.ones(4, 1).numpy())
    for told, start in ((None, ""), (PolicyConditioning.PROMPT, "[reader: type 0] ")):
        ids = runs.eval_prompts(told)
        assert ids == runs.tokenizer([start + row["prompt"] for row in named_rows(4)])["input_ids"]
        assert all(row.count(runs.tokenizer.bos_token_id) == 1 for row in ids)


def test_token_ids_are_answered_as_their_text_is() -> None:
    model, tokenizer = tiny_policy()
    texts = ["person 1", "the garden is open and quiet today"]
    found = [
        sample_policy(model, tokenizer, prompts, max_new_tokens=6, seed=3)
        for prompts in (texts, tokenizer(texts, add_special_tokens=False)["input_ids"])
    ]
    assert found[0].completions == found[1].completions and (found[0].kl == found[1].kl).all()


def test_a_quantized_model_stays_where_it_was_loaded() -> None:
    """transformers refuses to move some of them."""
    runs = runs_elsewhere(lora(4))
    runs.model.is_quantized = True
    assert runs.sampling(None)["policy"].device == torch.device("cpu")
