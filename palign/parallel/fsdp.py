"""Models that PyTorch's FSDP2 divides: whole for a while, and out of it again.

`fully_shard` changes modules in place: a forward pass of the outermost one puts weights together, what is called below
it (`generate` of a policy within a wrapper) does not, and PyTorch has no function that takes a model out. What is
private here is listed in tests/parallel/test_fsdp.py.

`torch.distributed.tensor` and `torch.distributed.fsdp` take a second of processor time to import, which who divides
nothing need not spend: a tensor or module of theirs can only be there where somebody has imported them.

A base that was loaded in parts (`keep_divided`) is another thing: each of its units gathers itself, it runs at any
time, and nothing here puts it together.
"""

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

__all__ = [
    "copied_parts", "divide_again", "is_dtensor", "is_fsdp", "is_kept_divided", "keep_divided", "kept_whole",
    "leave_fsdp", "local_part", "numbers_in_messages", "outside_fsdp", "parts_beside_whole", "units_of_weights",
]  # fmt: skip

KEPT = "_stays_divided"  # of modules of a base that was loaded in parts

HOOKS = (
    "_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip


def is_dtensor(tensor: object) -> bool:
    """Whether it lies in parts on several processes, as a `DTensor`."""
    return _is_a(tensor, "torch.distributed.tensor", "DTensor")


def local_part(tensor: Tensor) -> Tensor:
    """What of a tensor that FSDP2 has divided lies on this process; any other as it is."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def _is_unit(module: object) -> bool:
    return _is_a(module, "torch.distributed.fsdp", "FSDPModule")


def _is_a(thing: object, module: str, kind: str) -> bool:
    """`isinstance`, without importing the class: False where nobody has."""
    held = getattr(sys.modules.get(module), kind, None)
    return held is not None and isinstance(thing, held)


def is_fsdp(model: object) -> bool:
    """Whether FSDP2 divides this module, one inside of it, or weights of one that holds it."""
    return isinstance(model, nn.Module) and (
        any(_is_unit(module) for module in model.modules())
        or any(is_dtensor(parameter) for parameter in model.parameters())
    )


def keep_divided(model: nn.Module) -> None:
    """Say of a model that it was loaded in parts, and stays so to the end; all of it, or any part, may be run."""
    for module in model.modules():
        setattr(module, KEPT, True)
    model._get_fsdp_state()._lazy_init()  # else the first part to run would take itself for the outermost


def is_kept_divided(model: object) -> bool:
    """Whether this model, or one inside of it, was loaded in parts under FSDP2."""
    return isinstance(model, nn.Module) and any(hasattr(module, KEPT) for module in model.modules())


def copied_parts(model: nn.Module, *, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a model that was loaded in parts, in parts, too, and to be trained; nothing is put together.

    Layers are gathered each by itself. What lies beside them (embeddings, the last norm, the head) is gathered while
    the whole model runs: embeddings and head may be one weight, and TRL reads the head's outside of the head, where
    the processes' gradients are averaged only if it is there in full. So it is run as a whole, not part by part.

    Args:
        model: of transformers, after `keep_divided`.
        dtype: of the copy, if it is to be another.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    kind = next(kind for kind in type(model).__mro__ if not issubclass(kind, FSDPModule))
    options = {"dtype": dtype or model.dtype, "attn_implementation": model.config._attn_implementation}
    with torch.device("meta"):
        made = kind._from_config(copy.deepcopy(model.config), **options)
    made.tie_weights()
    mesh = next(held.device_mesh for held in model.parameters() if is_dtensor(held))
    for unit in [made.get_submodule(name) for name, module in model.named_modules() if _is_unit(module)]:
        if type(unit).__name__ in (made._no_split_modules or ()):
            fully_shard(unit, mesh=mesh)
    fully_shard(made, mesh=mesh, reshard_after_forward=True)  # as it would not be by itself, being the outermost one
    made.to_empty(device=model.device)
    made.tie_weights()
    values = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, held in [*made.named_parameters(), *made.named_buffers()]:
            local_part(held).copy_(local_part(values[name]))
    made.generation_config = copy.deepcopy(model.generation_config)
    made._is_fsdp_managed_module = True  # by which transformers knows that all have to answer as long as one does
    keep_divided(made)
    return made.train(model.training)


def units_of_weights(model: nn.Module) -> list[Any]:
    """FSDP2's groups of weights that are put together at once."""
    units = [module for module in model.modules() if _is_unit(module)]
    return [group for unit in units for group in unit._get_fsdp_state()._fsdp_param_groups]


def parts_beside_whole(groups: list[Any]) -> int:
    """Numbers of the parts that lie on this process beside weights that are put together just now.

    Args:
        groups: of one model, from `units_of_weights`.
    """
    return sum(
        held._sharded_param_data.numel() for group in groups if group.is_unsharded for held in group.fsdp_params
    )


def numbers_in_messages(groups: list[Any]) -> int:
    """Numbers that FSDP2 holds of what comes next, and of what came last, before they are let go of.

    Args:
        groups: of one model, from `units_of_weights`.
    """
    last = getattr(groups[0].comm_ctx, "all_gather_state", None) if groups else None  # one of all units
    messages = [group._all_gather_result for group in groups] + [last and last.all_gather_result]
    return sum(message.all_gather_output.numel() for message in messages if message is not None)


def divide_again(model: nn.Module) -> None:
    """Weights that a forward pass has left whole are divided again, and are those that the optimizer holds."""
    for unit in _units(model):
        unit.reshard()


@contextmanager
def kept_whole(model: nn.Module) -> Iterator[None]:
    """Inside this context every process has all weights, and any part of the model may be run; by all processes.

    To be run and no more: `state_dict` divides them again. Gradients may be taken once it is left.

    Args:
        model: the outermost module that Accelerate has prepared. One that FSDP2 does not divide is left alone.
    """
    units = _units(model)
    if not units:
        yield
        return
    units[0]._get_fsdp_state()._lazy_init()  # else the first part to run would take itself for the outermost
    groups = [group for unit in units for group in unit._get_fsdp_state()._fsdp_param_groups]
    before = [group.post_forward_mesh_info for group in groups]
    try:
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        yield
    finally:
        for group, mesh in zip(groups, before, strict=True):
            group.post_forward_mesh_info = mesh
        divide_again(model)


@contextmanager
def outside_fsdp(model: nn.Module) -> Iterator[None]:
    """Inside this context the model is a plain one with all weights, to be read, run or saved; by all processes.

    Weights are as they are stored (`kept_whole` has them as they are computed with); what is written to them is lost.

    Args:
        model: any; one that FSDP2 does not divide is left alone.
    """
    whole: dict[int, nn.Parameter] = {}
    divide_again(model)
    before = [_take_off(module, whole) for module in _in_training(model)] if is_fsdp(model) else []
    try:
        yield
    finally:
        for put in before:
            put.back()


def leave_fsdp(model: nn.Module) -> None:
    """Give every process all weights, in place, and take FSDP2's hooks and classes off; by all processes.

    Tied weights stay tied. An optimizer made before holds the divided weights, with which nothing computes any more.

    Args:
        model: to which `fully_shard` was applied (Accelerate does so), or a part of it that is needed further; any
            other comes back as it was.
    """
    if is_fsdp(model):
        divide_again(model)
        whole: dict[int, nn.Parameter] = {}
        for module in _in_training(model):
            _take_off(module, whole)


def _units(model: nn.Module) -> "list[FSDPModule]":
    """Modules that training has divided, whose weights are put together at once, the outermost first."""
    return [module for module in model.modules() if _is_unit(module) and not hasattr(module, KEPT)]


def _in_training(model: nn.Module) -> list[nn.Module]:
    """Modules that training may have divided, and may be taken out again."""
    return [module for module in model.modules() if not hasattr(module, KEPT)]


@dataclass
class _Put:
    """What `fully_shard`, and transformers after it, have put on one module."""

    module: nn.Module
    kind: type
    state: Any
    parameters: "dict[str, DTensor]"
    hooks: dict[str, OrderedDict]
    attributes: dict[str, Any]

    def back(self) -> None:
        module = self.module
        module.__class__ = self.kind
        module._parameters.update(self.parameters)
        module.__dict__.update(self.attributes)
        for name, hooks in self.hooks.items():  # in place: who has registered one may take it off again
            held = getattr(module, name)
            held.clear()
            held.update(hooks)
        if self.state is not None:
            _states()[module] = self.state


def _take_off(module: nn.Module, whole: dict[int, nn.Parameter]) -> _Put:
    """Make it a plain module, with weights in full (`whole`: those of modules before it, by what they are of)."""
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY

    marks = (STATE_KEY, REGISTRY_KEY, "_is_fsdp_managed_module", "_fsdp_use_orig_params")
    names = [name for name, held in module.__dict__.items() if name in marks or _is_of_fsdp(held)]  # `generate`, too
    put = _Put(
        module, type(module), _states().pop(module, None),
        {name: held for name, held in module._parameters.items() if is_dtensor(held)},
        {name: getattr(module, name).copy() for name in HOOKS}, {name: module.__dict__.pop(name) for name in names},
    )  # fmt: skip
    for name, parameter in put.parameters.items():
        if id(parameter) not in whole:  # tied weights stay tied
            values = parameter.detach().full_tensor()
            whole[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
        module._parameters[name] = whole[id(parameter)]
    for name, hooks in put.hooks.items():
        for number in [number for number, hook in hooks.items() if _is_of_fsdp(hook)]:
            del getattr(module, name)[number]
    if _is_unit(module):
        from torch.distributed.fsdp import FSDPModule

        module.__class__ = next(kind for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))
    return put


def _states() -> Any:
    """Module → what FSDP2 knows of it (weakly)."""
    from torch.distributed._composable_state import _module_state_mapping

    return _module_state_mapping


def _is_of_fsdp(hook: object) -> bool:
    function = getattr(hook, "hook", hook)
    where = getattr(getattr(function, "__func__", function), "__globals__", {})
    return where.get("__name__", "").startswith("torch.distributed.fsdp")
