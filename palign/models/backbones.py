"""One text in, one vector out: a transformers model, its tokenizer, and pooling that no padding can disturb.

Every row is first *packed*: its real tokens moved to the front, its pads to the back and overwritten. Left padding,
right padding, pads in the middle and whatever the pads contain then give the same numbers on every architecture,
whether its positions are learned, rotary, or implied by recurrence; no model needs to be told its position ids.

A text is pooled **once**: a causal backbone by the mean over the completion's own tokens, an encoder by the mean of
all states. A chat template ends an answer with a mark and a line break; the state of that line break, the last of a
text, says little of the answer. A causal pass over prompt + completion also holds the state of the prompt's last
token, which is what a pass over the prompt alone would give.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palign.models.architectures import (
    hidden_size_of,
    longest_input,
    mark_ids,
    n_layers_of,
    sees_only_the_past,
    special_ids,
    tokenizer_content,
    without_head,
)
from palign.models.model_folders import read_pooling_hints, require_model_folder, unknown_model_message
from palign.models.states.pooling import OF_COMPLETION, POOLINGS, completion_tokens, pack, pool, rows_at
from palign.parallel.divided_loading import from_pretrained
from palign.parallel.sharded import whole_tensor


def enter_tensor(digest: Any, name: str, tensor: Tensor) -> None:
    """Name, shape, number type and content of a tensor into a digest; above a million elements an even sample."""
    flat = tensor.detach().reshape(-1)
    flat = flat[:: max(1, flat.numel() // FINGERPRINT_ELEMENTS)].contiguous()
    digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
    digest.update(tensor_bytes(flat))


def tensor_bytes(tensor: Tensor) -> bytes:
    """What a tensor holds, element after element, wherever it lies."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


WITHIN = {"completion": "mean", "completion_last": "last"}  # how the completion's own tokens are pooled
FINGERPRINT_ELEMENTS = 2**20  # a tensor up to this size is read in full for the key; a larger one is sampled


class PooledStates(NamedTuple):
    """``text`` (batch, hidden): the whole text; ``prompt`` (batch, hidden) or None: the prompt's last token."""

    text: Tensor
    prompt: Tensor | None


class StateKind(NamedTuple):
    """Which states become the vector of a text: those after `layer` (None: the last), pooled by `pooling`."""

    layer: int | None
    pooling: str


class TokenizedText(NamedTuple):
    """Ids of one text with its special tokens; how many of them are the prompt's; whether the prompt was cut."""

    ids: list[int]
    prompt_length: int
    prompt_was_cut: bool


class Backbone(nn.Module):
    """A transformers model that turns prompts and completions into pooled vectors.

    Args:
        model: any transformers model; a head on it (``…ForCausalLM``) is left aside.
        tokenizer: its tokenizer; never modified here, and a missing pad token does not matter.
        pooling: ``completion`` (causal default: the mean over the completion's own tokens, without the marks that end
            it; the last token where it has none), ``completion_last`` (the last of those tokens), ``last``, ``mean``
            (encoder default), ``first`` or ``max``.
        layer: the states after that layer, from 1; the last layer's, normed as the model does, if None.
        max_length: tokens kept of one text; the model's own limit is respected when it is smaller.
        normalize: scale every vector to length one, as many sentence encoders do.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: object,
        *,
        pooling: str | None = None,
        layer: int | None = None,
        max_length: int = 1024,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.model = without_head(model)
        self.tokenizer = tokenizer
        self.is_causal = sees_only_the_past(self.model.config)
        self.hidden_size = hidden_size_of(self.model.config)
        self.pooling = pooling or ("completion" if self.is_causal else "mean")
        self.normalize = normalize
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"pooling is {pooling!r}; it must be one of {', '.join(POOLINGS)}, or None for the completion's "
                "tokens under a causal model and the mean of an encoder."
            )
        if self.needs_lengths and not self.is_causal:
            raise ValueError(
                f"pooling={self.pooling!r} is for causal models: an encoder's states of a completion hold the prompt, "
                "too. Give 'mean', or leave pooling out."
            )
        self.layer = layer
        n_layers = n_layers_of(self.model.config)
        if layer is not None and not 1 <= layer <= n_layers:
            raise ValueError(
                f"layer is {layer}; this model has layers 1 to {n_layers}. Give one of them, or leave it out for the "
                "last layer's states."
            )
        if max_length < 4:
            raise ValueError(
                f"max_length is {max_length}; it counts tokens of prompt and completion together and must be "
                "at least 4."
            )
        self.max_length = min(max_length, longest_input(self.model.config, tokenizer))
        self._prefix, self._suffix = special_ids(tokenizer, self.is_causal)
        self._marks = mark_ids(tokenizer)
        start = getattr(tokenizer, "bos_token_id", None) if self.is_causal and not self._prefix else None
        self._start_of_empty_prompt = [] if start is None else [start]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        *,
        dtype: str | torch.dtype = "float32",
        trust_remote_code: bool = False,
        revision: str | None = None,
        max_length: int = 1024,
        pooling: str | None = None,
        layer: int | None = None,
        normalize: bool | None = None,
        divided: bool = False,
    ) -> "Backbone":
        """Load a hub name or a folder (safetensors only), with the pooling a sentence-transformers folder asks for.

        ``pooling`` and ``normalize`` given here win over those of the folder. A folder that is not a model raises
        ValueError before anything is loaded. ``divided``: in parts where the launch divides
        (`palign.parallel.divided_loading`); all processes then embed and score together.
        """
        name_or_path = str(name_or_path)
        hints = read_pooling_hints(name_or_path, revision=revision, pooling=pooling)
        require_model_folder(name_or_path, hints.subfolder)
        from transformers import AutoModel, AutoTokenizer

        common = {"revision": revision, "trust_remote_code": trust_remote_code}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, **common)
            model = from_pretrained(
                AutoModel, name_or_path, divided=divided, dtype=dtype, use_safetensors=True, subfolder=hints.subfolder,
                **common,
            )  # fmt: skip
        except (OSError, KeyError) as error:
            raise ValueError(unknown_model_message(name_or_path, error)) from error
        limit = min(max_length, hints.max_length or max_length)
        return cls(
            model,
            tokenizer,
            pooling=hints.pooling,
            layer=layer,
            max_length=limit,
            normalize=hints.normalize if normalize is None else normalize,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def tokenize(self, prompts: Sequence[str], completions: Sequence[str] | None = None) -> list[TokenizedText]:
        """Tokenise prompt and completion apart and join the ids, special tokens around them.

        Too long a text keeps its completion and the end of its prompt (at least one token of it); too long a
        completion loses its end. An encoder reads a space between the two where neither has one. An empty prompt of a
        causal model whose tokenizer puts nothing in front is its beginning-of-sequence token, where it has one.
        """
        prompts, completions = _checked_texts(prompts, completions)
        if not self.is_causal:
            completions = [
                _spaced(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)
            ]
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        try:
            prompt_ids = self.tokenizer(prompts, **options)["input_ids"]
            completion_ids = self.tokenizer(completions, **options)["input_ids"]
        except TypeError as error:
            raise ValueError(_not_unicode_message(prompts, completions)) from error
        return [self._joined(ids, following) for ids, following in zip(prompt_ids, completion_ids, strict=True)]

    def _joined(self, prompt_ids: list[int], completion_ids: list[int]) -> TokenizedText:
        if self.is_causal and self._prefix and prompt_ids[: len(self._prefix)] == self._prefix:
            prompt_ids = prompt_ids[len(self._prefix) :]  # a chat template has written bos itself
        prompt_ids = prompt_ids or self._start_of_empty_prompt
        room = self.max_length - len(self._prefix) - len(self._suffix)
        reserved = 1 if prompt_ids and self.is_causal else 0
        completion_ids = completion_ids[: room - reserved]
        kept = min(len(prompt_ids), room - len(completion_ids))
        cut = kept < len(prompt_ids)
        ids = [*self._prefix, *prompt_ids[len(prompt_ids) - kept :], *completion_ids, *self._suffix]
        if not ids:
            raise ValueError(
                "a text has no tokens at all: its prompt and its completion are both empty, and the tokenizer adds no "
                "special token. Give at least one character, or drop the row."
            )
        return TokenizedText(ids, len(self._prefix) + kept, cut)

    def collate(self, texts: Sequence[TokenizedText]) -> dict[str, Tensor]:
        """Right-pad texts: ``input_ids``, ``attention_mask`` (batch, seq_len), ``prompt_lengths`` (batch,)."""
        longest = max(len(text.ids) for text in texts)
        input_ids = torch.full((len(texts), longest), self._pad_id, dtype=torch.long)
        attention_mask = torch.zeros((len(texts), longest), dtype=torch.long)
        for row, text in enumerate(texts):
            input_ids[row, : len(text.ids)] = torch.tensor(text.ids, dtype=torch.long)
            attention_mask[row, : len(text.ids)] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "prompt_lengths": torch.tensor([text.prompt_length for text in texts], dtype=torch.long),
        }

    def encode(self, prompts: Sequence[str], completions: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Texts → the arguments of :meth:`forward`; see :meth:`tokenize` and :meth:`collate`."""
        return self.collate(self.tokenize(prompts, completions))

    @property
    def _pad_id(self) -> int:
        pad_id = getattr(self.tokenizer, "pad_token_id", None)
        return pad_id if pad_id is not None else getattr(self.model.config, "pad_token_id", None) or 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor | None = None) -> PooledStates:
        """Pooled states of a padded batch.

        Args:
            input_ids: (batch, seq_len), padded on any side with anything.
            attention_mask: (batch, seq_len), 1 on real tokens.
            prompt_lengths: (batch,) real tokens of the prompt, special tokens before it included; needed where
                `needs_lengths`.

        Returns:
            PooledStates: ``text`` (batch, hidden), at least float32; ``prompt`` (batch, hidden) for a causal
            model when ``prompt_lengths`` is given, else None. A row without a real token raises ValueError.
        """
        input_ids, mask = pack(input_ids.to(self.device), attention_mask.to(self.device), self._pad_id)
        states = self._states(input_ids, mask, [self.layer])[self.layer]
        if self.needs_lengths:
            return self._pooled_completion(states, input_ids, mask, prompt_lengths)
        pooled = self._scaled(pool(states, mask, self.pooling))
        if prompt_lengths is None or not self.is_causal:
            return PooledStates(pooled, None)
        prompt_lengths = prompt_lengths.to(self.device)
        if bool((prompt_lengths < 1).any() | (prompt_lengths > mask.sum(1)).any()):
            raise ValueError(
                "prompt_lengths holds a number below 1 or above the real tokens of its row; a causal backbone has no "
                "state for an empty prompt. Give each prompt at least one token."
            )
        if self.pooling == "last":
            return PooledStates(pooled, self._scaled(rows_at(states, prompt_lengths - 1)))
        positions = torch.arange(mask.shape[1], device=mask.device)
        prompt_mask = (positions < prompt_lengths[:, None]).to(mask.dtype)
        return PooledStates(pooled, self._scaled(pool(states, prompt_mask, self.pooling)))

    def _states(self, input_ids: Tensor, mask: Tensor, layers: Sequence[int | None]) -> dict[int | None, Tensor]:
        """States (batch, seq_len, hidden) after each of those layers, at least float32."""
        options = {"use_cache": False} if self.is_causal else {}
        if any(layer is not None for layer in layers):
            options["output_hidden_states"] = True
        output = self.model(input_ids=input_ids, attention_mask=mask, return_dict=True, **options)
        states = {
            layer: output.last_hidden_state if layer is None else output.hidden_states[layer] for layer in layers
        }
        return {
            layer: part.float() if part.dtype in (torch.float16, torch.bfloat16) else part
            for layer, part in states.items()
        }

    def pooled_as(self, batch: dict[str, Tensor], kinds: Sequence[StateKind]) -> list[Tensor]:
        """(batch, hidden) of each kind, for completions of causal models: one pass over what :meth:`collate` gives."""
        input_ids, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)
        states = self._states(input_ids, mask, sorted({kind.layer for kind in kinds}, key=str))
        lengths = batch["prompt_lengths"].to(self.device)
        tokens = completion_tokens(input_ids, mask, lengths, self._marks)
        return [
            self._scaled(
                pool(states[layer], tokens if pooling in OF_COMPLETION else mask, WITHIN.get(pooling, pooling))
            )
            for layer, pooling in kinds
        ]

    def read_as(self, kind: StateKind) -> None:
        """From now on pool states of that kind; the fingerprint is another."""
        self.layer, self.pooling = kind

    @property
    def kind(self) -> StateKind:
        """What is pooled now."""
        return StateKind(self.layer, self.pooling)

    def pooled(self, batch: dict[str, Tensor]) -> Tensor:
        """(batch, hidden): the whole texts of what :meth:`collate` gives."""
        lengths = {"prompt_lengths": batch["prompt_lengths"]} if self.needs_lengths else {}
        return self(batch["input_ids"], batch["attention_mask"], **lengths).text

    @property
    def needs_lengths(self) -> bool:
        """Whether `forward` must know where the completion begins."""
        return self.pooling in OF_COMPLETION

    def _pooled_completion(
        self, states: Tensor, input_ids: Tensor, mask: Tensor, prompt_lengths: Tensor | None
    ) -> PooledStates:
        if prompt_lengths is None:
            raise ValueError(
                "this backbone pools the completion's own tokens and is not told where the completion begins; give "
                "prompt_lengths (batch,), or make the backbone with pooling='last' or 'mean'."
            )
        lengths = prompt_lengths.to(self.device)
        if bool((lengths < 0).any() | (lengths > mask.sum(1)).any()):
            raise ValueError("prompt_lengths holds a number below 0 or above the real tokens of its row.")
        tokens = completion_tokens(input_ids, mask, lengths, self._marks)
        prompt = rows_at(states, (lengths - 1).clamp_min(0))  # of an empty prompt nobody keeps it
        return PooledStates(self._scaled(pool(states, tokens, WITHIN[self.pooling])), self._scaled(prompt))

    def _scaled(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def fingerprint(self) -> str:
        """A content key (64 hex digits): weights, configuration, tokenizer, pooling, layer and longest input.

        The same model in another folder has the same key; one changed weight matrix, another tokenizer or pooling
        has another. Tensors above a million elements are sampled evenly, the rest read in full. Every process of a
        backbone that is divided among them must call it.
        """
        digest = hashlib.sha256()
        # the parameters themselves: ZeRO-3 marks those it divided, which are gathered one by one
        for name, tensor in sorted(self.model.state_dict(keep_vars=True).items()):
            if name.startswith("pooler."):  # not read here, and drawn at random where a checkpoint has none
                continue
            enter_tensor(digest, name, whole_tensor(tensor))
        config = {
            key: value
            for key, value in self.model.config.to_dict().items()
            if key not in ("_name_or_path", "transformers_version", "architectures")
        }
        settings = [config, tokenizer_content(self.tokenizer), self.pooling, self.max_length, self.normalize]
        settings += [] if self.layer is None else [self.layer]
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        return digest.hexdigest()


def _spaced(prompt: str, completion: str) -> str:
    touching = prompt and completion and not prompt[-1].isspace() and not completion[0].isspace()
    return f" {completion}" if touching else completion


def _checked_texts(prompts: Sequence[str], completions: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Lists of equal length, every entry a string; without completions every completion is empty."""
    if isinstance(prompts, str) or isinstance(completions, str):
        raise TypeError(
            "prompts and completions must be lists of strings, and one of them is a single string; put it in a list."
        )
    prompts = list(prompts)
    completions = [""] * len(prompts) if completions is None else list(completions)
    if len(prompts) != len(completions):
        raise ValueError(
            f"{len(prompts)} prompts were given with {len(completions)} completions; give one completion for each "
            "prompt."
        )
    for name, texts in (("prompts", prompts), ("completions", completions)):
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(
                    f"{name}[{row}] is a {type(text).__name__}; the backbone takes plain strings. Render "
                    "conversational rows first (palign.data.preferences.render_prompt, render_completion)."
                )
    return prompts, completions


def _not_unicode_message(prompts: list[str], completions: list[str]) -> str:
    for name, texts in (("prompts", prompts), ("completions", completions)):
        for row, text in enumerate(texts):
            if text.encode("utf-8", "replace").decode("utf-8") != text:
                return (
                    f"{name}[{row}] holds half of a surrogate pair (a broken emoji, often) and cannot be tokenised: "
                    f"{text[:40]!r}. Mend the text, or drop the row."
                )
    return f"the tokenizer refuses one of {len(prompts)} texts; look for one that is not plain text."
