"""Weights that lie in parts on several processes (DeepSpeed ZeRO-3, FSDP2): reading them, running them, in step.

A forward pass of such a model needs every process at once. What each process computes for itself therefore has to have
as many turns everywhere (`turns`), and weights are looked at whole inside `whole` only.
What is of FSDP2 alone is in `fsdp.py`.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from palign.parallel.fsdp import KEPT, copied_parts, is_dtensor, is_fsdp, is_kept_divided, leave_fsdp
from palign.parallel.fsdp_launch import is_fsdp_launch

__all__ = [
    "any_process",
    "copied",
    "copy_values",
    "divided_parameters",
    "divides_by_fsdp",
    "divides_from_loading",
    "forwards",
    "is_sharded",
    "leave_engine",
    "loading",
    "loading_whole",
    "make_whole",
    "release_in_backward",
    "set_whole",
    "trained_state",
    "turns",
    "whole",
    "whole_tensor",
]

T = TypeVar("T")
# what an engine leaves on modules: the next one takes over the functions, so that backward passes are told to the one
# before and forward passes to itself; weights of a layer that is computed again would be kept to the very end
LEFT_BY_ENGINE = ("pre_bwd_fn", "post_bwd_fn", "applied_pre_backward_ref_cnt", "ds_grads_remaining")


def is_sharded(model: nn.Module) -> bool:
    """Whether weights are divided among processes; asked before every pass, so it looks at no model in vain."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    return is_fsdp(model) or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def whole(parameters: Iterable[nn.Parameter], *, write: bool = False) -> AbstractContextManager:
    """Inside this context ZeRO-3's parameters are there in full; every process must enter it, with the same ones.

    Args:
        parameters: to look at.
        write: what the main process changes is kept, for all.
    """
    divided = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not write:  # small ones stay whole while an engine runs, and to divide them again would confuse its prefetch
        divided = [parameter for parameter in divided if parameter.ds_status.name != "AVAILABLE"]
    if not divided:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(divided, modifier_rank=0 if write else None)


def whole_tensor(tensor: Tensor) -> Tensor:
    """The values of one parameter or buffer in full; every process must call it."""
    if is_dtensor(tensor):
        return tensor.detach().full_tensor()
    if not hasattr(tensor, "ds_id"):
        return tensor.detach()
    with whole([tensor]):
        return tensor.detach().clone()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What of a model is trained, by name, whole and on the CPU; nothing else is gathered. All processes call it."""
    trained = {name: held for name, held in model.named_parameters() if held.requires_grad}
    return {name: whole_tensor(held).cpu().clone() for name, held in trained.items()}


def set_whole(parameter: nn.Parameter, values: Tensor) -> None:
    """Overwrite a parameter by values in full, those of the main process; ZeRO-3's inside `whole(…, write=True)`."""
    values = values.to(parameter.device)
    if is_dtensor(parameter):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values, parameter.device_mesh, parameter.placements)
    parameter.data.copy_(values)


def copy_values(to: Tensor, source: Tensor) -> None:
    """Overwrite a tensor by the values of another one of its shape; part by part where ZeRO-3 has divided both.

    Every process must call it.
    """
    if hasattr(to, "ds_id") and hasattr(source, "ds_id"):  # the same shape is divided alike
        to.ds_tensor.data.copy_(source.ds_tensor)
    else:
        to.data.copy_(whole_tensor(source))


def copied(model: nn.Module, *, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a model, to be trained; what of it lies in parts does so in the copy, too. All processes call it.

    Under ZeRO-3 one tensor after the other is put together on the way, under FSDP2 none.

    Args:
        model: to be copied.
        dtype: of the copy of what was loaded in parts under FSDP2, if it is to be another.
    """
    if is_kept_divided(model):
        return copied_parts(model, dtype=dtype)
    in_parts = {id(held): _copied_parts(held) for held in model.parameters() if hasattr(held, "ds_id")}
    return copy.deepcopy(model, in_parts)


def _copied_parts(parameter: nn.Parameter) -> nn.Parameter:
    import deepspeed
    from transformers.integrations.deepspeed import deepspeed_config

    holder = nn.Module()
    holder.held = nn.Parameter(whole_tensor(parameter), requires_grad=parameter.requires_grad)
    deepspeed.zero.Init(module=holder, config_dict_or_path=deepspeed_config())
    return holder.held


def turns(batches: Sequence[T], filler: T, model: nn.Module) -> Iterator[tuple[T, bool]]:
    """(batch, whether it is this process's own): as many on every process as on the busiest one.

    Where weights are whole on each process these are just its own. Beyond them `filler` is given, so that nobody waits
    for a process that has come to its end.
    """
    n_turns = _most(len(batches), model)  # before the first forward pass: all processes must agree at the same place
    for turn in range(n_turns):
        yield (batches[turn], True) if turn < len(batches) else (filler, False)


def _most(n: int, model: nn.Module) -> int:
    """The largest n of all processes where weights are divided; `n` itself elsewhere."""
    if not (is_sharded(model) and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
        return n
    counts: list[int] = [0] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(counts, n)
    return max(counts)


def any_process(is_so: bool, model: nn.Module) -> bool:
    """Whether it is so on one process at least, where weights are divided; `is_so` itself elsewhere."""
    return bool(_most(int(is_so), model))


@contextmanager
def forwards(model: nn.Module) -> Iterator[None]:
    """Inside this context a model that ZeRO-3 has divided can be run before, or without, a training engine.

    What lies whole beside the divided weights (adapters that were put on) is divided inside, and whole again after it.
    """
    divided = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    if not divided or _has_engine(model):
        yield
        return
    import deepspeed

    dtype = next(model.parameters()).dtype
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3} | _asked_of_stage_3(),
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
        "steps_per_print": float("inf"),
    }
    was_training = model.training
    beside = {id(held): held.data for held in model.parameters() if not hasattr(held, "ds_id")}
    engine, *_ = deepspeed.initialize(model=model, config=config)
    model.train(was_training)
    try:
        yield
    finally:
        leave_engine(engine)
        _replace(model, lambda held: beside.get(id(held)))


def _asked_of_stage_3() -> dict[str, Any]:
    """What the launch says of stage 3: how much may be gathered at once, what stays whole."""
    from transformers.integrations import deepspeed as integration

    given = (integration.deepspeed_config() or {}).get("zero_optimization", {})
    return {name: value for name, value in given.items() if name.startswith("stage3_") and value != "auto"}


def divides_from_loading() -> bool:
    """Whether the launch divides models as they are loaded: ZeRO-3, once `TrainingArguments` are there, or FSDP2."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    return is_deepspeed_zero3_enabled() or divides_by_fsdp()


def divides_by_fsdp() -> bool:
    """Whether the launch divides models by FSDP2 as they are loaded: several processes, and a transformers and a
    torch that can.

    Earlier ones load whole models under FSDP2, which are divided while they are trained.
    """
    if not (is_fsdp_launch() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
        return False
    try:
        from transformers.distributed import DistributedConfig
        from transformers.utils import is_torch_greater_or_equal
    except ImportError:
        return False
    return "fsdp_plan" in DistributedConfig.__dataclass_fields__ and is_torch_greater_or_equal("2.8")


def loading(*, divided: bool) -> AbstractContextManager:
    """Around transformers' loading of a model.

    Args:
        divided: in parts under ZeRO-3; every process then has to run the model as often as the others, in `turns`.
            Else whole, whatever the launch. Under FSDP2 too: `palign.parallel.divided_loading.from_pretrained`.
    """
    return nullcontext() if divided else loading_whole()


@contextmanager
def loading_whole() -> Iterator[None]:
    """Inside this context transformers loads a model whole on every process under ZeRO-3, too.

    For what each process runs for itself.
    """
    from transformers.integrations import deepspeed as integration

    before = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = before


def make_whole(model: nn.Module, engine: object, *, keep: Iterable[nn.Parameter] = ()) -> None:
    """Take a ZeRO-3 engine, or FSDP2, off a model and give every process all its weights back, in place; by all.

    Args:
        model: what FSDP2 or the engine has divided, or a part of it that is needed further.
        engine: that holds the model; whatever else there is instead is left alone.
        keep: what stays divided by ZeRO-3, as `divided_parameters` gave it before.
    """
    leave_fsdp(model)
    leave_engine(engine)
    kept = {id(held) for held in keep}
    _replace(model, lambda held: None if id(held) in kept else whole_tensor(held))


def divided_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those that were divided as they were loaded; of ZeRO-3's where it is asked before there is an engine."""
    kept = [held for module in model.modules() if hasattr(module, KEPT) for held in module.parameters(recurse=False)]
    of_fsdp = {id(held) for held in kept if is_dtensor(held)}
    return [held for held in model.parameters() if hasattr(held, "ds_id") or id(held) in of_fsdp]


def _replace(model: nn.Module, values: Callable[[nn.Parameter], Tensor | None]) -> None:
    """Put plain parameters where ZeRO-3 has divided some; None leaves one as it is. Tied weights stay tied."""
    replaced: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if not hasattr(parameter, "ds_id"):
                continue
            if id(parameter) not in replaced:
                whole_values = values(parameter)
                if whole_values is None:
                    replaced[id(parameter)] = parameter
                else:
                    replaced[id(parameter)] = nn.Parameter(whole_values, requires_grad=parameter.requires_grad)
            module._parameters[name] = replaced[id(parameter)]


def leave_engine(engine: object) -> None:
    """Take a DeepSpeed engine off its model, for the next one; nothing where it is none."""
    if not hasattr(engine, "zero_optimization_stage"):
        return
    engine.destroy()
    for module in engine.module.modules():  # what `destroy` leaves behind would steer the next engine
        for hooks in (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks):
            for number in [number for number, hook in hooks.items() if _is_of_deepspeed(hook) or hook is _count_again]:
                del hooks[number]
        for name in LEFT_BY_ENGINE:
            module.__dict__.pop(name, None)


def release_in_backward(model: nn.Module) -> None:
    """Make ZeRO-3 divide weights again in the backward pass after each use, however many forward passes came before.

    DeepSpeed counts, by module, inputs whose gradients are still to come, and begins at 0 with each forward pass. Of
    several passes before one backward (an adapter each) it would let go of weights after the first alone: the whole
    base would be gathered. Here each pass has its own count.

    Args:
        model: with an engine's hooks; any other is left alone.
    """
    if not _has_engine(model):
        return
    for module in model.modules():
        if not any(hook is _count_again for hook in module._forward_hooks.values()):
            module.register_forward_hook(_count_again)


def _count_again(module: nn.Module, _: object, output: object) -> None:
    count = getattr(module, "ds_grads_remaining", 0)
    if count and isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(lambda _: setattr(module, "ds_grads_remaining", count))


def _has_engine(model: nn.Module) -> bool:
    return any(
        "DeepSpeedZeRoOffload" in getattr(hook, "__qualname__", "")
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
    )


def _is_of_deepspeed(hook: object) -> bool:
    return getattr(hook, "__module__", "").startswith("deepspeed")
