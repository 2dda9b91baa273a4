"""Models that PyTorch's FSDP2 divides: whole for a while, and out of it again.

`fully_shard` changes modules in place: a forward pass of the outermost one puts weights together, what is called below
it (`generate` of a policy within a wrapper) does not, and PyTorch has no function that takes a model out. What is
private here is listed in tests/test_fsdp.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

__all__ = ["divide_again", "is_fsdp", "kept_whole", "leave_fsdp", "with_whole_values"]

HOOKS = (
    "_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip


def is_fsdp(model: object) -> bool:
    """Whether FSDP2 divides this module, or one inside of it."""
    return isinstance(model, nn.Module) and bool(_units(model))


def divide_again(model: nn.Module) -> None:
    """Weights that a forward pass has left whole are divided again, and are those that the optimizer holds."""
    for unit in _units(model):
        unit.reshard()


@contextmanager
def kept_whole(model: nn.Module) -> Iterator[None]:
    """Inside this context every process has all weights, and any part of the model may be run; by all processes.

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
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for group, mesh in zip(groups, before, strict=True):
            group.post_forward_mesh_info = mesh
        divide_again(model)


@contextmanager
def with_whole_values(model: nn.Module) -> Iterator[None]:
    """Inside this context all parameters are plain ones, to be read; by all processes.

    They are as they are stored: `kept_whole` has them as they are computed with, which may be in half precision.

    Args:
        model: any; one that FSDP2 does not divide is left alone.
    """
    divide_again(model)
    divided = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if isinstance(parameter, DTensor)
    ]
    whole: dict[int, nn.Parameter] = {}
    for module, name, parameter in divided:
        module._parameters[name] = _whole_parameter(parameter, whole)
    try:
        yield
    finally:
        for module, name, parameter in divided:
            module._parameters[name] = parameter


def leave_fsdp(model: nn.Module) -> None:
    """Give every process all weights, in place, and take FSDP2's hooks and classes off; by all processes.

    Tied weights stay tied. An optimizer made before holds the divided weights, with which nothing computes any more.

    Args:
        model: to which `fully_shard` was applied (Accelerate does so); any other comes back as it was.
    """
    divide_again(model)
    whole: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                module._parameters[name] = _whole_parameter(parameter, whole)
    if whole:
        for module in model.modules():
            _clean(module)


def _whole_parameter(parameter: DTensor, found: dict[int, nn.Parameter]) -> nn.Parameter:
    """A plain one of the same values; the one of `found` for a parameter that was met before (tied weights)."""
    if id(parameter) not in found:
        values = parameter.detach().full_tensor()
        found[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
    return found[id(parameter)]


def _units(model: nn.Module) -> list[FSDPModule]:
    """Modules whose weights are put together at once, the outermost first."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _clean(module: nn.Module) -> None:
    """Without what `fully_shard` and transformers have put on it."""
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
    from torch.distributed._composable_state import _module_state_mapping

    for name in HOOKS:
        hooks = getattr(module, name)
        for number in [number for number, hook in hooks.items() if _is_of_fsdp(hook)]:
            del hooks[number]
    _module_state_mapping.pop(module, None)
    marks = [STATE_KEY, REGISTRY_KEY, "_is_fsdp_managed_module", "_fsdp_use_orig_params"]
    registered = [name for name, value in module.__dict__.items() if _is_of_fsdp(value)]  # transformers: `generate`
    for name in marks + registered:
        module.__dict__.pop(name, None)
    if isinstance(module, FSDPModule):
        module.__class__ = next(kind for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))


def _is_of_fsdp(hook: object) -> bool:
    function = getattr(hook, "hook", hook)
    where = getattr(getattr(function, "__func__", function), "__globals__", {})
    return where.get("__name__", "").startswith("torch.distributed.fsdp")
