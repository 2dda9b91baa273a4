"""Work that the processes of a launch share: done once for all, or each its part."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from palign.parallel.sharded import is_sharded, turns

__all__ = ["PLAIN_SAMPLING", "computed_once", "drawn", "ending_together", "own_batches"]

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
        RuntimeError: on the others, where the main one raised something else.
    """
    state = PartialState()
    if state.num_processes == 1:
        return work()
    outcome: list[Any] = [None, None, False]
    failure: Exception | None = None
    if state.is_main_process:
        try:
            outcome[0] = work()
        except Exception as error:  # the others wait for a word, whatever it was
            failure = error
            outcome[1:] = _said(error), isinstance(error, ValueError)
    broadcast_object_list(outcome, from_process=0)
    if failure is not None:
        raise failure
    if outcome[2]:
        raise ValueError(outcome[1])
    if outcome[1] is not None:
        raise RuntimeError(f"The main process has failed ({outcome[1]}); this one ends with it.")
    return outcome[0]


@contextmanager
def ending_together() -> Iterator[None]:
    """Around work that each process does by itself before all meet: where one of them raises, all do.

    Without this the others would wait for it where they meet, until a launcher ends them. Within, no process may wait
    for another.

    Raises:
        RuntimeError: another process has failed; says which, and with what.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    state = PartialState()
    told = [] if state.num_processes == 1 else gather_object([None if failure is None else _said(failure)])
    if failure is not None:
        raise failure
    failed = next((rank for rank, text in enumerate(told) if text is not None), None)
    if failed is not None:
        raise RuntimeError(f"Process {failed} has failed ({told[failed]}); this one ends with it.")


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def own_batches(batches: Sequence[T], model: nn.Module) -> Sequence[T]:
    """What this process reads of batches that all processes have: its share where weights are divided, else all.

    A process whose share ends before others' reads the first batch again, so that all run the model as often. What
    they read is put together by `palign.models.type_scores.gathered`.
    """
    if not is_sharded(model):
        return batches
    state = PartialState()
    share = batches[state.process_index :: state.num_processes]
    return [batch for batch, _ in turns(share, batches[0], model)]


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
        with nullcontext() if is_sharded(model) else ending_together():
            for number, is_own in turns(numbers, 0, model):
                torch.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
                part = draw(batches[number])
                if is_own:
                    share[number] = part
    everybody = {number: part for shared in gather_object([share]) for number, part in shared.items()}
    return [everybody[number] for number in range(len(batches))]
