"""Whose the rows of a batch are: bound at the moment a training loop takes the batch.

Prepared data loaders run one batch ahead, so a collator that left the people somewhere would name those of the *next*
batch. Here people ride in the batch as row numbers, and `BindingLoader` binds them right before it hands the batch
over.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class BoundRows:
    """Whose rows the next rewards belong to.

    Attributes:
        query_ids: `rows` lists of token ids: the prompts as the policy must meet them, without padding.
        context_length: padded length of the prompts of this batch.
        prompts: `rows` prompts as the reward model knows them.
        annotator_ids: `rows` people.
        groups: `rows` names to report by, or empty.
        prompt_ids: `rows` lists of token ids of `prompts`, when policy and reward share a tokenizer, or empty.
        is_training: False for an eval pass.
    """

    query_ids: list[list[int]]
    context_length: int
    prompts: list[str]
    annotator_ids: list[str]
    groups: list[str] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    is_training: bool = True


@dataclass
class LoaderPosition:
    """Where a loader stands, so that another one can be put there.

    Attributes:
        torch_state: state of torch's generator as the epoch began: order and seeds of the epoch are drawn from it.
        sampler_state: that of the sampler's own generator, which loaders of several processes have; else None.
        n_taken: batches handed over since.
    """

    torch_state: torch.Tensor
    sampler_state: torch.Tensor | None
    n_taken: int = 0


class BindingLoader:
    """A prepared data loader that tells the reward whose the rows are at the moment the loop takes the batch.

    Prepared loaders run one batch ahead, so a collator that left the people somewhere would name those of the *next*
    batch.
    Here the people ride in the batch itself, as row numbers, and are bound right before the batch is handed over.

    Args:
        loader: the prepared loader; its batches hold `row_column`.
        bind: called with the row numbers `(rows,)` and the batch, before the batch is yielded.
        row_column: the column of row numbers; taken out of the batch.
        before_take: called before a batch is taken, and before an epoch draws its random numbers.

    Attributes:
        position: where it stands; None before the first batch.
    """

    def __init__(
        self,
        loader: Iterable[Mapping[str, torch.Tensor]],
        bind: Callable[[list[int], Mapping[str, torch.Tensor]], None],
        row_column: str = "row",
        before_take: Callable[[], None] = lambda: None,
    ) -> None:
        self.loader = loader
        self.bind = bind
        self.row_column = row_column
        self.before_take = before_take
        self.position: LoaderPosition | None = None
        self._resumed: tuple[LoaderPosition, Callable[[], None]] | None = None

    def resume_at(self, position: LoaderPosition, then: Callable[[], None]) -> None:
        """Let the next epoch be the one of `position`, from there on; `then` restores random states after the skip."""
        self._resumed = position, then

    def __iter__(self) -> Iterator[Mapping[str, torch.Tensor]]:
        resumed, self._resumed = self._resumed, None
        sampler = getattr(self.loader, "synchronized_generator", None)
        if resumed is not None:
            torch.set_rng_state(resumed[0].torch_state)
            if sampler is not None and resumed[0].sampler_state is not None:
                sampler.set_state(resumed[0].sampler_state)
        states = torch.get_rng_state(), None if sampler is None else sampler.get_state()
        batches, self.position = None, LoaderPosition(*states)
        if resumed is not None:
            batches = iter(self.loader)
            for _ in range(resumed[0].n_taken):
                next(batches)
            self.position.n_taken = resumed[0].n_taken
            resumed[1]()
        while True:
            self.before_take()
            batches = iter(self.loader) if batches is None else batches
            batch = next(batches, None)
            if batch is None:
                return
            self.position.n_taken += 1
            batch = dict(batch)
            rows = [int(row) for row in batch.pop(self.row_column)]
            self.bind(rows, batch)
            yield batch

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet: copying and unpickling look attributes up before __init__
            raise AttributeError(name)
        return getattr(self.loader, name)
