"""Training on a base that was loaded in parts under FSDP2: of adapters that lie whole on each process, or of parts.

The base gathers itself, so that Accelerate has nothing to divide and nothing to wrap: its FSDP would divide the
adapters with it, and DDP does not take weights in parts. What is left is to begin alike and to average the gradients
of the adapters before each step; parts average theirs in the backward pass.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn

from palign.parallel.fsdp import is_dtensor, is_kept_divided
from palign.parallel.fsdp_launch import is_fsdp_launch

__all__ = ["BesideDivided", "average_gradients", "refuse_copies"]

SWITCH = "ACCELERATE_USE_FSDP"


class BesideDivided:
    """Put before `Trainer` among the bases; nothing changes where the model was not loaded in parts under FSDP2.

    Attributes:
        may_train_parts: whether this trainer can train what was loaded in parts itself, and not adapters on it alone.
        is_beside_divided: whether the model was loaded in parts.
        trains_parts: whether it is trained itself.
    """

    may_train_parts = False
    is_beside_divided = False
    trains_parts = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        model = kwargs.get("model", args[0] if args else None)
        self.is_beside_divided = is_kept_divided(model)
        if self.is_beside_divided:
            self.trains_parts = self.would_train_parts(model, kwargs.get("peft_config"))
            self._refuse_trained_parts(model)
        refuse_copies(model, kwargs.get("peft_config"))
        with _fitting_accelerator(is_divided=self.is_beside_divided):
            super().__init__(*args, **kwargs)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_beside_divided:
            self._refuse_trained_parts(self.model)
            # autocast, and nothing else; what is prepared already `Accelerator.prepare` leaves as it is
            self.accelerator.prepare_model(self.model, device_placement=False, evaluation_mode=True)
            for held in _trained(self.model):
                torch.distributed.broadcast(held.data, src=0)
        return super()._prepare_for_training(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """transformers'; the last of a step's batches averages the gradients over the processes."""
        loss = super().training_step(*args, **kwargs)
        if self.is_beside_divided and self.accelerator.sync_gradients:
            average_gradients(_trained(self.model))  # parts have averaged theirs in the backward pass
        return loss

    def would_train_parts(self, model: object, peft_config: Any) -> bool:
        """Whether this trainer would train what was loaded in parts, and no adapter on it."""
        return self.may_train_parts and is_kept_divided(model) and _has_trained_parts(model) and not peft_config

    def _refuse_trained_parts(self, model: nn.Module) -> None:
        if not self.trains_parts and _has_trained_parts(model):
            raise ValueError(
                "The base was loaded in parts under FSDP2, where it stays frozen, and its own weights are to be "
                "trained. Train an adapter (--use_peft true), or load the base whole."
            )


def refuse_copies(model: object, peft_config: Any) -> None:
    """ValueError where PEFT would copy modules of a base that was loaded in parts under FSDP2."""
    copied = getattr(peft_config, "modules_to_save", None)
    if copied and is_kept_divided(model):
        raise ValueError(
            f"The LoRA configuration has modules_to_save {', '.join(copied)}, which PEFT copies, and the base was "
            "loaded in parts under FSDP2, which cannot be copied. Leave --lora_modules_to_save out."
        )


def _has_trained_parts(model: nn.Module) -> bool:
    return any(held.requires_grad and is_dtensor(held) for held in model.parameters())


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [held for held in model.parameters() if held.requires_grad and not is_dtensor(held)]


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """The mean over the processes of each parameter's gradient, in place; all processes call it with the same ones.

    A gradient that a process lacks counts as 0, and one that all of them lack stays away, as on one process.
    """
    if not (parameters and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
        return
    there = torch.tensor([held.grad is not None for held in parameters], dtype=torch.int, device=parameters[0].device)
    torch.distributed.all_reduce(there, op=torch.distributed.ReduceOp.MAX)
    by_type: dict[torch.dtype, list[nn.Parameter]] = {}
    for held, is_there in zip(parameters, there.tolist(), strict=True):
        if is_there:
            held.grad = torch.zeros_like(held) if held.grad is None else held.grad
            by_type.setdefault(held.grad.dtype, []).append(held)
    for group in by_type.values():
        message = torch.cat([held.grad.reshape(-1) for held in group])
        torch.distributed.all_reduce(message)
        message /= torch.distributed.get_world_size()
        for held, part in zip(group, message.split([held.numel() for held in group]), strict=True):
            held.grad.copy_(part.view_as(held.grad))


@contextmanager
def _fitting_accelerator(*, is_divided: bool) -> Iterator[None]:
    """Around the making of a trainer: Accelerate takes up FSDP where the launch says so and it has to divide."""
    if not is_fsdp_launch():
        yield
        return
    _forget_other(wants_fsdp=not is_divided)
    before = os.environ[SWITCH]
    if is_divided:
        os.environ[SWITCH] = "false"
    try:
        yield
    finally:
        os.environ[SWITCH] = before


def _forget_other(*, wants_fsdp: bool) -> None:
    """Accelerate's state of a trainer before this one, where that had FSDP and this one has not, or the reverse."""
    if not AcceleratorState._shared_state:
        return
    state = PartialState()
    has_fsdp = state.distributed_type == DistributedType.FSDP
    if has_fsdp == wants_fsdp or state.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        return
    AcceleratorState._reset_state()
    GradientState._reset_state()
    if has_fsdp:  # else the next state would take the processes for FSDP's
        kind = "GPU" if state.device.type in ("cuda", "cpu") else state.device.type.upper()
        PartialState._shared_state["distributed_type"] = DistributedType(f"MULTI_{kind}")
