"""Adapters folded into their weights: the same values, nothing left behind, and only where it is exact."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from palign.models.states.folded import folded
from tests.worlds.causal_models import small_model


def lora_model(**options: object) -> torch.nn.Module:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, **options)
    return get_peft_model(small_model("llama"), config, adapter_name="type_0").eval()


@torch.no_grad()
def logits_of(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(400).reshape(4, 100) % 50
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}])
def test_values_are_those_of_the_adapter_beside_its_weight(options):
    model = lora_model(**options)
    before = logits_of(model)
    with torch.no_grad(), folded(model, "type_0"):
        replaced = sum("forward" in vars(module) for module in model.modules())
        torch.testing.assert_close(logits_of(model), before, rtol=1e-5, atol=1e-5)
    assert (replaced > 0) == (not {"use_dora", "lora_bias"} & set(options))
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(logits_of(model), before)


def test_nothing_is_folded_in_training_nor_in_half_precision():
    for model, grad in ((lora_model(), True), (lora_model().train(), False), (lora_model().bfloat16(), False)):
        with torch.set_grad_enabled(grad), folded(model, "type_0"):
            assert not any("forward" in vars(module) for module in model.modules())


def test_weights_are_left_as_they_were():
    model = lora_model()
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad(), folded(model, "type_0"):
        logits_of(model)
    assert all(torch.equal(state[name], held) for name, held in model.state_dict().items())
