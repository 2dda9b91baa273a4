"""How much of a model this process holds at the moment: its own parts, and what is gathered just now."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from palign.parallel.fsdp import is_dtensor, numbers_in_messages, parts_beside_whole, units_of_weights

__all__ = ["is_of_base", "resident_elements", "resident_share"]

BESIDE_BASE = ("lora_", "critic")  # in names of parameters that adapters and critics bring


def is_of_base(name: str) -> bool:
    """Whether a parameter of that name is of the base, and not of what is trained beside it."""
    return not any(mark in name for mark in BESIDE_BASE)


def resident_elements(parameters: Iterable[Tensor]) -> tuple[int, int]:
    """(numbers that lie on this process, numbers of the whole parameters).

    ZeRO-3 keeps its part of a parameter while the whole is gathered, so that a gathered one counts for more than one.
    """
    here, whole = 0, 0
    for parameter in {id(parameter): parameter for parameter in parameters}.values():  # tied ones once
        if hasattr(parameter, "ds_id"):
            part = 0 if parameter.ds_tensor is None else parameter.ds_tensor.numel()
            here, whole = here + part + parameter.data.numel(), whole + parameter.ds_numel
        elif is_dtensor(parameter):
            here, whole = here + parameter.to_local().numel(), whole + parameter.numel()
        else:
            here, whole = here + parameter.numel(), whole + parameter.numel()
    return here, whole


def resident_share(model: nn.Module, *, counts: Callable[[str], bool] = is_of_base) -> float:
    """Share of a model's base that lies on this process; 1 where it is whole, more where parts are kept beside it.

    Args:
        model: divided by ZeRO-3, by FSDP2, or not.
        counts: which parameters, by name.
    """
    here, whole = resident_elements(p for name, p in model.named_parameters() if counts(name))
    groups = units_of_weights(model)
    return (here + parts_beside_whole(groups) + numbers_in_messages(groups)) / max(whole, 1)
