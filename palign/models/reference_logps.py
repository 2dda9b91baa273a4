"""Log-probabilities under the reference, once for each different item, kept on disk by content.

The same pass gives a pooled hidden state of the completion, for the linear reward on frozen embeddings. Both lie in an
:class:`EmbeddingStore` of width 1 + hidden, under a key of the base's weights and of the item's token ids.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from palign.models.adapters import route
from palign.models.architectures import hidden_size_of, without_head
from palign.models.backbones import enter_tensor
from palign.models.completions import TokenizedItems, policy_logps, tokens_at_once
from palign.models.embeddings import EmbeddingStore
from palign.models.states.scored import has_plain_head, scored_logps, scored_states
from palign.parallel.sharded import forwards, is_sharded, turns, whole_tensor
from palign.parallel.shared_work import ending_together

__all__ = ["ReferencePass", "base_fingerprint", "reference_pass"]

ITEMS_AT_ONCE = 4096  # sorted by length and written together
SAYS_NOTHING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache",
                "pad_token_id", "bos_token_id", "eos_token_id")  # fmt: skip


@dataclass(frozen=True, eq=False)
class ReferencePass:
    """What the reference says of items, row for row.

    Attributes:
        logps: (n_items,) float32, nats summed over completion tokens.
        states: (n_items, hidden) float32, the last hidden layer's mean over completion tokens.
    """

    logps: np.ndarray
    states: np.ndarray


def reference_pass(
    model: nn.Module,
    items: TokenizedItems,
    *,
    cache_dir: str | Path | None = None,
    batch_size: int = 32,
    rank: int = 0,
    n_ranks: int = 1,
    show_progress: bool = True,
) -> ReferencePass:
    """Log-probabilities and pooled states of all items under the base, from the cache where they are there.

    Args:
        model: a causal language model; of a PeftModel the base, with adapters off.
        items: unique items.
        cache_dir: folder of all reference caches; None keeps nothing on disk.
        batch_size: items in a forward pass.
        rank, n_ranks: with several processes of one group all call this, with one `cache_dir`; each computes its
            share. What is not on this machine's disk afterwards is computed here; without a `cache_dir` the
            shares are exchanged.
        show_progress: whether to draw a progress bar.
    """
    width = 1 + hidden_size_of(model.config)
    store = EmbeddingStore(cache_dir, base_fingerprint(model), width)
    keys = [_item_key(items, number) for number in range(len(items))]
    options = {"batch_size": batch_size, "show_progress": show_progress and rank == 0}
    if n_ranks > 1:
        is_own = np.array([int.from_bytes(key[:4], "little") % n_ranks == rank for key in keys])
        with nullcontext() if is_sharded(model) else ending_together():
            _fill(store, model, items, keys, np.flatnonzero((store.rows_of_keys(keys) < 0) & is_own), **options)
        if cache_dir is None:
            _exchange(store)
        torch.distributed.barrier()
    _fill(store, model, items, keys, np.flatnonzero(store.rows_of_keys(keys) < 0), **options)
    rows = store.rows_of_keys(keys)
    in_order = np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))) if len(rows) else False
    vectors = store.vectors[rows[0] : rows[0] + len(rows)] if in_order else store.vectors[rows]
    return ReferencePass(np.array(vectors[:, 0]), vectors[:, 1:])


def _exchange(store: EmbeddingStore) -> None:
    """Give every process's store in memory what the others computed."""
    for keys, vectors in gather_object([(store.keys(), np.asarray(store.vectors))]):
        store.append(keys, vectors)


def _fill(
    store: EmbeddingStore,
    model: nn.Module,
    items: TokenizedItems,
    keys: list[bytes],
    missing: np.ndarray,
    *,
    batch_size: int,
    show_progress: bool,
) -> None:
    """Compute the items numbered in `missing` and append them, part by part; a kill loses one part at most."""
    parts = [missing[start : start + ITEMS_AT_ONCE] for start in range(0, len(missing), ITEMS_AT_ONCE)]
    with tqdm(total=len(missing), desc="reference", unit="text", disable=not (show_progress and len(missing))) as bar:
        for part, is_own in turns(parts, missing[:0], model):
            vectors = _compute(model, items, part, batch_size, bar)
            if is_own:
                store.append([keys[number] for number in part], vectors)


@torch.no_grad()
def _compute(model: nn.Module, items: TokenizedItems, numbers: np.ndarray, batch_size: int, bar: tqdm) -> np.ndarray:
    """Log-probability and pooled state side by side, (n, 1 + hidden) float32, in the order of `numbers`."""
    device, was_training = next(model.parameters()).device, model.training
    place = np.empty(len(items), dtype=np.int64)
    place[numbers] = np.arange(len(numbers))
    vectors = np.zeros((len(numbers), 1 + hidden_size_of(model.config)), dtype=np.float32)
    model.eval()
    try:
        reference = route(model, None) if isinstance(model, PeftModel) else nullcontext()
        with forwards(model), reference:
            options = {"batch_size": batch_size, "max_tokens": tokens_at_once(device)}
            batches = list(items.batches_by_length(numbers, **options)) if len(numbers) else []
            for chosen, is_own in turns(batches, np.zeros(1, dtype=np.int64), model):
                batch = {name: tensor.to(device) for name, tensor in items.collate(chosen).items()}
                logps, pooled = _read(model, batch)
                if not is_own:
                    continue
                vectors[place[chosen]] = torch.cat([logps[:, None], pooled], dim=1).float().cpu().numpy()
                bar.update(len(chosen))
    finally:
        model.train(was_training)
    return vectors


def _read(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(n,) log-probabilities of completions, (n, hidden) means of the last hidden layer over their tokens."""
    transformer = _plain(model)
    if has_plain_head(transformer):
        scored = scored_states(transformer, **batch)
        n_tokens = scored.sums(torch.ones_like(scored.own_states[:, :1], dtype=torch.float32))
        return scored_logps(transformer, scored), scored.sums(scored.own_states.float()) / n_tokens.clamp_min(1)
    with _last_states(model) as states:
        logps = policy_logps(model, **batch)
    mask = batch["completion_mask"][..., None]
    return logps, (states[-1].float() * mask).sum(1) / mask.sum(1).clamp_min(1)


@contextmanager
def _last_states(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list whose last member is the last hidden layer (batch, seq_len, hidden) of the latest forward in here.

    Some heads (OPT, Bart) call the decoder inside the transformer and never the transformer itself: both are listened
    to, and the outer one speaks last.
    """
    states: list[Tensor] = []
    transformer = without_head(_plain(model))
    modules = [
        transformer,
        *([transformer.decoder] if isinstance(getattr(transformer, "decoder", None), nn.Module) else []),
    ]
    handles = [m.register_forward_hook(lambda _, __, output: states.append(output[0])) for m in modules]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _plain(model: nn.Module) -> nn.Module:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def base_fingerprint(model: nn.Module) -> str:
    """A content key (64 hex digits) of the base: weights, configuration, and autocast as it is on now.

    Every process of a model that is divided among them must call it. Adapters do not enter: a base has the same key
    before and after they are added. Tensors above a million elements are sampled evenly, the rest read in full.
    """
    digest = hashlib.sha256(b"reference 1")
    state = _plain(model).state_dict(keep_vars=True)  # the parameters themselves: ZeRO-3 marks those it divided
    tensors = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
    for name, tensor in sorted(tensors.items()):
        if ".lora_" in name:
            continue
        enter_tensor(digest, name, whole_tensor(tensor))
    config = {key: value for key, value in model.config.to_dict().items() if key not in SAYS_NOTHING}
    kind = next(model.parameters()).device.type
    autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "off"
    digest.update(json.dumps([config, autocast], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _item_key(items: TokenizedItems, number: int) -> bytes:
    start = int(items.prompt_lengths[number]).to_bytes(8, "little")
    return hashlib.sha256(start + items.tokens(number).astype("<i4").tobytes()).digest()
