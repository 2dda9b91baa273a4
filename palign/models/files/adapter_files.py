"""PEFT adapters on disk: what their configuration may say, what their tensors must be, and where their base lies.

A configuration is read by a list of fields. What is not on it (`auto_mapping`, `megatron_core` and other names of
modules that would be imported; calibration data; variants that were never tried here) must be as if it were not there.

PEFT is imported where an adapter is read: a reward on vectors, whose files name no adapter, does without.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from palign.contents import reading_whole
from palign.models.model_folders import looks_like_path
from palign.reading import read_json, read_tensors, reading, require_tensors

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

__all__ = ["base_of", "check_adapter_config", "load_adapter", "portable_base", "read_adapter_config", "write_base"]

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
READ = {
    "peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r",
    "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora",
    "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    "trainable_token_indices", "use_dora", "lora_bias", "target_parameters", "ensure_weight_tying", "auto_mapping",
    "layer_replication", "qalora_group_size", "loftq_config", "runtime_config",
}  # fmt: skip
DEFAULTS = {"megatron_core": ("megatron.core",), "runtime_config": ({"ephemeral_gpu_offload": False},)}
INSIDE = ("base_model", "backbone")  # folders of a base that palign writes beside adapters
LEVELS = 3  # up from the adapter's folder
GROUPS = ("routes", "baselines")  # of an output folder: what a run makes several of
PARTS = re.compile(rf"type_\d+|checkpoint-\d+|backbone_adapter|\.partial-.*|{'|'.join(GROUPS)}")


def check_adapter_config(config: Mapping[str, Any], path: str | Path) -> None:
    """ValueError where an adapter's configuration says more than is read here."""
    for name, value in config.items():
        if value in (None, False, "", [], {}) or value in DEFAULTS.get(name, ()):
            continue
        if name == "auto_mapping" and _is_of_transformers(value):
            continue
        if name not in READ or name in ("auto_mapping", "runtime_config"):
            raise ValueError(
                f"{path} sets {name} to {str(value)[:80]!r}, which is not read here: it may name code to import, or a "
                "variant of LoRA that palign does not know. Remove the field, or merge the adapter into its base with "
                "the program that made it."
            )


def _is_of_transformers(mapping: Any) -> bool:
    """What PEFT notes of a base without a task; nothing here imports it."""
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    return isinstance(library, str) and library.split(".")[0] in ("transformers", "palign")


def read_adapter_config(folder: str | Path) -> "PeftConfig":
    """The configuration of an adapter on disk.

    Raises:
        ValueError: it is damaged, or says what is not read here.
    """
    from peft import PeftConfig

    path = Path(folder) / CONFIG
    check_adapter_config(read_json(path, dict), path)
    with reading(folder, "The configuration of the adapter"):
        return PeftConfig.from_pretrained(str(folder))


def load_adapter(model: nn.Module, folder: str | Path, *, adapter_name: str = "default") -> "PeftModel":
    """A saved adapter on its base; a hub name is left to PEFT.

    Raises:
        ValueError: configuration or tensors are damaged or not finite, or tensors are missing, unknown or of another
            shape: none is made up.
    """
    from peft import PeftModel, get_peft_model_state_dict

    if not Path(folder).is_dir():
        return PeftModel.from_pretrained(model, str(folder), adapter_name=adapter_name)
    path = Path(folder) / WEIGHTS
    with reading_whole(folder):
        read_adapter_config(folder)
        tensors = read_tensors(path)
        with reading(folder, "The adapter"):
            policy = PeftModel.from_pretrained(model, str(folder), adapter_name=adapter_name)
    needed = get_peft_model_state_dict(policy, adapter_name=adapter_name, save_embedding_layers=False)
    plain = {name: tensor for name, tensor in tensors.items() if name in needed or not _is_of_the_base(name)}
    require_tensors(plain, needed, path, "Give the base it was trained on.")
    return policy


def _is_of_the_base(name: str) -> bool:
    """Embeddings, which PEFT saves along where they grew."""
    return "lora_" not in name and any(part in name for part in ("embed", "lm_head", "wte"))


def portable_base(base: str | None, folder: str | Path) -> str | None:
    """How a file in `folder` names a base: a hub name as it is, one that palign wrote into the same output by the way
    from the file's own place, so that the whole can be moved; any other folder by its absolute path.
    """
    if not base or not (looks_like_path(base) and Path(base).expanduser().is_dir()):
        return base or None
    place, start = Path(os.path.realpath(Path(base).expanduser())), Path(os.path.realpath(folder))
    if place.name in INSIDE and place.is_relative_to(_output_of(start)):
        way = os.path.relpath(place, start)
        return way if way.startswith("..") else f"./{way}"
    return str(place)


def _output_of(folder: Path) -> Path:
    """The output folder of the run that writes into `folder`."""
    while PARTS.fullmatch(folder.name) or folder.parent.name in GROUPS:
        folder = folder.parent
    return folder


def base_of(base: str | None, folder: str | Path) -> str | None:
    """Where the base lies that a file in `folder` names: seen from the file's own place first, then as it stands."""
    if not base:
        return None
    beside = Path(folder) / base  # `base` itself, where that is absolute
    if not Path(base).is_absolute() and beside.is_dir():
        return os.path.normpath(os.path.abspath(beside))
    return _moved_along(base, Path(folder)) or base


def _moved_along(base: str, folder: Path) -> str | None:
    """A base of an earlier version's folder that was moved with it: its name is ours, and it lies beside or above."""
    if Path(base).name not in INSIDE:
        return None
    start = Path(os.path.abspath(folder))
    places = [place / Path(base).name for place in (start, *start.parents)[: LEVELS + 1]]
    return next((str(place) for place in places if (place / "config.json").is_file()), None)


def write_base(adapter: str | Path, lies_at: str | Path) -> None:
    """Rewrite the base in a saved configuration as `portable_base` has it; `lies_at` is where the adapter will lie."""
    path = Path(adapter) / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = portable_base(config.get("base_model_name_or_path"), lies_at)
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
