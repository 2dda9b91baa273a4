"""How much of each base lies on this process, looked at wherever weights are gathered, stage by stage.

Models are those of transformers that are made inside. They are looked at as every forward pass begins (a whole model
shows there), and after DeepSpeed has fetched what a module needs, forward or backward, has gathered parameters, or has
put together a state to save.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock
from weakref import WeakSet

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from palign.parallel.resident import is_of_base, resident_elements, resident_share

LOOKS_BETWEEN = 300  # whole looks, at models as they are; to list their parameters takes far longer than to count


@dataclass
class Residency:
    """The largest share of a base on this process, by stage."""

    shares: dict[str, float] = field(default_factory=dict)
    stage: str = "loading"
    models: WeakSet = field(default_factory=WeakSet)
    listed: list[list[nn.Parameter]] = field(default_factory=list)
    n_looks: int = 0

    def look(self) -> None:
        """At all bases, now."""
        if self.n_looks % LOOKS_BETWEEN == 0:
            self.look_again()
        self.n_looks += 1
        for parameters in self.listed:
            here, whole = resident_elements(parameters)
            self.note(here / whole)

    def look_again(self) -> None:
        """At all bases as they are now: parameters may have been replaced."""
        models = list(self.models)
        inner = {id(part) for model in models for part in model.modules() if part is not model}
        bases = [model for model in models if id(model) not in inner]
        self.listed = [[p for name, p in base.named_parameters() if is_of_base(name)] for base in bases]
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


@contextmanager
def watched() -> Iterator[Residency]:
    """Inside this context every base that is made is looked at."""
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    seen, make = Residency(), PreTrainedModel.post_init

    def made(model: PreTrainedModel) -> None:
        make(model)
        seen.models.add(model)

    def after(method: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            if not args[1:] or args[1]._parameters:  # of modules those with weights
                seen.look()
            return result

        return run

    hook = register_module_forward_pre_hook(
        lambda module, _: seen.look() if isinstance(module, nn.Embedding) else None
    )
    collect = DeepSpeedEngine._zero3_consolidated_16bit_state_dict

    def collected(engine: Any, *args: Any, **options: Any) -> Any:
        state = collect(engine, *args, **options) or {}  # on the main process, in its main memory
        counted = sum(tensor.numel() for name, tensor in state.items() if is_of_base(name))
        wholes = [p.ds_numel for name, p in engine.module.named_parameters() if is_of_base(name)]
        seen.note(counted / sum(wholes))
        return state

    gather, fetch = after(GatheredParameters.__enter__), after(PartitionedParameterCoordinator.fetch_sub_module)
    with (
        mock.patch.object(PreTrainedModel, "post_init", made),
        mock.patch.object(DeepSpeedEngine, "_zero3_consolidated_16bit_state_dict", collected),
        mock.patch.object(GatheredParameters, "__enter__", gather),
        mock.patch.object(PartitionedParameterCoordinator, "fetch_sub_module", fetch),
    ):
        try:
            yield seen
        finally:
            hook.remove()
