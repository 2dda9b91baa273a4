"""Further adapters beside the types on one base: a policy to train, a baseline to judge, a merge."""

import copy
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn

from palign.contents import reading_whole
from palign.models.adapters import TypePolicies, disable_dropout
from palign.models.backbones import tensor_bytes
from palign.models.files.adapter_files import CONFIG, WEIGHTS, read_adapter_config, write_base
from palign.parallel.sharded import whole
from palign.reading import read_tensors, reading, require_files, require_tensors
from palign.writing import set_usual_modes, sweep_partials

__all__ = [
    "AdapterPolicies",
    "adapter_fingerprint",
    "add_adapter",
    "beyond_product",
    "merge_adapters",
    "read_adapter",
    "remove_adapter",
    "require_adapter_folder",
    "save_adapter",
    "train_only",
]

BEYOND_PRODUCT = {"use_dora": "DoRA scales whole weights", "lora_bias": "a bias is trained beside B·A"}


class AdapterPolicies(TypePolicies):
    """`TypePolicies` over adapters of any names: its forward gives (n_sequences, n_names); None is the reference."""

    def __init__(self, policy: PeftModel, names: Sequence[str | None]) -> None:
        nn.Module.__init__(self)
        self.policy, self.names, self.n_types = policy, list(names), len(names)


def add_adapter(model: PeftModel, name: str, *, rank: int | None = None, seed: int = 0) -> None:
    """Put a fresh adapter beside the types, configured as `type_0`; it changes nothing until it is trained.

    Args:
        model: with type adapters.
        name: replaced where the model carries it.
        rank: of the adapter, with alpha in proportion; None is that of `type_0`.
        seed: of the draw.
    """
    config = copy.deepcopy(model.peft_config["type_0"])
    config.inference_mode = False
    if rank is not None:
        config.lora_alpha = config.lora_alpha * rank / config.r
        config.r = rank
    _add(model, name, config, seed)


def read_adapter(model: PeftModel, name: str, folder: str | Path) -> None:
    """Put a saved adapter beside the types.

    Raises:
        ValueError: no complete LoRA adapter lies there, or it does not fit this base.
    """
    folder = Path(folder)
    with reading_whole(folder):
        config = require_adapter_folder(folder)
        tensors = read_tensors(folder / WEIGHTS)
    with reading(folder, "The adapter"):
        _add(model, name, config, 0)
    needed = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    try:
        require_tensors(tensors, needed, folder / WEIGHTS, "Give the base it was trained on.")
    except ValueError:
        remove_adapter(model, name)
        raise
    set_peft_model_state_dict(model, tensors, adapter_name=name)


def require_adapter_folder(folder: str | Path) -> LoraConfig:
    """The configuration of a complete LoRA adapter on disk; ValueError where there is none."""
    require_files(folder, (CONFIG, WEIGHTS), "is not an adapter", "Give a folder with both.")
    config = read_adapter_config(folder)
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{str(folder)!r} holds a {config.peft_type} adapter; a LoRA adapter is needed.")
    return config


def merge_adapters(
    model: PeftModel, name: str, sources: Sequence[str], weights: Sequence[float], *, merge_type: str
) -> None:
    """One adapter of Σ w_k ΔW_k: `cat` exactly, of rank Σ r_k; `svd` cut to the rank of `type_0`.

    PEFT's `linear` is not offered: it adds A and B apart, and their product is another matrix. The merged adapter is
    plain LoRA of scale 1, whatever the scale of its sources: PEFT folds their scales (rank-stabilized ones too) into
    the sum, and would apply one again.

    Raises:
        ValueError: an unknown `merge_type`; DoRA or a trained bias, of which no sum of low-rank matrices is made.
    """
    if merge_type not in ("svd", "cat"):
        raise ValueError(f"merge_type is {merge_type!r}; it must be 'svd' or 'cat'.")
    for source in sources:
        _require_plain_sum(source, model.peft_config[source])
    remove_adapter(model, name)
    kept = [(source, float(w)) for source, w in zip(sources, weights, strict=True) if w > 0]
    rank = {"svd_rank": model.peft_config["type_0"].r} if merge_type == "svd" else {}
    flags = {p: parameter.requires_grad for p, parameter in model.named_parameters()}
    model.base_model.add_weighted_adapter(
        [source for source, _ in kept], [w for _, w in kept], name, combination_type=merge_type, **rank
    )
    model.peft_config[name].use_rslora = False
    for module in model.modules():
        if isinstance(module, LoraLayer) and name in module.scaling:
            module.scaling[name] = 1.0
    for p, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(p, False))
        if f".{name}." in p:  # out of an SVD it lies in column order: read back it would multiply with other rounding
            parameter.data = parameter.data.contiguous()


def beyond_product(config: LoraConfig) -> list[str]:
    """Options of an adapter under which its change of the base is not B·A alone; such adapters have no sum."""
    return [option for option in BEYOND_PRODUCT if getattr(config, option, False)]


def _require_plain_sum(name: str, config: LoraConfig) -> None:
    for option in beyond_product(config):
        raise ValueError(
            f"The adapter {name!r} was trained with {option}=True: {BEYOND_PRODUCT[option]}, so a weighted sum of "
            "low-rank matrices is not its merge. Train the types without it, or take another route than merging."
        )


def remove_adapter(model: PeftModel, name: str) -> None:
    """Take an adapter off, if it is there."""
    if name in model.peft_config:
        model.delete_adapter(name)


def train_only(model: PeftModel, name: str) -> None:
    """The one adapter that may move; everything else stands still."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.base_model.set_requires_grad([name], True)


def save_adapter(
    model: PeftModel,
    name: str,
    folder: str | Path,
    state_dict: dict[str, Any] | None = None,
    *,
    lies_at: str | Path | None = None,
) -> None:
    """Write one adapter at the top of a folder, as plain PEFT reads it; each file is complete or as it was before.

    `lies_at`: where the folder will be moved to; the way to the base is seen from there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sweep_partials(folder)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        model.save_pretrained(
            partial,
            selected_adapters=[name],
            save_embedding_layers=False,
            state_dict=state_dict,
            safe_serialization=True,
        )
        write_base(Path(partial) / name, lies_at or folder)
        set_usual_modes([Path(partial) / name / file for file in (WEIGHTS, CONFIG)])
        (folder / CONFIG).unlink(missing_ok=True)  # without which nobody reads the folder: it comes last
        for file in (WEIGHTS, CONFIG):
            shutil.move(Path(partial) / name / file, folder / file)


def adapter_fingerprint(model: PeftModel, name: str | None) -> str:
    """A content key of one adapter; "reference" for none. Where it is divided, all processes call this."""
    if name is None:
        return "reference"
    config = model.peft_config[name]
    settings = (config.r, config.lora_alpha, config.use_rslora, config.rank_pattern, config.alpha_pattern)
    digest = hashlib.sha256(repr(settings).encode())
    with whole(held for at, held in model.named_parameters() if f".{name}." in f"{at}."):
        state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        for key, tensor in sorted(state.items()):
            digest.update(key.encode())
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _add(model: PeftModel, name: str, config: LoraConfig, seed: int) -> None:
    remove_adapter(model, name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(name, config)
    disable_dropout(model)
    model.base_model.set_requires_grad([name], False)
    model.to(next(model.parameters()).device)
