"""Adapters folded into their weights: the same values, nothing left behind, and only where it is exact."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from palign.models.states.folded import folded
from tests.worlds.causal_models import small_model


def lora_model(**options: object) -> torch.nn.Module:
    options = {"target_modules": "all-linear"} | options
    config = LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, **options)
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


def loss_and_gradients(model: torch.nn.Module, *, fold: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ids = torch.arange(400).reshape(4, 100) % 50
    model.zero_grad()
    with folded(model, "type_0" if fold else None):
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
    loss.backward()
    return loss.detach(), {name: held.grad.clone() for name, held in model.named_parameters() if held.requires_grad}


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": ["q_proj"]}])
def test_gradients_are_those_of_the_adapter_beside_its_weight(options: dict[str, object]) -> None:
    model = lora_model(**options).train()
    loss, plain = loss_and_gradients(model, fold=False)
    folded_loss, gradients = loss_and_gradients(model, fold=True)
    torch.testing.assert_close(folded_loss, loss, rtol=1e-6, atol=1e-6)
    assert plain and gradients.keys() == plain.keys()
    for name, gradient in plain.items():
        assert gradient.abs().max() > 1e-5
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def n_folded(model: torch.nn.Module, *, grad: bool) -> int:
    with torch.set_grad_enabled(grad), folded(model, "type_0"):
        return sum("forward" in vars(module) for module in model.modules())


def test_where_it_would_not_be_the_same_nothing_is_folded() -> None:
    assert n_folded(lora_model().train(), grad=True) > 0
    assert n_folded(lora_model().bfloat16(), grad=False) == 0
    assert n_folded(lora_model(lora_dropout=0.1).train(), grad=True) == 0
    assert n_folded(lora_model(lora_dropout=0.1).eval(), grad=False) > 0
    is_trained = lora_model()
    is_trained.requires_grad_(True)
    assert n_folded(is_trained, grad=True) == 0
    recomputed = lora_model()
    recomputed.get_base_model().activation_checkpointing_enable()
    assert n_folded(recomputed, grad=True) == 0 and n_folded(recomputed, grad=False) > 0


def test_weights_are_left_as_they_were():
    model = lora_model()
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad(), folded(model, "type_0"):
        logits_of(model)
    assert all(torch.equal(state[name], held) for name, held in model.state_dict().items())
