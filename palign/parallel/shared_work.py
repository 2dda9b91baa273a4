"""Work that the processes of a launch share: done once for all, or each its part."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from palign.parallel.sharded import turns

__all__ = ["PLAIN_SAMPLING", "computed_once", "drawn"]

# the distribution itself, whatever a model's generation_config would make of it
PLAIN_SAMPLING = {
    "top_k": 0, "top_p": 1.0, "min_p": None, "typical_p": 1.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "num_beams": 1,
}  # fmt: skip

T, R = TypeVar("T"), TypeVar("R")


def computed_once(work: Callable[[], T]) -> T:
    """What the main process computes, given to every process; all must call this.

    Raises:
        ValueError: on every process, where it was raised on the main one.
    """
    state = PartialState()
    if state.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = work()
        except ValueError as error:
            outcome[1] = str(error)
    broadcast_object_list(outcome, from_process=0)
    if outcome[1] is not None:
        raise ValueError(outcome[1])
    return outcome[0]


def drawn(
    batches: Sequence[T], draw: Callable[[T], R], *, seed: int, model: nn.Module, together: bool = False
) -> list[R]:
    """What `draw` makes of each batch; PyTorch's random numbers follow from `seed` alone, and go on as before.

    One process draws batch after batch from one stream. Several processes share the batches out, and each batch has a
    stream of its own, so that any number of them draws the same (not what one process draws).

    Args:
        batches: one at least; what `draw` takes.
        draw: gives something that can be pickled, since the processes exchange it.
        seed: of all streams.
        model: what draws; where its weights are divided, every process runs it as often as the busiest one.
        together: every process of the launch calls this, with the same arguments; all get all draws.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not together or PartialState().num_processes == 1:
            return [draw(batch) for batch in batches]
        state, share = PartialState(), {}
        numbers = range(len(batches))[state.process_index :: state.num_processes]
        for number, is_own in turns(numbers, 0, model):
            torch.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
            part = draw(batches[number])
            if is_own:
                share[number] = part
    everybody = {number: part for shared in gather_object([share]) for number, part in shared.items()}
    return [everybody[number] for number in range(len(batches))]
