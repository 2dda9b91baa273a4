"""transformers' loading of a model, in parts under ZeRO-3 and under FSDP2: no process ever holds all of it.

Under ZeRO-3 transformers divides whatever is loaded. Under FSDP2 it divides what it is asked to, by a plan of the
modules that are gathered together; each process then reads its own slices of the files. Here the plan is made: a layer
at a time, and what lies beside the layers (embeddings, the last norm, the head) each by itself, let go of after use.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from palign.parallel.fsdp import keep_divided
from palign.parallel.sharded import divides_by_fsdp, loading

__all__ = ["from_pretrained", "loading_like", "units_of"]

logger = logging.getLogger(__name__)


def from_pretrained(auto: Any, name_or_path: str, *, divided: bool = False, **options: Any) -> Any:
    """`auto.from_pretrained(name_or_path, **options)`, in parts where that is asked for and the launch divides.

    Under FSDP2 a base in parts is frozen, and stays in parts until the end; adapters that are put on it lie whole on
    each process, and `palign.parallel.sharded.copied` gives a copy that may be trained.
    Every process then has to run it as often as the others, in `turns`. Where output and input embeddings are one
    weight, each has its own parts under FSDP2: they are run at different times.

    Args:
        auto: one of transformers' auto classes.
        divided: in parts under ZeRO-3 and FSDP2; else whole, whatever the launch.
        options: of transformers, among them `output_loading_info`.
    """
    if not (divided and divides_by_fsdp()):
        with loading(divided=divided):
            return auto.from_pretrained(name_or_path, **options)
    from transformers import AutoConfig

    named = ("revision", "trust_remote_code", "subfolder", "num_labels", "attn_implementation")
    config = AutoConfig.from_pretrained(name_or_path, **{name: options[name] for name in named if name in options})
    is_tied = bool(getattr(config, "tie_word_embeddings", False))
    if is_tied:
        config.tie_word_embeddings = False
    with torch.device("meta"):
        shape = auto.from_config(config, trust_remote_code=options.get("trust_remote_code", False))
    is_tied = is_tied and shape.get_output_embeddings() is not None
    wants_info = options.pop("output_loading_info", False)
    with _without_report() if is_tied else nullcontext():
        model, info = auto.from_pretrained(
            name_or_path, output_loading_info=True, **_in_parts(units_of(shape), is_tied=is_tied), **options
        )
    filled = _finished(model, is_tied=is_tied)
    if is_tied:
        info["missing_keys"] = set(info["missing_keys"]) - filled
        if info["missing_keys"]:
            logger.warning("%s lacks %s; new ones were drawn.", name_or_path, ", ".join(sorted(info["missing_keys"])))
    return (model, info) if wants_info else model


def _in_parts(units: list[str], *, is_tied: bool) -> dict[str, Any]:
    """What transformers' loading takes to divide a model; `_finished` has to follow."""
    from transformers.distributed import DistributedConfig

    plan = dict.fromkeys(_with_stars(units), "free_full_weight")
    division = DistributedConfig(fsdp_size=torch.distributed.get_world_size(), fsdp_plan=plan)
    return {"distributed_config": division} | ({"tie_word_embeddings": False} if is_tied else {})


def _finished(model: nn.Module, *, is_tied: bool) -> set[str]:
    """What transformers has divided, frozen, with a head that the files do not have; its weights by name."""
    filled = set()
    if is_tied:
        model.config.tie_word_embeddings = True  # as the files say: the same base has the same key however it lies
        filled = _fill_head(model)
    # from here on it is palign that trains it or beside it: transformers would refuse to write checkpoints, and PEFT
    # would put all of it together to write an adapter
    model._is_distributed_loading_by_transformers, model._tp_size = False, None
    del model.config.distributed_config
    model.requires_grad_(False)
    keep_divided(model)
    return filled


@contextmanager
def loading_like(model: nn.Module, args: Any) -> Iterator[Callable[[nn.Module], None]]:
    """Inside this context a trainer of TRL that reads its reference from the files of a model divides it as that is.

    Args:
        model: that was loaded in parts under FSDP2, the policy.
        args: of the trainer; its `model_init_kwargs` are as before afterwards.

    Yields:
        What is to be called with the reference, once it is there.
    """
    given = args.model_init_kwargs
    is_tied = model.get_output_embeddings() is not None and getattr(model.config, "tie_word_embeddings", False)
    args.model_init_kwargs = (given or {}) | _in_parts(units_of(model), is_tied=is_tied)
    try:
        with _without_report() if is_tied else nullcontext():
            yield lambda reference: _finished(reference, is_tied=is_tied)
    finally:
        args.model_init_kwargs = given


@contextmanager
def _without_report() -> Iterator[None]:
    """Inside this context transformers does not say that a head is missing, which is filled afterwards."""

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    reporter = logging.getLogger("transformers.modeling_utils")
    reporter.addFilter(keep)
    try:
        yield
    finally:
        reporter.removeFilter(keep)


def units_of(model: nn.Module) -> list[str]:
    """Names of the modules that are gathered each by itself: layers, and what holds weights outside of them.

    Args:
        model: of transformers; may lie on the meta device.
    """
    kinds, names = set(model._no_split_modules or ()), []
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in names)
        is_layer = any(kind.__name__ in kinds for kind in type(module).__mro__)  # FSDP2 makes classes of its own
        if name and not is_inside and (is_layer or _holds_weights(module)):
            names.append(name)
    return names


def _holds_weights(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


def _with_stars(names: list[str]) -> Iterator[str]:
    """As transformers writes a plan: `model.layers.*` for all numbers."""
    from transformers.distributed.parallel_utils import replace_layer_number_by_wildcard

    return (replace_layer_number_by_wildcard(name) for name in names)


def _fill_head(model: nn.Module) -> set[str]:
    """Give a head that the files have as the embeddings only its values, part by part; its weights by name."""
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight.to_local().copy_(model.get_input_embeddings().weight.to_local())
    return {name for name, parameter in model.named_parameters() if parameter is weight}
