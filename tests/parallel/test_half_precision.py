"""What is planned for a ZeRO-3 engine under `--bf16`, and what is left alone."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from palign.parallel.half_precision import plan_half_precision


def divided_base() -> nn.ModuleList:
    """A frozen layer in bfloat16 that looks divided, and one beside it that is trained."""
    base, adapter = (nn.Linear(2, 2, bias=False, dtype=torch.bfloat16) for _ in range(2))
    base.weight.requires_grad_(False).ds_id = 0
    return nn.ModuleList([base, adapter])


def accelerator(stage: int = 3, precision: str = "bf16", **config: Any) -> Any:
    """One of ours for DeepSpeed as far as it is asked, which prepares models as Accelerate does."""
    plugin = SimpleNamespace(zero_stage=stage, deepspeed_config=config)
    held = SimpleNamespace(
        state=SimpleNamespace(deepspeed_plugin=plugin), mixed_precision=precision, native_amp=False, _models=[]
    )
    held.prepare_model = lambda model, **_: held._models.append(model)
    return held


def test_adapters_are_held_and_summed_in_float32() -> None:
    held, model = accelerator(communication_data_type="bf16"), divided_base()
    plan_half_precision(held, model)
    assert [module.weight.dtype for module in model] == [torch.bfloat16, torch.float32]
    config = held.state.deepspeed_plugin.deepspeed_config
    assert config == {
        "communication_data_type": "bf16",
        "data_types": {"grad_accum_dtype": "fp32"},
    }  # as the launch says
    assert held.native_amp and held._models == []


@pytest.mark.parametrize(
    "held, is_trained_whole", [(accelerator(2), False), (accelerator(3, "no"), False), (accelerator(), True)]
)
def test_what_is_left_to_deepspeed(held: Any, is_trained_whole: bool) -> None:
    model = divided_base()
    if is_trained_whole:
        model.requires_grad_()[1].weight.ds_id = 1
    plan_half_precision(held, model)
    assert not held.native_amp and held.state.deepspeed_plugin.deepspeed_config == {}
    assert model[1].weight.dtype == torch.bfloat16


def test_beside_a_critic_a_policy_in_parts_is_held_in_float32() -> None:
    held, model = accelerator(), divided_base().requires_grad_()
    model[0].weight.ds_tensor = torch.zeros(2, dtype=torch.bfloat16)
    plan_half_precision(held, model)
    assert model[0].weight.ds_tensor.dtype == model[0].weight.dtype == model[1].weight.dtype == torch.float32
    assert held.native_amp


def test_without_deepspeed_nothing_is_done() -> None:
    model = divided_base()
    plan_half_precision(Accelerator(cpu=True), model)
    assert model[1].weight.dtype == torch.bfloat16
