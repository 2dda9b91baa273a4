"""Samples of a policy: every mark that ends an answer ends it, a KL known to be 0 costs nothing, memory is bounded."""

from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model

from palign.evaluation.judging import samples as module
from palign.evaluation.judging.samples import sample_policy
from tests.worlds.lora import lora
from tests.worlds.tiny_policy import tiny_policy

PROMPTS = ["person 1", "the garden is open", "person 2 asks", "open"]


def adapted() -> tuple[Any, Any]:
    model, tokenizer = tiny_policy()
    policy = get_peft_model(model, lora())
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return policy.eval(), tokenizer


def test_the_reference_beside_itself_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_policy()
    monkeypatch.setattr(module, "_log_probability", pytest.fail)
    found = sample_policy(model, tokenizer, PROMPTS, max_new_tokens=4)
    assert (found.kl == 0).all() and len(found.completions) == 4


def test_a_reference_that_is_told_less_is_read() -> None:
    model, tokenizer = tiny_policy()
    found = sample_policy(model, tokenizer, PROMPTS, reference_prompts=["open"] * 4, max_new_tokens=4)
    assert np.abs(found.kl).max() > 1e-3


def test_the_memory_for_logits_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, tokenizer = adapted()
    whole = sample_policy(policy, tokenizer, PROMPTS, max_new_tokens=6, seed=2)
    seen = []
    spy = policy.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 2 * 7 * policy.config.vocab_size)
    parts = sample_policy(policy, tokenizer, PROMPTS, max_new_tokens=6, seed=2)
    spy.remove()
    assert parts.completions == whole.completions
    np.testing.assert_allclose(parts.kl, whole.kl, atol=1e-4)
    assert np.abs(whole.kl).max() > 1e-3
    assert seen[-4:] == [2, 2, 2, 2]  # two rows at a time, policy and reference


def test_every_mark_that_ends_an_answer_ends_it() -> None:
    """Of a list in generation_config, of which the tokenizer knows one: the other ends answers as well."""
    model, tokenizer = tiny_policy()
    (other,) = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    hook = model.lm_head.register_forward_hook(lambda _, __, out: out + 50.0 * (torch.arange(out.shape[-1]) == other))
    found = sample_policy(model, tokenizer, PROMPTS, max_new_tokens=6, reference=model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    runs_on = sample_policy(model, tokenizer, PROMPTS, max_new_tokens=6)
    hook.remove()
    assert not found.is_cut.any() and runs_on.is_cut.all()
