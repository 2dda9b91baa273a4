"""Scores of any kind of model for rows of preferences: each different completion is read once."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.data.preferences import Preferences
from palign.data.rendering import render_completion, render_prompt
from palign.data.turns import in_turns, reads_plain
from palign.evaluation.judging.conditioned_rows import tell_readers
from palign.evaluation.judging.kinds import ModelKind, ModelSource
from palign.functional.losses import implicit_reward
from palign.models.architectures import sees_only_the_past
from palign.models.completions import TokenizedItems, policy_logps, tokens_at_once
from palign.models.files.adapter_files import load_adapter
from palign.models.files.base_files import load_base, load_whole, require_fitting
from palign.models.files.mixture import load_mixture
from palign.models.metric.model import MetricModel
from palign.models.people_fit import linear_scores, row_scores
from palign.models.type_scores import gathered
from palign.parallel.sharded import forwards, is_sharded
from palign.parallel.shared_work import own_batches
from palign.reading import reading

if TYPE_CHECKING:
    from palign.models.pal import PALRewardModel

__all__ = ["ModelScores", "over_items", "per_item", "score_source", "types_of"]

FEW = 100  # completions that are judged without a progress bar
MOST_TYPES = 8  # of which what each likes is looked for
EXPORTED = "palign_reward"  # `model_type` of what `palign export` writes


@dataclass(frozen=True)
class ModelScores:
    """What a model says of rows.

    Attributes:
        scores: (n_rows, max_items) float64, 0 at padding.
        type_weights: annotator id → (n_types,) weights, where the model places people among types.
        type_names: of those types.
        type_scores: (n_rows, max_items, n_types) reward of each item to each type; of PAL models with several.
    """

    scores: np.ndarray
    type_weights: dict[str, list[float]] | None = None
    type_names: list[str] | None = None
    type_scores: np.ndarray | None = None


def score_source(
    source: ModelSource,
    rows: Preferences,
    *,
    vectors: np.ndarray | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    dtype: str = "auto",
    max_length: int | None = 1024,
) -> ModelScores:
    """Load a model, score the rows, let it go.

    Under ZeRO-3 it is loaded in parts, and all processes score the same rows together.

    Args:
        source: as `recognise` gives it.
        rows: texts, or rows of `vectors` (PAL models made from vectors).
        batch_size: completions in a forward pass.
        dtype: of weights that are read.
        max_length: tokens of prompt and completion; a mixture and a PAL model bring theirs.

    Raises:
        ValueError: a model of texts is given vectors, or the other way round.
    """
    if source.reads_vectors == rows.is_text:
        vectors = "vectors (--embeddings)" if source.image_encoder is None else "images (--image_folder)"
        has, wants = ("texts", vectors) if rows.is_text else ("vectors", "texts")
        raise ValueError(
            f"{source.path!r} reads {wants}, and the rows hold {has}. Give rows of the kind it was made for."
        )
    if not len(rows):  # more processes than rows
        return ModelScores(np.zeros(rows.ranks.shape))
    rows = rows.with_own_items()
    options = {"batch_size": batch_size, "device": torch.device(device), "dtype": dtype}
    if source.kind is ModelKind.PAL:
        return _pal(source, rows, vectors, batch_size, torch.device(device))
    if source.kind is ModelKind.METRIC:
        model = MetricModel.from_pretrained(source.path)
        return ModelScores(model.score_rows(model.row_tensors(rows, vectors)).numpy())
    if source.kind is ModelKind.MIXTURE:
        return _mixture(source, rows, **options)
    if not reads_plain(_tokenizer(source), bool(source.plain_prompts)):
        rows = in_turns(rows)
    if source.kind in (ModelKind.REWARD, ModelKind.REWARD_ADAPTER):
        return ModelScores(per_item(rows, _rewards(source, rows, max_length=max_length, **options)))
    if source.conditioning is PolicyConditioning.PROMPT:
        rows = tell_readers(rows, WhoIsAsking.load(source.path))
    return ModelScores(per_item(rows, _implicit_rewards(source, rows, max_length=max_length, **options)))


def types_of(source: ModelSource) -> ModelScores:
    """Who stands where among the types of a PAL reward model or a mixture; no scores."""
    nothing = np.zeros((0, 0))
    if source.kind is ModelKind.MIXTURE:
        record = load_mixture(source.path)
        people, weights = record.annotators.ids, record.responsibilities.tolist()
        names = [f"type_{k}" for k in range(record.n_types)]
        return ModelScores(nothing, dict(zip(people, weights, strict=True)), names)
    from palign.models.pal import PALRewardModel

    return _placed(nothing, PALRewardModel.from_pretrained(source.path))


def per_item(rows: Preferences, rewards: np.ndarray) -> np.ndarray:
    """(n_items,) → (n_rows, max_items), 0 at padding."""
    present = rows.item_indices >= 0
    return np.where(present, rewards[np.where(present, rows.item_indices, 0)], 0.0) if len(rewards) else present * 0.0


def _pal(
    source: ModelSource, rows: Preferences, vectors: np.ndarray | None, batch_size: int, device: torch.device
) -> ModelScores:
    from palign.models.pal import PALRewardModel

    model = PALRewardModel.from_pretrained(source.path, divided=True).to(device).eval()
    with torch.no_grad():
        data = model.row_tensors(rows, vectors, batch_size=batch_size)
        people, own = model.weights_for(rows.annotator_ids), model.deviations_for(rows.annotator_ids)
        scores = row_scores(model.head, data, people, deviations=model.deviations, own=own)
        of_types = linear_scores(model.head, data).cpu().numpy() if 1 < model.n_prototypes <= MOST_TYPES else None
    scores = scores.masked_fill(torch.from_numpy(rows.ranks < 0).to(scores.device), 0.0)
    return replace(_placed(scores.double().cpu().numpy(), model), type_scores=of_types)


def _placed(scores: np.ndarray, model: "PALRewardModel") -> ModelScores:
    weights = model.people.all().detach().cpu().tolist()
    names = [f"prototype_{k}" for k in range(model.n_prototypes)]
    return ModelScores(scores, dict(zip(model.annotators.ids, weights, strict=True)), names)


def _mixture(
    source: ModelSource, rows: Preferences, *, batch_size: int, device: torch.device, dtype: str
) -> ModelScores:
    from palign.models.mixture_policy import MixturePolicy

    policy = MixturePolicy.from_pretrained(source.path, device=device, dtype=dtype, divided=True)
    gamma = policy.record.responsibilities.tolist()
    names = [f"type_{k}" for k in range(policy.n_types)]
    together = is_sharded(policy.policies)
    rewards = policy.type_rewards(rows, batch_size=batch_size, show_progress=len(rows.items) > FEW, together=together)
    scores = policy.expected_rewards(rewards, rows).numpy()
    return ModelScores(scores, dict(zip(policy.record.annotators.ids, gamma, strict=True)), names)


def _tokenizer(source: ModelSource) -> Any:
    """The adapter's tokenizer where it has one, else the base's."""
    from transformers import AutoTokenizer

    from palign.models.model_folders import read_json

    has_tokenizer = source.base is None or read_json(source.path, "tokenizer_config.json", None) is not None
    place = source.path if has_tokenizer else source.base
    with reading(place, "The tokenizer"):
        return AutoTokenizer.from_pretrained(place)


def _rewards(
    source: ModelSource,
    rows: Preferences,
    *,
    batch_size: int,
    device: torch.device,
    dtype: str,
    max_length: int | None,
) -> np.ndarray:
    """(n_items,) of a model for sequence classification.

    A model that sees only the past reads what TRL's RewardTrainer gives it: prompt and completion as one text that
    ends in eos. An encoder reads the two as a pair.
    """
    from transformers import AutoModelForSequenceClassification

    load = {"dtype": dtype, "use_safetensors": True, "num_labels": 1}
    if source.kind is ModelKind.REWARD_ADAPTER:  # a fresh head, which the adapter brings
        with reading(source.base, "The base model"):
            model = AutoModelForSequenceClassification.from_pretrained(source.base, **load)
        model = load_adapter(model, source.path)
    else:
        model = load_whole(AutoModelForSequenceClassification, source.path, dtype=dtype, num_labels=1, divided=True)
    tokenizer = _tokenizer(source)
    if model.config.model_type != EXPORTED:  # whose tokenizer has a mark that the model does not read
        require_fitting(tokenizer, model, source.path)
    model.to(device).eval()
    if model.config.model_type == EXPORTED:
        with forwards(model):
            return _exported_rewards(model, tokenizer, rows, batch_size)
    if not sees_only_the_past(model.config):
        with forwards(model):
            return _pair_rewards(model, tokenizer, rows, batch_size, device, max_length)
    if model.config.pad_token_id is None:
        pad = tokenizer.pad_token_id
        model.config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
    items = TokenizedItems.of(rows, tokenizer, max_length=max_length)
    items.pad_id = int(model.config.pad_token_id)

    def reward(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]

    return over_items(items, reward, batch_size, device, model=model)


def _exported_rewards(model: nn.Module, tokenizer: Any, rows: Preferences, batch_size: int) -> np.ndarray:
    """(n_items,) of a reward that `palign export` wrote: it reads texts that its own chat template has written."""
    rows, rewards = in_turns(rows), []
    talks = [[*rows.prompts[number], *completion] for number, completion in rows.items]
    with torch.no_grad():
        for start in range(0, len(talks), batch_size):
            texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in talks[start : start + batch_size]]
            batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False).to(model.device)
            rewards.append(model(**batch).logits[:, 0].double().cpu().numpy())
    return np.concatenate(rewards) if rewards else np.zeros(0)


def _pair_rewards(
    model: nn.Module, tokenizer: Any, rows: Preferences, batch_size: int, device: torch.device, max_length: int | None
) -> np.ndarray:
    prompts = [render_prompt(prompt, tokenizer) for prompt in rows.prompts]
    pairs = [(prompts[i], render_completion(rows.prompts[i], text, tokenizer)) for i, text in rows.items]
    longest = min(max_length or 10**9, tokenizer.model_max_length)
    rewards = []
    with torch.no_grad():
        for start in tqdm(range(0, len(pairs), batch_size), desc="judging", disable=len(pairs) <= FEW):
            heads, tails = zip(*pairs[start : start + batch_size], strict=True)
            batch = tokenizer(
                list(heads), list(tails), padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            rewards.append(model(**batch.to(device)).logits[:, 0].double().cpu().numpy())
    return np.concatenate(rewards) if rewards else np.zeros(0)


def _implicit_rewards(
    source: ModelSource,
    rows: Preferences,
    *,
    batch_size: int,
    device: torch.device,
    dtype: str,
    max_length: int | None,
) -> np.ndarray:
    """(n_items,) β·(log π − log π_ref), in nats times β (Rafailov et al. 2023, eq. 5)."""
    tokenizer = _tokenizer(source)
    reference: Any = load_base(source.base, dtype=dtype, divided=True)
    require_fitting(tokenizer, reference, source.path)
    items = TokenizedItems.of(rows, tokenizer, max_length=max_length)
    if source.kind is ModelKind.CAUSAL:
        policy: Any = load_base(source.path, dtype=dtype, divided=True)
        sides = [(policy, nullcontext), (reference, nullcontext)]
    else:
        policy = load_adapter(reference, source.path)
        sides = [(policy, nullcontext), (policy, policy.disable_adapter)]
    logps = []
    for model, switch in sides:
        model.to(device).eval()
        logps.append(_logps(model, items, switch, batch_size, device))
    return implicit_reward(logps[0], logps[1], source.beta)


def _logps(
    model: nn.Module,
    items: TokenizedItems,
    switch: Callable[[], AbstractContextManager[Any]],
    batch_size: int,
    device: torch.device,
) -> np.ndarray:
    with switch():
        return over_items(items, lambda batch: policy_logps(model, **batch), batch_size, device, model=model)


@torch.no_grad()
def over_items(
    items: TokenizedItems,
    value: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    batch_size: int,
    device: torch.device,
    *,
    model: nn.Module,
) -> np.ndarray:
    """(n_items,) float64: one number for each item, in batches of about equal length.

    Where `model`, which gives them, is divided, all processes call this with the same items and share the batches.
    """
    item_values = np.full(len(items), np.nan)
    numbers: Sequence[int]
    batches = own_batches(list(items.batches_by_length(None, batch_size, max_tokens=tokens_at_once(device))), model)
    with forwards(model):
        for numbers in tqdm(batches, desc="judging", disable=len(items) <= FEW):
            batch = {name: tensor.to(device) for name, tensor in items.collate(numbers).items()}
            item_values[numbers] = value(batch).double().cpu().numpy()
    return gathered(item_values) if is_sharded(model) else item_values
