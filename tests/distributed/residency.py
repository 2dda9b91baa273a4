"""How much of each base lies on this process, looked at wherever weights are gathered, stage by stage.

Models are those of transformers that are made inside. They are looked at as every forward pass begins (a whole model
shows there), and after DeepSpeed has fetched what a module needs, forward or backward, has gathered parameters, or has
put together a state to save; after FSDP2 has asked for a unit, and has put one together; and after a divided tensor
was read in full, for as long as somebody holds it.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock
from weakref import WeakSet

from torch import Tensor, nn
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from palign.models.files import base_files
from palign.parallel.fsdp import numbers_in_messages, units_of_weights
from palign.parallel.resident import is_of_base, resident_elements, resident_share
from palign.parallel.sharded import whole_tensor

LOOKS_BETWEEN = 300  # whole looks, at models as they are; to list their parameters takes far longer than to count


@dataclass
class Residency:
    """The largest share of a base on this process, by stage, and of what is put together for a file, which lies in
    the main memory of the main process.
    """

    shares: dict[str, float] = field(default_factory=dict)
    in_file: float = 0.0
    stage: str = "loading"
    models: WeakSet = field(default_factory=WeakSet)
    counts: list[Callable[[], tuple[int, int]]] = field(default_factory=list)
    read_in_full: list[weakref.ref] = field(default_factory=list)
    kept_for_file: list[weakref.ref] = field(default_factory=list)
    n_looks: int = 0

    def look(self) -> None:
        """At all bases, now."""
        if self.n_looks % LOOKS_BETWEEN == 0:
            self.look_again()
        self.n_looks += 1
        for count in self.counts:
            here, whole = count()
            self.note(here / whole)

    def look_again(self) -> None:
        """At all bases as they are now: parameters may have been replaced."""
        models = list(self.models)
        critics = [model.critic.body for model in models if getattr(model, "critic", None) is not None]
        bodies = {id(body) for body in critics}  # a base of its own, on the policy's
        inner = {id(part) for model in models for part in model.modules() if part is not model}
        bases = [model for model in models if id(model) not in inner or id(model) in bodies]
        self.counts = [counted(base) for base in bases]
        for base in bases:
            self.note(resident_share(base))

    def note(self, share: float) -> None:
        """The largest share of a stage is kept."""
        self.shares[self.stage] = max(self.shares.get(self.stage, 0.0), share)

    def at(self, stage: str) -> None:
        """What comes now is that stage."""
        self.look_again()
        self.stage = stage
        self.look_again()

    def has_read(self, tensor: Tensor) -> None:
        """A tensor in full: all that are held just now count beside what lies here of the base that fits them best."""
        self.read_in_full = [held for held in self.read_in_full if held() is not None] + [weakref.ref(tensor)]
        n_read = sum(held().numel() for held in self.read_in_full)
        for count in self.counts:
            here, whole = count()
            self.note((here + n_read) / whole)

    def for_file(self, tensor: Tensor) -> Tensor:
        """A tensor as a file takes it, copied as it would be from a GPU to main memory; all that are kept count."""
        values = whole_tensor(tensor).clone()
        self.kept_for_file = [held for held in self.kept_for_file if held() is not None] + [weakref.ref(values)]
        n_kept = sum(held().numel() for held in self.kept_for_file)
        self.in_file = max([self.in_file, *(n_kept / count()[1] for count in self.counts)])
        return values


def counted(base: nn.Module) -> Callable[[], tuple[int, int]]:
    """What counts (numbers here, numbers of the whole) of a base, quickly."""
    groups = units_of_weights(base)
    if not groups:
        parameters = [held for name, held in base.named_parameters() if is_of_base(name)]
        return lambda: resident_elements(parameters)
    units = [(group, sum(held._orig_size.numel() for held in group.fsdp_params)) for group in groups]
    parts = [held for group in groups for held in group.fsdp_params]
    of_units = {id(held) for part in parts for held in (part.sharded_param, getattr(part, "_unsharded_param", None))}
    beside = [held for name, held in base.named_parameters() if is_of_base(name) and id(held) not in of_units]
    n_beside = sum(held.numel() for held in beside)
    n_whole = n_beside + sum(size for _, size in units)
    n_parts = n_beside + sum(part._sharded_param_data.numel() for part in parts)

    def count() -> tuple[int, int]:
        gathered = sum(size for group, size in units if group.is_unsharded)
        return n_parts + gathered + numbers_in_messages(groups), n_whole

    return count


@contextmanager
def watched(*, by_deepspeed: bool) -> Iterator[Residency]:
    """Inside this context every base that is made is looked at; DeepSpeed divides it, or FSDP2."""
    seen, make = Residency(), PreTrainedModel.post_init

    def made(model: PreTrainedModel) -> None:
        make(model)
        seen.models.add(model)

    hook = register_module_forward_pre_hook(
        lambda module, _: seen.look() if isinstance(module, nn.Embedding) else None
    )
    with ExitStack() as patches:
        patches.callback(hook.remove)
        patches.enter_context(mock.patch.object(PreTrainedModel, "post_init", made))
        for where, name, method in looks_of_deepspeed(seen) if by_deepspeed else looks_of_fsdp(seen):
            patches.enter_context(mock.patch.object(where, name, method))
        yield seen


def after(method: Any, look: Callable[[], None]) -> Any:
    """The method, and a look at the bases after it."""

    def run(*args: Any, **options: Any) -> Any:
        result = method(*args, **options)
        if not args[1:] or not isinstance(args[1], nn.Module) or args[1]._parameters:  # of modules those with weights
            look()
        return result

    return run


def looks_of_deepspeed(seen: Residency) -> Iterator[tuple[type, str, Any]]:
    """(class, name, method that looks): where ZeRO-3 gathers."""
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    collect = DeepSpeedEngine._zero3_consolidated_16bit_state_dict

    def collected(engine: Any, *args: Any, **options: Any) -> Any:
        state = collect(engine, *args, **options) or {}  # on the main process, in its main memory
        counted_here = sum(tensor.numel() for name, tensor in state.items() if is_of_base(name))
        wholes = [p.ds_numel for name, p in engine.module.named_parameters() if is_of_base(name)]
        is_trained = any(p.requires_grad for name, p in engine.module.named_parameters() if is_of_base(name))
        if is_trained:  # which a file has to have in full
            seen.in_file = max(seen.in_file, counted_here / sum(wholes))
        else:
            seen.note(counted_here / sum(wholes))
        return state

    yield DeepSpeedEngine, "_zero3_consolidated_16bit_state_dict", collected
    yield GatheredParameters, "__enter__", after(GatheredParameters.__enter__, seen.look)
    fetch = PartitionedParameterCoordinator.fetch_sub_module
    yield PartitionedParameterCoordinator, "fetch_sub_module", after(fetch, seen.look)


def looks_of_fsdp(seen: Residency) -> Iterator[tuple[Any, str, Any]]:
    """(class or module, name, what looks): where FSDP2 gathers, and where a tensor is read in full."""
    yield FSDPParamGroup, "unshard", after(FSDPParamGroup.unshard, seen.look)
    yield FSDPParamGroup, "wait_for_unshard", after(FSDPParamGroup.wait_for_unshard, seen.look)
    read = DTensor.full_tensor

    def in_full(tensor: DTensor, **options: Any) -> Tensor:
        found = read(tensor, **options)
        seen.has_read(found)
        return found

    yield DTensor, "full_tensor", in_full
    yield base_files, "whole_tensor", seen.for_file
