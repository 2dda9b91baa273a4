"""Completions' log-probabilities without the logits of every position: equal values, and only where they are."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from palign.functional.logprobs import completion_logps
from palign.models.completions import policy_logps
from palign.models.states import scored
from tests.worlds.causal_models import SHAPE, small_model


def batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 0, 0], [15, 16, 17, 18, 19, 0]])
    attention = (ids > 0).long()
    completion = attention.clone()
    for row, n_prompt in enumerate((2, 3, 1)):
        completion[row, :n_prompt] = 0
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}


def by_logits(model: nn.Module) -> torch.Tensor:
    """The plain way: logits of every position."""
    rows = batch()
    logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    return completion_logps(logits, rows["input_ids"], rows["completion_mask"])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("at_once", [1, 50, 100_000])
def test_values_and_gradients_are_those_of_all_logits(kind, at_once, monkeypatch):
    monkeypatch.setattr(scored, "logits_at_once", lambda device: at_once)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(small_model(kind), lora).eval()
    assert scored.has_plain_head(model.get_base_model())
    weights = torch.tensor([1.0, -2.0, 0.5])
    found = {}
    for name, logps in (("plain", by_logits(model)), ("scored", policy_logps(model, **batch()))):
        model.zero_grad()
        (weights * logps).sum().backward()
        found[name] = logps.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found["scored"], found["plain"], rtol=1e-4, atol=1e-5)
    assert len(found["plain"][1]) > 8


@pytest.mark.parametrize("kind", ["gemma2", "cohere"])
def test_capped_and_scaled_logits_are_read_as_the_model_makes_them(kind):
    model = small_model(kind).requires_grad_(False)
    assert not scored.has_plain_head(model)
    torch.testing.assert_close(policy_logps(model, **batch()), by_logits(model))


def test_a_model_that_changes_its_logits_without_a_word_in_its_configuration_is_found_out():
    class Louder(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 1.5
            return output

    model = Louder(LlamaConfig(**SHAPE)).eval().requires_grad_(False)
    assert not scored.has_plain_head(model)
    torch.testing.assert_close(policy_logps(model, **batch()), by_logits(model))


def test_a_head_that_is_trained_gets_its_gradient():
    model = small_model("llama")
    assert not scored.has_plain_head(model)
    policy_logps(model, **batch()).sum().backward()
    assert float(model.lm_head.weight.grad.abs().sum()) > 0


def test_lora_on_the_head_is_read():
    lora = LoraConfig(r=4, target_modules=["lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(small_model("llama"), lora).eval()
    assert not scored.has_plain_head(model.get_base_model())
    torch.testing.assert_close(policy_logps(model, **batch()), by_logits(model))


class EightBitLinear(nn.Linear):
    """A head held in eight bits, as those of bitsandbytes a linear map of a class of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight.abs().amax(1, keepdim=True) / 127
        return nn.functional.linear(x, (self.weight / scale).round() * scale, self.bias)


@torch.no_grad()
def test_a_quantized_head_is_read_as_the_model_makes_its_logits():
    model = small_model("llama").eval()
    plain = policy_logps(model, **batch())
    head = EightBitLinear(*model.lm_head.weight.shape[::-1], bias=False)
    head.weight = model.lm_head.weight
    model.set_output_embeddings(head)
    assert not scored.has_plain_head(model)
    quantized = policy_logps(model, **batch())
    torch.testing.assert_close(quantized, by_logits(model), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(quantized, plain, rtol=1e-5, atol=1e-5)  # what eight bits round is there


def test_looking_at_a_model_leaves_it_in_training():
    model = small_model("llama").requires_grad_(False).train()
    model.model.layers[0].eval()
    assert scored.has_plain_head(model)
    assert model.training and model.model.layers[1].training and not model.model.layers[0].training
