"""Adapters read as part of the weights they change: one matrix product in place of three.

W x + s·B A x = (W + s·B A) x. The sum is made anew for every pass, so nothing is left behind in a weight. With a
gradient the backward pass makes the sum once more, and finds the gradients of A and B without a product of the size
of W.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch import Tensor, nn

from palign.parallel.sharded import is_sharded

__all__ = ["folded"]


@contextmanager
def folded(model: nn.Module, name: str | None) -> Iterator[None]:
    """Inside this context LoRA layers run with the adapter of that name folded into their weights.

    Only in float32, where the product is the same but for rounding; quantized layers, other variants of LoRA and
    weights that are divided among processes run as they always do, and so does a layer with dropout in training. So do
    short inputs without gradient, for which the sum would cost more than it saves. With gradient checkpointing nothing
    is folded in training: what is recomputed later would not be.

    Args:
        model: carries the adapter.
        name: of the adapter; None leaves everything as it is.
    """
    layers = [] if name is None or is_sharded(model) else _plain_layers(model, name)
    for layer in layers:
        layer.forward = partial(_forward, layer, name)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _plain_layers(model: nn.Module, name: str) -> list[Linear]:
    modules = list(model.modules())
    if torch.is_grad_enabled() and any(getattr(module, "gradient_checkpointing", False) for module in modules):
        return []
    layers = (module for module in modules if type(module) is Linear)
    return [layer for layer in layers if name in layer.lora_A and _is_plain(layer, name)]


def _is_plain(layer: Linear, name: str) -> bool:
    base = layer.base_layer
    return (
        type(base) is nn.Linear
        and base.weight.dtype == layer.lora_A[name].weight.dtype == torch.float32
        and not torch.is_autocast_enabled(base.weight.device.type)
        and not (base.weight.requires_grad and torch.is_grad_enabled())
        and not (layer.merged or layer.fan_in_fan_out)
        and not (layer.training and getattr(layer.lora_dropout[name], "p", 0) > 0)
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
    )


def _forward(layer: Linear, name: str, x: Tensor) -> Tensor:
    weight = layer.base_layer.weight
    is_short = x.numel() // x.shape[-1] < weight.shape[0]
    # in training all processes have to take one way: ZeRO-2 takes it that gradients come in the same order everywhere
    if (is_short and not torch.is_grad_enabled()) or x.dtype != weight.dtype:
        return type(layer).forward(layer, x)
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _FoldedLinear.apply(x, a, b, weight, layer.base_layer.bias, layer.scaling[name])


class _FoldedLinear(torch.autograd.Function):
    """(W + scaling · B A) x + bias, of which x, A and B get gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(x, a, b, weight)
        ctx.scaling = scaling
        return F.linear(x, torch.addmm(weight, b, a, alpha=scaling), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        x, a, b, weight = ctx.saved_tensors
        of_x = grad @ torch.addmm(weight, b, a, alpha=ctx.scaling) if ctx.needs_input_grad[0] else None
        x, grad = x.flatten(0, -2), grad.flatten(0, -2)
        of_a = ctx.scaling * ((grad @ b).T @ x)
        of_b = ctx.scaling * (grad.T @ (x @ a.T))
        return of_x, of_a, of_b, None, None, None
