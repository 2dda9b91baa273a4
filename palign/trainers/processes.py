"""Work that one process does for all."""

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

__all__ = ["computed_once"]

T = TypeVar("T")


def computed_once(work: Callable[[], T]) -> T:
    """What the main process computes, given to every process; all must call this.

    Raises:
        ValueError: on every process, where it was raised on the main one.
    """
    state = PartialState()
    if state.num_processes == 1:
        return work()
    found: list[Any] = [None, None]
    if state.is_main_process:
        try:
            found[0] = work()
        except ValueError as error:
            found[1] = str(error)
    broadcast_object_list(found, from_process=0)
    if found[1] is not None:
        raise ValueError(found[1])
    return found[0]
