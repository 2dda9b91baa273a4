"""Adapters read as part of the weights they change, in passes without gradient: one matrix product in place of three.

W x + s·B A x = (W + s·B A) x. The sum is made anew for every pass, so nothing is left behind in a weight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn

from palign.parallel.sharded import is_sharded

__all__ = ["folded"]


@contextmanager
def folded(model: nn.Module, name: str | None) -> Iterator[None]:
    """Inside this context LoRA layers run with the adapter of that name folded into their weights.

    Only in float32 and without gradient, where the product is the same but for rounding; quantized layers, other
    variants of LoRA and weights that are divided among processes run as they always do. So do short inputs, for which
    the sum would cost more than it saves.

    Args:
        model: carries the adapter, in evaluation mode: dropout is not applied.
        name: of the adapter; None leaves everything as it is.
    """
    layers = [] if name is None or torch.is_grad_enabled() or is_sharded(model) else _plain_layers(model, name)
    for layer in layers:
        layer.forward = partial(_forward, layer, name)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _plain_layers(model: nn.Module, name: str) -> list[Linear]:
    layers = (module for module in model.modules() if type(module) is Linear)
    return [layer for layer in layers if name in layer.lora_A and _is_plain(layer, name)]


def _is_plain(layer: Linear, name: str) -> bool:
    base = layer.base_layer
    return (
        type(base) is nn.Linear
        and base.weight.dtype == layer.lora_A[name].weight.dtype == torch.float32
        and not torch.is_autocast_enabled(base.weight.device.type)
        and not (layer.merged or layer.training or layer.fan_in_fan_out)
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
    )


def _forward(layer: Linear, name: str, x: Tensor) -> Tensor:
    weight = layer.base_layer.weight
    if x.numel() // x.shape[-1] < weight.shape[0] or x.dtype != weight.dtype:
        return type(layer).forward(layer, x)
    whole = torch.addmm(weight, layer.lora_B[name].weight, layer.lora_A[name].weight, alpha=layer.scaling[name])
    return F.linear(x, whole, layer.base_layer.bias)
