"""A whole model of transformers from its folder, every tensor of it as it was saved."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from palign.contents import reading_whole
from palign.models.model_folders import looks_like_path, require_model_folder
from palign.parallel.divided_loading import from_pretrained
from palign.parallel.fsdp import local_part
from palign.parallel.sharded import is_sharded, whole_tensor
from palign.reading import reading, require_finite

__all__ = ["load_base", "load_whole", "plain_state", "require_finite_parts", "require_fitting", "require_loaded"]


def load_base(name_or_path: str, *, divided: bool = False, **options: Any) -> nn.Module:
    """The language model of a folder or hub name (safetensors only); `options` go to loading.

    `divided`: in parts where the launch divides (`palign.parallel.divided_loading`).

    Raises:
        ValueError: no model, a damaged one, one with a tensor that is missing or not finite.
    """
    from transformers import AutoModelForCausalLM

    return load_whole(AutoModelForCausalLM, name_or_path, divided=divided, **options)


def load_whole(auto: Any, name_or_path: str, *, divided: bool = False, **options: Any) -> nn.Module:
    """A model by one of transformers' auto classes; as `load_base`. transformers fills what is missing with new
    numbers; here that is refused.
    """
    require_model_folder(name_or_path)
    if not looks_like_path(name_or_path):
        return from_pretrained(auto, name_or_path, divided=divided, use_safetensors=True, **options)
    with reading_whole(name_or_path), reading(name_or_path, "The model"):
        model, found = from_pretrained(
            auto, name_or_path, divided=divided, use_safetensors=True, output_loading_info=True, **options
        )
    require_loaded(found, name_or_path)
    require_finite_parts(model, name_or_path)
    return model


def require_finite_parts(model: nn.Module, folder: str | Path) -> None:
    """ValueError where a tensor of a model that was read from there is not finite, as far as it lies here."""
    require_finite({name: local_part(tensor) for name, tensor in model.state_dict().items()}, folder)


def plain_state(model: nn.Module) -> dict[str, Any]:
    """The tensors of a model without those of adapters inside it.

    All processes of a divided one call it. One tensor after the other is put together then, and lies in the main
    memory of the main process; the others get none.
    """
    state, is_divided, keeps = {}, is_sharded(model), PartialState().is_main_process
    kept: dict[int, Any] = {}  # of tied ones one for all
    for name, tensor in model.state_dict(keep_vars=True).items():
        if any(inside in name for inside in (".lora_", ".modules_to_save.", ".trainable_tokens_")):
            continue
        for layer in (".token_adapter.", ".base_layer.", ".original_module."):
            name = name.replace(layer, ".")
        if id(tensor) not in kept:
            values = whole_tensor(tensor)
            kept[id(tensor)] = values if not is_divided else values.cpu() if keeps else None
        if keeps or not is_divided:
            state[name] = kept[id(tensor)]
    return state


def require_fitting(tokenizer: Any, model: nn.Module, place: str) -> None:
    """ValueError where a tokenizer's numbers cannot be those of a model."""
    vectors = model.get_input_embeddings().weight
    n_rows, n_tokens = getattr(vectors, "ds_shape", vectors.shape)[0], len(tokenizer)
    if n_tokens > n_rows:
        raise ValueError(
            f"The tokenizer in {place!r} knows {n_tokens:,} tokens, and the model has vectors for {n_rows:,}. Give a "
            "whole copy of the folder, or the tokenizer that the model was trained with."
        )
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, (int, float)) or not longest > 0:
        raise ValueError(f"The tokenizer in {place!r} has model_max_length {str(longest)[:40]!r}, which is no length.")


def require_loaded(found: dict[str, Any], place: str) -> None:
    """ValueError where transformers says that a tensor was not in the folder."""
    lacking = sorted(map(str, [*found.get("missing_keys", ()), *found.get("mismatched_keys", ())]))
    if lacking:
        raise ValueError(
            f"The model in {place!r} lacks {len(lacking)} of its tensors, or has them of another shape, first "
            f"{lacking[0]!r}; new ones would be drawn at random. Give a whole copy of the folder."
        )
