"""Forward passes over a rollout that compute what is needed and no more.

TRL's rows are padded on both sides and its head reads every position. Here rows are laid one behind the other into
lanes as long as the longest, with positions that begin anew, by which transformers keeps their attention apart; and
the head reads the states before tokens of completions alone, some at a time: no tensor of (batch, time, vocab) is
made, with whichever TRL.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from palign.functional.logprobs import drawn_logps
from palign.trainers.ppo.critic import last_states

__all__ = ["PackedRows", "StatePasses", "lanes_of", "settled"]

LONGEST_IN_A_LANE = 1024  # a mask of (n_lanes, longest, longest) is made
TOKENS_AT_ONCE = 4096  # of a pass without gradient, which keeps little of them
LOGITS_AT_ONCE = 2**24  # 64 MiB in float32


def lanes_of(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Lane and first place of each row, the longest first into the first lane with room for it."""
    longest, filled = max(lengths, default=0), []
    lanes, starts = [0] * len(lengths), [0] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        lane = next((k for k, n in enumerate(filled) if n + lengths[row] <= longest), len(filled))
        if lane == len(filled):
            filled.append(0)
        lanes[row], starts[row] = lane, filled[lane]
        filled[lane] += lengths[row]
    return lanes, starts


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Rows of prompt and completion, without the padding between and before them.

    Attributes:
        ids: (n_lanes, longest), padded on the right, which a causal model's states before do not feel.
        positions: likewise, within each row; None where a lane is a row.
        lanes, places: (n_tokens,), in `ids` the place before each token of a completion, row by row.
        rows, times: (n_tokens,), where that token is in the grid of completions.
        targets: (n_tokens,), its id.
        shape: (batch, time) of the grid.
    """

    ids: Tensor
    positions: Tensor | None
    lanes: Tensor
    places: Tensor
    rows: Tensor
    times: Tensor
    targets: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, n_times: int, *, lanes: bool) -> "PackedRows":
        """From ids and mask (batch, context + n_times), whose last `n_times` columns are completions.

        `lanes`: several rows may share one; done where it saves a tenth and rows are short enough for its mask.
        """
        real = mask.bool()
        within, lengths = real.cumsum(1) - 1, real.sum(1).tolist()
        longest = max(*lengths, 1)
        lane, start = lanes_of(lengths)
        share = lanes and longest <= LONGEST_IN_A_LANE and max(lane) + 1 <= 0.9 * len(ids)
        if not share:
            lane, start = list(range(len(ids))), [0] * len(ids)
        lane, start = torch.tensor(lane, device=ids.device), torch.tensor(start, device=ids.device)
        row, column = real.nonzero(as_tuple=True)
        place = within[row, column]
        there, size = (lane[row], start[row] + place), (int(lane.max()) + 1, longest)
        rows, times = real[:, -n_times:].nonzero(as_tuple=True)
        columns = times + ids.shape[1] - n_times
        before = (within[rows, columns] - 1).clamp(min=0)
        return cls(
            ids=ids.new_zeros(size).index_put(there, ids[row, column]),
            positions=place.new_zeros(size).index_put(there, place) if share else None,
            lanes=lane[rows], places=start[rows] + before, rows=rows, times=times,
            targets=ids[rows, columns], shape=(len(ids), n_times),
        )  # fmt: skip

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What a model is given."""
        return {"input_ids": self.ids} | ({} if self.positions is None else {"position_ids": self.positions})

    def picked(self, values: Tensor) -> Tensor:
        """(n_tokens, ...) of values (n_lanes, longest, ...): those before each token of a completion."""
        return values[self.lanes, self.places]

    def grid(self, values: Tensor) -> Tensor:
        """(batch, time) of values (n_tokens,), 0 where no token is."""
        return values.new_zeros(self.shape).index_put((self.rows, self.times), values)


class StatePasses:
    """Last hidden states, and log-probabilities of them, of models as Accelerate has wrapped them.

    Attributes:
        head_is_plain: whether logits are the head's answer to the last states. It is looked up in the first pass;
            where a model caps or scales them, or divides its weights among processes, TRL's way is taken.
        keeps_apart: whether rows of one lane do not feel each other, looked up likewise (a state-space model's do).
    """

    def __init__(self, accelerator: Accelerator, *, temperature: float, is_divided: bool, may_read_head: bool) -> None:
        self.accelerator, self.temperature, self.is_divided = accelerator, temperature, is_divided
        # under autocast to half precision every launch rounds alike, which is TRL's way; so does what it divides
        self.is_free = not is_divided and accelerator.mixed_precision == "no"
        self.head_is_plain: bool | None = None if may_read_head and self.is_free else False
        self.keeps_apart: bool | None = None if self.is_free else False
        self._inner: dict[int, nn.Module] = {}

    def inner(self, model: nn.Module) -> nn.Module:
        """The model within its wrappers; to look for it each time takes as long as a layer of a small one."""
        if id(model) not in self._inner:
            self._inner[id(model)] = self.accelerator.unwrap_model(model)
        return self._inner[id(model)]

    def packed(self, ids: Tensor, mask: Tensor, n: int, size: int | None) -> list[PackedRows]:
        """Rows of `size`, all of them without one; without gradient more at once where they are short."""
        size = size or len(ids)
        if self.is_free and not torch.is_grad_enabled():  # where divided, all processes take as many passes
            size = max(size, TOKENS_AT_ONCE // max(int(mask.sum(1).max()), 1))
        lanes = self.keeps_apart is True
        parts = zip(ids.split(size), mask.split(size), strict=True)
        return [PackedRows.of(*part, n, lanes=lanes) for part in parts]

    def states(self, model: nn.Module, packed: PackedRows) -> Tensor:
        """(n_tokens, hidden): the states before each token of the completions."""
        inner = self.inner(model)
        if not (torch.is_grad_enabled() or self.is_divided):
            model = inner  # a wrapper for gradients has nothing to do
        with last_states(inner) as seen:
            logits = model(**packed.inputs, logits_to_keep=1, use_cache=False).logits
        if self.head_is_plain is None:
            self.head_is_plain = _is_plain(self._head(model), seen[0][:, -1], logits[:, -1])
        return packed.picked(seen[0])

    def logps(self, model: nn.Module, packed: PackedRows, states: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (batch, n_times), nats, at the temperature; entropies without gradient."""
        head = self._head(model)
        n = max(1, LOGITS_AT_ONCE // self.inner(model).config.get_text_config().vocab_size)
        drawn = drawn_logps(states, head, packed.targets, temperature=self.temperature, n_at_once=n)
        return packed.grid(drawn[0]), packed.grid(drawn[1])

    def look_up(self, model: nn.Module, ids: Tensor, mask: Tensor, n: int) -> None:
        """Learn whether lanes may be shared, by the states of the first rows that would share some."""
        shared, alone = (PackedRows.of(ids, mask, n, lanes=lanes) for lanes in (True, False))
        if self.keeps_apart is None and shared.positions is not None:
            with torch.no_grad():
                in_lanes, expected = (self.states(model, rows) for rows in (shared, alone))
            near = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 5e-2
            self.keeps_apart = bool((in_lanes - expected).abs().max() <= near * expected.abs().max())

    def _head(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        return self.inner(model).get_output_embeddings()


@torch.no_grad()
def _is_plain(head: Callable[[Tensor], Tensor] | None, states: Tensor, logits: Tensor) -> bool:
    if head is None:
        return False
    recomputed = head(states)
    return recomputed.shape == logits.shape and torch.allclose(
        recomputed.float(), logits.float(), rtol=1e-3, atol=1e-3
    )


def settled(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The same loss with its gradients taken already, so that nothing of its forward pass is kept any longer.

    In the backward pass the parameters get these gradients times that of the loss, as they would have.
    """
    return _Settled.apply(loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True), *parameters)


class _Settled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *_: nn.Parameter) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if given is None else given * gradient for given in ctx.gradients)
