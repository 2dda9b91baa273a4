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


class BindingLoader:
    """A prepared data loader that tells the reward whose the rows are at the moment the loop takes the batch.

    Prepared loaders run one batch ahead, so a collator that left the people somewhere would name those of the *next*
    batch.
    Here the people ride in the batch itself, as row numbers, and are bound right before the batch is handed over.

    Args:
        loader: the prepared loader; its batches hold `row_column`.
        bind: called with the row numbers `(rows,)` and the batch, before the batch is yielded.
        row_column: the column of row numbers; taken out of the batch.
    """

    def __init__(
        self,
        loader: Iterable[Mapping[str, torch.Tensor]],
        bind: Callable[[list[int], Mapping[str, torch.Tensor]], None],
        row_column: str = "row",
    ) -> None:
        self.loader = loader
        self.bind = bind
        self.row_column = row_column

    def __iter__(self) -> Iterator[Mapping[str, torch.Tensor]]:
        for batch in self.loader:
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
