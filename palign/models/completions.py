"""Prompts and completions → token ids as TRL's DPOTrainer makes them, batches, and log-probabilities of completions.

The prompt is tokenised alone, prompt and completion together, and the completion is what follows the prompt's ids;
plain completions end in eos, conversational ones go through the chat template. Where we differ from TRL 1.12:

1. Where the joint ids do not begin with the ids of the prompt, the two are tokenised apart and joined (TRL warns and
   cuts at the prompt's length, wherever that falls).
2. A text without a prompt follows the bos token (TRL leaves its first token unscored).
3. A completion of which nothing is left under `max_length` is an error (TRL drops the row silently).
"""

import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palign.data.preferences import Preferences
from palign.data.rendering import render_completion, render_prompt, render_whole, template_ids
from palign.data.turns import as_turns, in_turns
from palign.functional.evidence.positions import position_within
from palign.functional.logprobs import token_logps
from palign.models.architectures import special_ids
from palign.models.states.scored import has_plain_head, scored_logps, scored_states

__all__ = ["TokenizedItems", "policy_logps", "prompt_ids", "tokens_at_once"]

logger = logging.getLogger(__name__)
TEXTS_AT_ONCE = 8192
CPU_TOKENS = 4096  # in a pass without gradient: more leave the cache, and each takes a tenth longer


@dataclass(eq=False)
class TokenizedItems:
    """Token ids of unique items, each a prompt with one completion, flat in memory.

    Attributes:
        ids: (n_tokens,) int32, one item after the other, prompt before completion.
        ends: (n_items,) int64, where each item ends in `ids`.
        prompt_lengths: (n_items,) int64.
        pad_id: what stands at padding; masked wherever it is read.
    """

    ids: np.ndarray
    ends: np.ndarray
    prompt_lengths: np.ndarray
    pad_id: int

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> np.ndarray:
        """(n_items,) tokens of prompt and completion together."""
        return np.diff(self.ends, prepend=0)

    @classmethod
    def from_pairs(cls, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> "TokenizedItems":
        """Items of (prompt ids, completion ids), in that order."""
        return cls(
            np.array([token for pair in pairs for part in pair for token in part], dtype=np.int32),
            np.cumsum([len(head) + len(tail) for head, tail in pairs], dtype=np.int64),
            np.array([len(head) for head, _ in pairs], dtype=np.int64),
            pad_id,
        )

    @cached_property
    def prompt_numbers(self) -> np.ndarray:
        """(n_items,) int64, the same for items whose prompts have the same ids."""
        numbers: dict[bytes, int] = {}
        starts = self.ends - self.lengths
        return np.array(
            [
                numbers.setdefault(self.ids[start : start + length].tobytes(), len(numbers))
                for start, length in zip(starts, self.prompt_lengths, strict=True)
            ],
            dtype=np.int64,
        )

    def tokens(self, number: int) -> np.ndarray:
        """(n,) int32, all ids of one item; the first `prompt_lengths[number]` are the prompt's."""
        return self.ids[(self.ends[number - 1] if number else 0) : self.ends[number]]

    @classmethod
    def of(
        cls, prefs: Preferences, tokenizer: Any, *, max_length: int | None = 1024, plain_prompts: bool = True
    ) -> "TokenizedItems":
        """Tokenise every item of text preferences once, row for row `prefs.items`.

        Args:
            prefs: rows of texts, plain or conversational.
            tokenizer: with an eos token, and a chat template for conversational rows; it is not changed.
            max_length: tokens of prompt and completion together; what is beyond is cut off (TRL's `keep_start`),
                with one warning. None cuts nothing.
            plain_prompts: plain rows are read bare; else as turns (`palign.data.turns`).

        Raises:
            ValueError: the rows name vectors; no eos token or no chat template; a text without a prompt and no bos
                token; nothing of a completion is left (the message names its row).
        """
        if prefs.items is None or prefs.prompts is None:
            raise ValueError("these preferences name rows of an embedding file; a policy needs rows of texts.")
        if max_length is not None and max_length < 2:
            raise ValueError(
                f"max_length is {max_length}; prompt and completion need at least 2 tokens, or give None."
            )
        if not plain_prompts:
            prefs = in_turns(prefs)
        reader = _Reader(tokenizer)
        parts, ends, prompt_lengths = [], [], []
        for start in range(0, len(prefs.items), TEXTS_AT_ONCE):
            pairs = reader.read(prefs, start, start + TEXTS_AT_ONCE)
            parts.append(np.array([i for head, tail in pairs for i in (*head, *tail)], dtype=np.int32))
            ends += [len(head) + len(tail) for head, tail in pairs]
            prompt_lengths += [len(head) for head, _ in pairs]
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        whole = cls(
            np.concatenate(parts) if parts else np.empty(0, dtype=np.int32),
            np.cumsum(np.array(ends, dtype=np.int64)),
            np.array(prompt_lengths, dtype=np.int64),
            int(pad_id),
        )
        _check_completions(whole, prefs, max_length)
        return whole._cut(max_length)

    def _cut(self, max_length: int | None) -> "TokenizedItems":
        lengths = self.lengths
        if max_length is None or not len(self) or lengths.max() <= max_length:
            return self
        logger.warning(
            "%d of %d completions do not fit in max_length=%d tokens and lose their end.",
            int((lengths > max_length).sum()),
            len(self),
            max_length,
        )
        position = position_within(lengths)
        kept = np.minimum(lengths, max_length)
        prompts = np.minimum(self.prompt_lengths, max_length)
        return TokenizedItems(self.ids[position < max_length], np.cumsum(kept), prompts, self.pad_id)

    def collate(self, numbers: np.ndarray | list[int]) -> dict[str, Tensor]:
        """Items by number → `input_ids`, `attention_mask`, `completion_mask`: (n, seq_len) int64, right-padded."""
        numbers = np.asarray(numbers, dtype=np.int64)
        lengths = self.lengths[numbers]
        position = np.arange(int(lengths.max()) if len(numbers) else 0)
        real = position < lengths[:, None]
        ids = np.full(real.shape, self.pad_id, dtype=np.int64)
        source = (self.ends[numbers] - lengths)[:, None] + position
        ids[real] = self.ids[source[real]]
        completion = real & (position >= self.prompt_lengths[numbers][:, None])
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
            "completion_mask": torch.from_numpy(completion.astype(np.int64)),
        }

    def batches_by_length(
        self, numbers: np.ndarray | None = None, batch_size: int = 32, *, max_tokens: int | None = None
    ) -> Iterator[np.ndarray]:
        """Item numbers in batches of about equal length, longest first: for passes without gradient. Those of one
        prompt stand together, so that it is read once (`palign.models.states.prompt_tree`).

        Args:
            numbers: (n,) which items; None is all.
            batch_size: items in a batch at most.
            max_tokens: tokens in a batch at most, padding included; one item always fits. None sets no limit.
        """
        numbers = np.arange(len(self)) if numbers is None else np.asarray(numbers, dtype=np.int64)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1.")
        lengths = self.lengths
        prompts = self.prompt_numbers[numbers]
        longest_of = np.zeros(len(self) + 1, dtype=np.int64)
        np.maximum.at(longest_of, prompts, lengths[numbers])
        numbers = numbers[np.lexsort((-lengths[numbers], prompts, -longest_of[prompts]))]
        start, longest = 0, 1
        for end, number in enumerate(numbers):
            longest_then = max(longest, int(lengths[number]))
            is_full = max_tokens is not None and (end + 1 - start) * longest_then > max_tokens
            if end > start and (end - start == batch_size or is_full):
                yield numbers[start:end]
                start, longest_then = end, max(1, int(lengths[number]))
            longest = longest_then
        if start < len(numbers):
            yield numbers[start:]


def tokens_at_once(device: torch.device | str) -> int | None:
    """`max_tokens` of `batches_by_length` that a device is quick with."""
    return CPU_TOKENS if torch.device(device).type == "cpu" else None


def prompt_ids(prompts: Sequence[Any], tokenizer: Any, *, plain_prompts: bool = True) -> list[list[int]]:
    """What a policy reads before it answers: the ids that `TokenizedItems` gives the prompt's part of an item.

    Args:
        prompts: texts, or lists of messages.
        tokenizer: with a chat template for the latter.
        plain_prompts: plain texts are read bare; else each as a user's turn.
    """
    reader, prompts = _Reader(tokenizer), prompts if plain_prompts else as_turns(prompts)
    return [reader.opening(prompt) for prompt in prompts]


class _Reader:
    """One tokenizer at work on items; prompts are read once each."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.prompt_ids: dict[int, list[int]] = {}

    def read(self, prefs: Preferences, start: int, stop: int) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, completion ids) of the items from `start` to `stop`."""
        part = prefs.items[start:stop]
        plain = [i for i, (_, completion) in enumerate(part) if isinstance(completion, str)]
        joint: list[list[int]] = [[] for _ in part]
        texts = [prefs.prompts[part[i][0]] + self._ended(part[i][1]) for i in plain]
        for i, ids in zip(plain, self._ids(texts), strict=True):
            joint[i] = ids
        self._read_prompts(prefs, {part[i][0] for i in plain})
        pairs = []
        for (number, completion), ids in zip(part, joint, strict=True):
            prompt = prefs.prompts[number]
            if not isinstance(completion, str):
                ids = self._conversation(prompt, completion)
                if number not in self.prompt_ids:
                    opening = self._template(prompt, add_generation_prompt=True) if prompt else []
                    self.prompt_ids[number] = opening
            pairs.append(self._parted(prompt, completion, self.prompt_ids[number], ids))
        return pairs

    def opening(self, prompt: Any) -> list[int]:
        """Ids of a prompt by itself; an empty one is the bos token."""
        if isinstance(prompt, str):
            head = self._ids([prompt])[0]
        else:
            head = self._template(prompt, add_generation_prompt=True) if prompt else []
        return head or self._parted(prompt, "", [], [])[0]

    def _read_prompts(self, prefs: Preferences, numbers: set[int]) -> None:
        new = sorted(numbers - set(self.prompt_ids))
        ids = self._ids([prefs.prompts[number] for number in new])
        self.prompt_ids.update(zip(new, ids, strict=True))

    def _parted(self, prompt: Any, completion: Any, head: list[int], joint: list[int]) -> tuple[list[int], list[int]]:
        if not prompt or not head:
            bos = self.tokenizer.bos_token_id
            if bos is None:
                raise ValueError(
                    f"A text has no prompt ({str(completion)[:60]!r}), and the tokenizer has no bos token that its "
                    "first token could follow. Set tokenizer.bos_token, or give every row a prompt."
                )
            return [bos], joint[1:] if joint[:1] == [bos] else joint
        if joint[: len(head)] == head:
            return head, joint[len(head) :]
        if isinstance(completion, str):
            before, _ = special_ids(self.tokenizer, is_causal=True)
            return [*before, *self._ids([prompt], special=False)[0]], self._ids(
                [self._ended(completion)], special=False
            )[0]
        return head, self._ids([render_completion(prompt, completion, self.tokenizer)], special=False)[0]

    def _ended(self, completion: str) -> str:
        eos = self.tokenizer.eos_token
        if eos is None:
            raise ValueError(
                "The tokenizer has no eos token, and plain completions end in one. Set tokenizer.eos_token."
            )
        return completion if completion.endswith(eos) else completion + eos

    def _ids(self, texts: list[str], special: bool = True) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(texts, add_special_tokens=special, padding=False, truncation=False, verbose=False)[
            "input_ids"
        ]

    def _template(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        return template_ids(messages, self.tokenizer, **options)

    def _conversation(self, prompt: Any, completion: Any) -> list[int]:
        """Ids of prompt and completion together; nothing where the template does not write the answer right behind its
        opening, so that the two are read apart."""
        if prompt:
            opening = render_prompt(prompt, self.tokenizer)
            answer = render_completion(prompt, completion, self.tokenizer)
            whole = render_whole([*prompt, *completion], self.tokenizer)
            if whole != opening + answer:
                return []
        return self._template([*prompt, *completion])


def _check_completions(items: TokenizedItems, prefs: Preferences, max_length: int | None) -> None:
    """ValueError where a row's completion has no token, or none within `max_length`."""
    room = np.iinfo(np.int64).max if max_length is None else max_length
    empty = np.minimum(items.lengths, room) <= items.prompt_lengths
    used = prefs.item_indices[prefs.item_indices >= 0]
    bad = np.intersect1d(np.flatnonzero(empty), used)
    if not len(bad):
        return
    row = int(np.argwhere(prefs.item_indices == bad[0])[0, 0])
    n_prompt, n_all = int(items.prompt_lengths[bad[0]]), int(items.lengths[bad[0]])
    reason = (
        f"its prompt alone has {n_prompt} tokens and max_length is {max_length}. Raise max_length, or drop these rows"
        if n_all > n_prompt
        else "it has no token at all after the prompt. Correct or drop these rows"
    )
    raise ValueError(
        f"Row {row} (counting from 0): nothing of the completion {str(prefs.items[bad[0]][1])[:60]!r} would be "
        f"scored: {reason}. This holds for {len(bad)} of {len(items)} completions."
    )


def policy_logps(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
    """Log-probability of every sequence's completion under a causal language model: (batch,), nats.

    Under a plain head that is not trained, logits stand for some scored tokens at a time, and a prompt is read once
    for its completions (`palign.models.states.scored`). Else, where the model knows `logits_to_keep`, they are
    computed only from the shortest prompt's last token on.

    Args:
        model: plain, or a PeftModel under whichever adapter is active.
        input_ids, attention_mask, completion_mask: (batch, seq_len), right-padded.
    """
    transformer = model.get_base_model() if hasattr(model, "get_base_model") else model
    if has_plain_head(transformer):
        return scored_logps(transformer, scored_states(transformer, input_ids, attention_mask, completion_mask))
    first, options = 1, {}
    if "logits_to_keep" in inspect.signature(transformer.forward).parameters:
        first = max(1, int(completion_mask.any(0).to(torch.uint8).argmax()))
        options["logits_to_keep"] = torch.arange(first - 1, input_ids.shape[1] - 1, device=input_ids.device)
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **options).logits
    scored = completion_mask[:, first:].bool()
    targets = input_ids[:, first:].masked_fill(~scored, 0)
    return token_logps(logits[:, : targets.shape[1]], targets).masked_fill(~scored, 0.0).sum(-1)
