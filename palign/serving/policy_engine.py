"""Policies of a mixture at work for several people at once: one batch, each row by its own adapter."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from palign.models.architectures import stop_ids
from palign.models.completions import prompt_ids
from palign.models.mixture_policy import MixturePolicy
from palign.models.single_adapter import read_adapter

__all__ = ["ChatAnswer", "ChatRow", "PolicyEngine"]

FAIR, REFERENCE = "fair", "__base__"  # the latter is PEFT's word for no adapter


@dataclass(frozen=True)
class ChatRow:
    """One answer to write.

    Attributes:
        messages: the conversation so far.
        adapter: that writes it.
        max_new_tokens: of the answer.
        temperature: 0 takes the likeliest token.
        top_p: the mass of tokens that are drawn from.
        stop: texts before which the answer ends.
        seed: of the draw.
    """

    messages: Any
    adapter: str
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class ChatAnswer:
    """A text, why it ended (`stop` or `length`), and how many tokens were read and written."""

    text: str
    finish_reason: str
    n_prompt: int
    n_written: int


class PolicyEngine:
    """A mixture and, where there is one, its fair policy, on one base.

    Args:
        policy: the mixture.
        fair_path: a LoRA adapter on the same base, for people who are not known.
        batch_size: answers in one batch.
    """

    def __init__(self, policy: MixturePolicy, *, fair_path: str | Path | None = None, batch_size: int = 64) -> None:
        self.policy, self.batch_size = policy, batch_size
        self.model, self.tokenizer = policy.policies.policy, policy.tokenizer
        self.adapters = [f"type_{k}" for k in range(policy.n_types)]
        if fair_path is not None:
            read_adapter(self.model, FAIR, fair_path)
            self.adapters.append(FAIR)
        self.model.eval()
        self.n_answers = 0
        self.ends = stop_ids(self.tokenizer, self.model)

    @classmethod
    def from_pretrained(
        cls,
        mixture_path: str | Path,
        *,
        fair_path: str | Path | None = None,
        device: Any = "cpu",
        dtype: str = "auto",
        batch_size: int = 64,
    ) -> "PolicyEngine":
        """Read a mixture, and a fair policy."""
        policy = MixturePolicy.from_pretrained(mixture_path, device=device, dtype=dtype)
        engine = cls(policy, fair_path=fair_path, batch_size=batch_size)
        engine.model.to(device)
        return engine

    @property
    def longest_input(self) -> int:
        """Tokens of prompt and answer that the base takes."""
        text = self.model.config.get_text_config()
        return int(getattr(text, "max_position_embeddings", None) or 10**9)

    def adapter_for(self, person: object | None, *, seed: int = 0) -> tuple[str, bool]:
        """The adapter that serves a person, and whether they are known.

        Whoever is not known is served by the fair policy; without one, by a type drawn by the types' shares.
        """
        record = self.policy.record
        row = -1 if person is None else int(record.annotators.indices([person], unknown=-1)[0])
        if row >= 0:
            return f"type_{int(record.responsibilities[row].argmax())}", True
        if FAIR in self.adapters:
            return FAIR, False
        draw = torch.multinomial(self.policy.mixing_weights, 1, generator=torch.Generator().manual_seed(seed))
        return f"type_{int(draw)}", False

    def read(self, messages: Any) -> list[int]:
        """Ids of a conversation as the policies learned to read it.

        Raises:
            ValueError: policies that read bare texts are given more than one question; the template refuses it.
        """
        plain = self.policy.record.plain_prompts
        if plain and not isinstance(messages, str):
            if [turn["role"] for turn in messages] != ["user"]:
                raise ValueError(
                    "These policies were trained on bare questions and know no roles and no turns: send one message, "
                    "of the user."
                )
            messages = messages[0]["content"]
        return list(prompt_ids([messages], self.tokenizer, plain_prompts=plain)[0])

    @torch.no_grad()
    def __call__(self, rows: Sequence[ChatRow]) -> list[ChatAnswer]:
        """Answers (n,), each by its own adapter.

        Raises:
            ValueError: a conversation that cannot be read, or is too long.
        """
        ids = [self.read(row.messages) for row in rows]
        lengths = [len(prompt) for prompt in ids]
        if rows and max(lengths) >= self.longest_input:
            raise ValueError(f"A conversation has {max(lengths)} tokens; the model takes {self.longest_input - 1}.")
        answers: dict[int, ChatAnswer] = {}
        for part, n_new in self._batches([row.max_new_tokens for row in rows], lengths):
            written = self._write([rows[i] for i in part], [ids[i] for i in part], n_new)
            answers |= dict(zip(part, written, strict=True))
        self.n_answers += len(rows)
        return [answers[i] for i in range(len(rows))]

    def _batches(self, most: list[int], lengths: list[int]) -> Iterator[tuple[list[int], int]]:
        """(row numbers, tokens to write): answers of about one length together, nobody beyond the longest input."""
        room = [min(n, self.longest_input - length) for n, length in zip(most, lengths, strict=True)]
        part: list[int] = []
        for i in sorted(range(len(room)), key=lambda i: (room[i], lengths[i])):
            is_full = len(part) == self.batch_size
            if part and (is_full or max(lengths[j] for j in [*part, i]) + room[i] > self.longest_input):
                yield part, room[part[-1]]
                part = []
            part.append(i)
        if part:
            yield part, room[part[-1]]

    def _write(self, rows: list[ChatRow], ids: list[list[int]], n_new: int) -> list[ChatAnswer]:
        longest = max(map(len, ids))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.ends[0]
        device = self.model.device
        padded = torch.tensor([[pad] * (longest - len(row)) + row for row in ids], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=device)
        sequences = self.model.generate(
            input_ids=padded, attention_mask=mask, adapter_names=[row.adapter for row in rows], do_sample=False,
            max_new_tokens=n_new, pad_token_id=pad, eos_token_id=self.ends,
            logits_processor=LogitsProcessorList([_DrawnByRow(rows)]), top_p=None, top_k=None, temperature=None,
        )  # fmt: skip
        return [
            self._answer(row, prompt, new)
            for row, prompt, new in zip(rows, ids, sequences[:, longest:].tolist(), strict=True)
        ]

    def _answer(self, row: ChatRow, prompt: list[int], new: list[int]) -> ChatAnswer:
        end = next((i for i, number in enumerate(new) if number in self.ends), None)
        written = new[: row.max_new_tokens] if end is None or end >= row.max_new_tokens else new[:end]
        has_ended = end is not None and end < row.max_new_tokens
        text = self.tokenizer.decode(written, skip_special_tokens=True).strip()
        places = [place for mark in row.stop if (place := text.find(mark)) >= 0]
        if places:
            text, has_ended = text[: min(places)], True
        return ChatAnswer(
            text, "stop" if has_ended else "length", len(prompt), len(written) + int(end is not None and has_ended)
        )


class _DrawnByRow(LogitsProcessor):
    """Makes the likeliest token the one that is drawn, so that each row has its own temperature, top_p and seed.

    The largest of logits/temperature + Gumbel noise is a draw from their softmax. A row's noise comes from its own
    generator: what it is drawn does not depend on who else is in the batch.
    """

    def __init__(self, rows: Sequence[ChatRow]) -> None:
        self.rows = rows
        self.generators = [torch.Generator().manual_seed(row.seed) for row in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        drawn = scores.float().clone()
        for i, (row, generator) in enumerate(zip(self.rows, self.generators, strict=True)):
            if row.temperature == 0:
                continue
            logits = drawn[i] / row.temperature
            if row.top_p < 1:
                logits = _within(logits, row.top_p)
            noise = torch.empty(logits.shape).exponential_(generator=generator).log()  # minus a Gumbel draw
            drawn[i] = logits - noise.to(logits)
        return drawn


def _within(logits: Tensor, top_p: float) -> Tensor:
    """Logits (vocab,) of the fewest likeliest tokens whose mass is `top_p`, −∞ elsewhere."""
    values, order = logits.sort(descending=True)
    before = values.softmax(-1).cumsum(-1) - values.softmax(-1)
    return logits.masked_fill(
        torch.zeros_like(before, dtype=torch.bool).scatter(0, order, before >= top_p), -torch.inf
    )


def now() -> int:
    """Seconds since 1970, as OpenAI's answers have them."""
    return int(time.time())
