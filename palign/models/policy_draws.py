"""What policies on one base answer, and what every type thinks of it: samples, log-probabilities, values.

Every policy answers the same prompts at temperature 1 without truncation. The log-probabilities of all completions
under all types, the reference and the speaker are computed once and kept on disk by content: adapters, prompts and
settings. `L_ij = E_x E_{y~π_j} h_i` is estimated by the full-vocabulary expectation at every sampled prefix.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase

from palign.functional.logprobs import expected_logps, token_logps
from palign.models.adapters import route
from palign.models.architectures import stop_ids
from palign.models.completions import TokenizedItems, prompt_ids, tokens_at_once
from palign.models.reference_logps import base_fingerprint
from palign.models.single_adapter import adapter_fingerprint
from palign.models.states.folded import folded
from palign.models.states.scored import has_plain_head, logits_at_once, plain_head, scored_states
from palign.models.type_scores import gathered
from palign.parallel.sharded import forwards, is_sharded
from palign.parallel.shared_work import computed_once, own_batches
from palign.reading import reading
from palign.writing import saving, whole_file

__all__ = [
    "ESTIMATORS",
    "DrawSettings",
    "PolicyDraws",
    "PolicyReader",
    "completion_logits",
    "joined_items",
    "readable_prompts",
    "stop_ids",
]

logger = logging.getLogger(__name__)
ESTIMATORS = ("prefix", "sampled")
LOGITS_AT_ONCE = 2**27  # elements of one model's logits in a pass
MOSTLY_EMPTY, OFTEN_EMPTY = 0.9, 0.1


@dataclass(frozen=True)
class DrawSettings:
    """How policies are sampled and valued.

    Attributes:
        n_samples: completions of a prompt.
        max_new_tokens: where completions are cut; values are then those of the cut completions.
        seed: of the draws, mixed with the policy's name.
        estimator: 'prefix' (full-vocabulary expectation at sampled prefixes) or 'sampled' (log-ratio of the sample).
        batch_size: completions generated, or judged, at once.
    """

    n_samples: int = 4
    max_new_tokens: int = 64
    seed: int = 0
    estimator: str = "prefix"
    batch_size: int = 64


@dataclass(eq=False)
class PolicyDraws:
    """Completions of one policy, prompt by prompt, and what everybody says of them. Log-probabilities in nats.

    Attributes:
        items: (n_prompts · n_samples,) prompts with completions.
        type_logps: (n_prompts, n_samples, n_types).
        reference_logps, own_logps: (n_prompts, n_samples).
        values: (n_prompts, n_types) `E_{y~π_j} h_i`.
        kl: (n_prompts,) KL of the policy from the reference.
        is_empty, is_cut: (n_prompts, n_samples) bool: nothing but the end, no end within the length.
    """

    items: TokenizedItems
    type_logps: np.ndarray
    reference_logps: np.ndarray
    own_logps: np.ndarray
    values: np.ndarray
    kl: np.ndarray
    is_empty: np.ndarray
    is_cut: np.ndarray

    @property
    def log_ratios(self) -> np.ndarray:
        """(n_prompts, n_samples, n_types) h_i of every completion."""
        return self.type_logps - self.reference_logps[..., None]

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
        """n_prompts lists of n_samples completions."""
        n_prompts, n_samples = self.reference_logps.shape
        answers = [
            tokenizer.decode(self.items.tokens(i)[self.items.prompt_lengths[i] :], skip_special_tokens=True).strip()
            for i in range(len(self.items))
        ]
        return [answers[p * n_samples : (p + 1) * n_samples] for p in range(n_prompts)]

    def save(self, path: Path) -> None:
        """Write one .npz, complete or not at all."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "items"}
        arrays |= {f"items_{f.name}": np.asarray(getattr(self.items, f.name)) for f in fields(TokenizedItems)}
        with saving(path.parent, "The answers of a policy", "What others answered is kept, and is not drawn again."):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial_file, open(partial_file, "wb") as file:
                np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "PolicyDraws":
        """Read what `save` wrote."""
        with reading(path, "The answers of a policy"), np.load(path, allow_pickle=False) as arrays:
            items = {f.name: arrays[f"items_{f.name}"] for f in fields(TokenizedItems)}
            items["pad_id"] = int(items["pad_id"])
            draw_arrays = {f.name: arrays[f.name] for f in fields(cls) if f.name != "items"}
        return cls(TokenizedItems(**items), **draw_arrays)


@dataclass(eq=False)
class PolicyReader:
    """Draws from any adapter of one model, judged by its types.

    Attributes:
        model: with all adapters.
        tokenizer: of the base.
        judges: names of the type adapters.
        cache_dir: folder of the draws; None keeps nothing.
        show_progress: whether to draw a progress bar.
    """

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    judges: Sequence[str]
    cache_dir: str | Path | None = None
    show_progress: bool = False
    _frozen: list[str] = field(default_factory=list)

    @torch.no_grad()
    def draws(
        self, speaker: str | None, prompts: Sequence[Any], settings: DrawSettings, *, label: str | None = None
    ) -> PolicyDraws:
        """The completions of one policy to all prompts, from the cache where they are there.

        Args:
            speaker: an adapter's name; None is the reference.
            prompts: (n_prompts,) texts or lists of messages.
            settings: the same for all policies that are compared.
            label: for the progress bar and for errors.

        Raises:
            ValueError: a prompt leaves no room, nearly every answer is empty, or a log-probability is not finite.
        """
        label = label or speaker or "reference"
        ids = readable_prompts(prompts, self.tokenizer, self.model.config, settings.max_new_tokens)
        path = None
        if self.cache_dir is not None:
            path = Path(self.cache_dir) / f"{self._key(speaker, ids, settings)}.npz"
            kept = self._kept(path)
            if kept is not None:
                return kept
        was_training = self.model.training
        self.model.eval()
        try:
            with forwards(self.model):
                draws = self._compute(speaker, ids, settings, label)
        finally:
            self.model.train(was_training)
        self._check(draws, label)
        if path is not None and (PartialState().is_main_process or not is_sharded(self.model)):
            draws.save(path)
        return draws

    def _kept(self, path: Path) -> PolicyDraws | None:
        """What lies there; where the model is divided, the main process reads for all, for they draw together."""

        def read() -> PolicyDraws | None:
            return PolicyDraws.load(path) if path.is_file() else None

        return computed_once(read) if is_sharded(self.model) else read()

    def _compute(self, speaker: str | None, ids: list[list[int]], settings: DrawSettings, label: str) -> PolicyDraws:
        stops = stop_ids(self.tokenizer, self.model)
        answers = self._sample(speaker, ids, settings, stops, label)
        n_prompts, n_samples = len(ids), settings.n_samples
        heads = [ids[i // n_samples] for i in range(n_prompts * n_samples)]
        items = TokenizedItems.from_pairs(list(zip(heads, answers, strict=True)), _pad_id(self.tokenizer))
        names = [*self.judges, None, *([] if speaker is None or speaker in self.judges else [speaker])]
        logps, values, kl = self._read(items, names, speaker, settings, label)
        speaker_column = names.index(speaker)
        shape, n_types = (n_prompts, n_samples), len(self.judges)
        return PolicyDraws(
            items,
            logps[:, :n_types].reshape(*shape, n_types),
            logps[:, n_types].reshape(shape),
            logps[:, speaker_column].reshape(shape),
            values.reshape(*shape, n_types).mean(1),
            kl.reshape(shape).mean(1),
            np.array([len(s) == 1 and s[0] in stops for s in answers]).reshape(shape),
            np.array([s[-1] not in stops for s in answers]).reshape(shape),
        )

    def _sample(
        self, speaker: str | None, ids: list[list[int]], settings: DrawSettings, stops: list[int], label: str
    ) -> list[list[int]]:
        """Completions up to and with their end, prompt by prompt; prompts of like length are answered together."""
        pad = _pad_id(self.tokenizer)
        wanted = np.repeat(np.argsort([-len(row) for row in ids], kind="stable"), settings.n_samples)
        sampling = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            typical_p=1.0,
            max_new_tokens=settings.max_new_tokens,
            min_length=0,
            num_beams=1,
            pad_token_id=pad,
            eos_token_id=stops,
        )
        answer_lists: list[list[list[int]]] = [[] for _ in ids]
        with torch.random.fork_rng(), route(self.model, speaker):
            torch.manual_seed(_seed_of(settings.seed, speaker))
            for start in self._progress(range(0, len(wanted), settings.batch_size), f"{label}: samples"):
                part = wanted[start : start + settings.batch_size]
                longest = max(len(ids[i]) for i in part)
                rows = torch.tensor([[pad] * (longest - len(ids[i])) + list(ids[i]) for i in part])
                mask = torch.tensor([[0] * (longest - len(ids[i])) + [1] * len(ids[i]) for i in part])
                sequences = self.model.generate(
                    input_ids=rows.to(self.model.device),
                    attention_mask=mask.to(self.model.device),
                    generation_config=sampling,
                    synced_gpus=is_sharded(self.model),
                )
                for i, answer in zip(part, sequences[:, longest:].tolist(), strict=True):
                    end = next((t for t, token in enumerate(answer) if token in stops), len(answer) - 1)
                    answer_lists[i].append(answer[: end + 1])
        return [answer for answers in answer_lists for answer in answers]

    def _read(
        self,
        items: TokenizedItems,
        names: Sequence[str | None],
        speaker: str | None,
        settings: DrawSettings,
        label: str,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log-probabilities (n_items, n_names), values (n_items, n_types) and KL (n_items,), float64 nats."""
        n_types = len(self.judges)
        logps, expected = (np.full((len(items), len(names)), np.nan) for _ in range(2))
        reads_states = has_plain_head(self.model.get_base_model())
        read = self._read_states if reads_states else self._read_logits
        n_words = self.model.config.get_text_config().vocab_size
        room = tokens_at_once(self.model.device) if reads_states else max(1, LOGITS_AT_ONCE // n_words)
        batches = own_batches(
            list(items.batches_by_length(batch_size=settings.batch_size, max_tokens=room)), self.model
        )
        for numbers in self._progress(batches, f"{label}: judged"):
            batch = {name: tensor.to(self.model.device) for name, tensor in items.collate(numbers).items()}
            logps[numbers], expected[numbers] = (part.double().cpu().numpy() for part in read(names, speaker, batch))
        if is_sharded(self.model):
            logps, expected = gathered(logps), gathered(expected)
        nats = expected if settings.estimator == "prefix" else logps
        gains = nats - nats[:, [n_types]]  # over the reference
        values, kl = gains[:, :n_types], gains[:, names.index(speaker)]
        return logps, values, kl

    def _read_states(
        self, names: Sequence[str | None], speaker: str | None, batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(batch, n_names) nats: log-probabilities of completions, and what the speaker would say in their place."""
        base, read = self.model.get_base_model(), []
        for name in names:
            with route(self.model, name), folded(self.model, name):
                read.append(scored_states(base, **batch))
        head, states = plain_head(base), torch.stack([scored.states for scored in read])
        tables = expected_logps(
            states, names.index(speaker), head.weight, head.bias, read[0].targets,
            logits_at_once=logits_at_once(head.weight.device),
        )  # fmt: skip
        logps, expected = (read[0].sums(table.T) for table in tables)
        return logps, expected

    def _read_logits(
        self, names: Sequence[str | None], speaker: str | None, batch: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The same of a model whose logits are not a plain map of its states."""
        of_speaker, targets, scored = completion_logits(self.model, speaker, batch)
        probabilities = of_speaker.to(torch.promote_types(of_speaker.dtype, torch.float32)).softmax(-1)
        logps, expected = [], []
        for name in names:
            logits = of_speaker if name == speaker else completion_logits(self.model, name, batch)[0]
            logps.append(token_logps(logits, targets).masked_fill(~scored, 0.0).sum(-1))
            nats = logits.to(probabilities.dtype).log_softmax(-1).masked_fill_(probabilities == 0, 0.0)
            expected.append((probabilities * nats).sum(-1).masked_fill(~scored, 0.0).sum(-1))
        return torch.stack(logps, 1), torch.stack(expected, 1)

    def _progress(self, batches: Sequence[Any], label: str) -> Iterator[Any]:
        return iter(tqdm(batches, desc=label, disable=not self.show_progress, leave=False))

    def _check(self, draws: PolicyDraws, label: str) -> None:
        wrong = np.argwhere(~np.isfinite(draws.log_ratios))
        if len(wrong):
            prompt, sample, kind = wrong[0].tolist()
            raise ValueError(
                f"Prompt {prompt}, sample {sample} of {label}: its log-probability under type {kind} is not finite. "
                "An adapter's training diverged, or float16 overflowed; train it again, or load in float32."
            )
        empty = float(draws.is_empty.mean())
        if empty > MOSTLY_EMPTY:
            raise ValueError(
                f"{label} answers nothing: {empty:.0%} of its completions are empty. Regret between empty answers "
                "says nothing; train that policy longer, or look at how prompts are rendered."
            )
        if empty > OFTEN_EMPTY:
            logger.warning("%.0f%% of the completions of %s are empty.", 100 * empty, label)

    def _key(self, speaker: str | None, ids: list[list[int]], settings: DrawSettings) -> str:
        if not self._frozen:  # the types and the base do not change under a reader
            self._frozen = [base_fingerprint(self.model), *(adapter_fingerprint(self.model, j) for j in self.judges)]
        speaker_key = adapter_fingerprint(self.model, speaker)
        key_parts = [
            self._frozen,
            speaker_key,
            _seed_of(0, speaker),
            stop_ids(self.tokenizer, self.model),
            asdict(settings),
            ids,
        ]
        return hashlib.sha256(json.dumps(key_parts).encode()).hexdigest()[:32]


def readable_prompts(
    prompts: Sequence[Any], tokenizer: PreTrainedTokenizerBase, config: Any, max_new_tokens: int
) -> list[list[int]]:
    """Token ids of prompts, all of which leave room for `max_new_tokens`; a prompt without tokens is the bos token.

    Raises:
        ValueError: one leaves no room (its number is named), or has no token and there is no bos token.
    """
    room = getattr(config.get_text_config(), "max_position_embeddings", None)
    token_ids = []
    for number, ids in enumerate(prompt_ids(prompts, tokenizer)):
        if not ids and tokenizer.bos_token_id is None:
            raise ValueError(f"Prompt {number} has no token, and the tokenizer has no bos token to answer to.")
        ids = ids or [tokenizer.bos_token_id]
        if room is not None and len(ids) + max_new_tokens > room:
            raise ValueError(
                f"Prompt {number} ({str(prompts[number])[:60]!r}) has {len(ids)} tokens, and the model holds {room}: "
                f"no room for max_new_tokens={max_new_tokens}. Lower it, or drop or shorten such prompts."
            )
        token_ids.append(ids)
    return token_ids


def joined_items(parts: Sequence[TokenizedItems]) -> TokenizedItems:
    """Items of several sets, one set after the other."""
    offsets = np.cumsum([0, *(len(part.ids) for part in parts[:-1])])
    return TokenizedItems(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.ends + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.prompt_lengths for part in parts]),
        parts[0].pad_id,
    )


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else tokenizer.eos_token_id)


def _seed_of(seed: int, speaker: str | None) -> int:
    name = int.from_bytes(hashlib.sha256((speaker or "").encode()).digest()[:4], "little")
    return int(np.random.SeedSequence([seed, name]).generate_state(1)[0])


def completion_logits(model: PeftModel, name: str | None, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (batch, n, vocab) that predict the targets (batch, n), and which of these belong to the completion."""
    mask = batch["completion_mask"]
    first, options = max(1, int(mask.any(0).to(torch.uint8).argmax())), {}
    n_tokens = mask.shape[1] - first
    if "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters:
        options["logits_to_keep"] = n_tokens + 1
    with route(model, name):
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **options
        ).logits
    scored = mask[:, first:].bool()
    return logits[:, -n_tokens - 1 : -1], batch["input_ids"][:, first:].masked_fill(~scored, 0), scored
