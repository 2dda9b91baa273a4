"""Forward passes over a rollout that compute what is needed and no more.

TRL's rows are padded on both sides and its head reads every position. Here rows are moved to the left and cut to the
longest, so that no mask is needed, and the head reads the states before tokens of completions alone, some at a time:
no tensor of (batch, time, vocab) is made, with whichever TRL.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from palign.functional.logprobs import drawn_logps
from palign.trainers.critic import last_states

__all__ = ["PackedRows", "StatePasses", "rows_at_once"]

TOKENS_AT_ONCE = 4096  # of a pass without gradient, which keeps little of them
LOGITS_AT_ONCE = 2**24  # 64 MiB in float32


def rows_at_once(longest: int, batch_size: int) -> int:
    """Rows of a pass without gradient: what a pass with gradient has, or more where rows are short."""
    return max(batch_size, TOKENS_AT_ONCE // max(longest, 1))


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Rows of prompt and completion, moved to the left.

    Attributes:
        ids: (batch, longest), padded on the right, which a causal model's states before do not feel.
        rows, places: (n_tokens,), in `ids` the place before each token of a completion, row by row.
        times: (n_tokens,), where that token is in the grid (batch, n_times) of completions.
        targets: (n_tokens,), its id.
    """

    ids: Tensor
    rows: Tensor
    places: Tensor
    times: Tensor
    targets: Tensor
    n_times: int

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, n_times: int) -> "PackedRows":
        """From ids and mask (batch, context + n_times), whose last `n_times` columns are completions."""
        real = mask.bool()
        places = real.cumsum(1) - 1
        rows, times = real[:, -n_times:].nonzero(as_tuple=True)
        columns = times + ids.shape[1] - n_times
        order = torch.argsort((~real).to(torch.uint8), dim=1, stable=True)[:, : max(int(real.sum(1).max()), 1)]
        before = (places[rows, columns] - 1).clamp(min=0)
        return cls(ids.gather(1, order), rows, before, times, ids[rows, columns], n_times)

    def picked(self, values: Tensor) -> Tensor:
        """(n_tokens, ...) of values (batch, longest, ...): those before each token of a completion."""
        return values[self.rows, self.places]

    def grid(self, values: Tensor) -> Tensor:
        """(batch, n_times) of values (n_tokens,), 0 where no token is."""
        return values.new_zeros(len(self.ids), self.n_times).index_put((self.rows, self.times), values)


class StatePasses:
    """Last hidden states, and log-probabilities of them, of models as Accelerate has wrapped them.

    Attributes:
        head_is_plain: whether logits are the head's answer to the last states. It is looked up in the first pass;
            where a model caps or scales them, or divides its weights among processes, TRL's own way is taken.
    """

    def __init__(self, accelerator: Accelerator, *, temperature: float, may_read_head: bool) -> None:
        self.accelerator, self.temperature = accelerator, temperature
        self.head_is_plain: bool | None = None if may_read_head else False
        self._inner: dict[int, nn.Module] = {}

    def inner(self, model: nn.Module) -> nn.Module:
        """The model within its wrappers; to look for it each time takes as long as a layer of a small one."""
        if id(model) not in self._inner:
            self._inner[id(model)] = self.accelerator.unwrap_model(model)
        return self._inner[id(model)]

    def states(self, model: nn.Module, packed: PackedRows) -> Tensor:
        """(n_tokens, hidden): the states before each token of the completions."""
        with last_states(self.inner(model)) as seen:
            logits = model(input_ids=packed.ids, logits_to_keep=1, use_cache=False).logits
        if self.head_is_plain is None:
            self.head_is_plain = _is_plain(self._head(model), seen[0][:, -1], logits[:, -1])
        return packed.picked(seen[0])

    def logps(self, model: nn.Module, packed: PackedRows, states: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (batch, n_times), nats, at the temperature; entropies without gradient."""
        head = self._head(model)
        n = max(1, LOGITS_AT_ONCE // self.inner(model).config.get_text_config().vocab_size)
        found = drawn_logps(states, head, packed.targets, temperature=self.temperature, n_at_once=n)
        return packed.grid(found[0]), packed.grid(found[1])

    def _head(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        return self.inner(model).get_output_embeddings()


@torch.no_grad()
def _is_plain(head: Callable[[Tensor], Tensor] | None, states: Tensor, logits: Tensor) -> bool:
    if head is None:
        return False
    found = head(states)
    return found.shape == logits.shape and torch.allclose(found.float(), logits.float(), rtol=1e-3, atol=1e-3)
