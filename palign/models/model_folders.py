"""Looking at a model folder before anything heavy is loaded: is it one, and what does it say of its pooling?

A folder written by sentence-transformers says in ``modules.json`` and ``1_Pooling/config.json`` how its vectors are
pooled and whether they are normalised; a plain transformers folder says neither, and the defaults of
:class:`palign.models.backbones.Backbone` apply.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palign import reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
POOLING_OF_SENTENCE_TRANSFORMERS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}


@dataclass(frozen=True)
class PoolingHints:
    """What a sentence-transformers folder says of itself; every field is None or empty in a plain folder.

    ``subfolder`` is where the transformer lies inside the folder; ``max_length`` is in tokens.
    """

    pooling: str | None = None
    normalize: bool = False
    max_length: int | None = None
    subfolder: str = ""


def looks_like_path(name_or_path: str) -> bool:
    """True when the text can only be a place on this disk, not a hub name ``owner/model``."""
    return (
        os.path.exists(name_or_path)
        or name_or_path.startswith((".", "~", os.sep))
        or name_or_path.count("/") > 1
        or name_or_path.endswith("/")
    )


def require_model_folder(name_or_path: str, subfolder: str = "") -> None:
    """Raise ValueError if ``name_or_path`` is a local path that cannot be loaded as model and tokenizer.

    A hub name passes unseen. The message names the files that are missing.
    """
    if not looks_like_path(name_or_path):
        return
    folder = Path(name_or_path).expanduser()
    wanted = (
        "config.json, *.safetensors and a tokenizer (tokenizer.json or the like), as written by "
        "`model.save_pretrained(folder)` and `tokenizer.save_pretrained(folder)`"
    )
    if not folder.exists():
        raise ValueError(
            f"model_name_or_path is {name_or_path!r}, but there is no such folder. Give the name of a model "
            f"on the hub ('owner/model') or a folder that holds {wanted}."
        )
    if not folder.is_dir():
        raise ValueError(
            f"model_name_or_path is {name_or_path!r}, which is a file. Give its folder, which must hold {wanted}."
        )
    inner = folder / subfolder
    missing = _missing_files(inner, folder)
    if not missing:
        return
    advice = f"A model folder holds {wanted}."
    if (inner / "adapter_config.json").exists():
        advice = (
            "It looks like a LoRA adapter: merge it into its base model (PEFT's `merge_and_unload`), save the "
            "result with its tokenizer, and give that folder."
        )
    elif any(inner.glob("pytorch_model*.bin")):
        advice = (
            "It has pickled weights (*.bin), which are not loaded because a pickle can run code: load it once with "
            "transformers and `save_pretrained` it again, which writes safetensors."
        )
    raise ValueError(
        f"model_name_or_path is {name_or_path!r}, which is not a model folder: missing {', '.join(missing)}. {advice}"
    )


def read_tokenizer(name_or_path: str, **options: Any) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model folder or hub name, read before the model for what it tells; `options` go to loading.

    Raises:
        ValueError: there is no such model.
    """
    require_model_folder(name_or_path)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name_or_path, **options)
    except (OSError, KeyError) as error:
        raise ValueError(unknown_model_message(name_or_path, error)) from error


def unknown_model_message(name_or_path: str, error: Exception) -> str:
    """For a name that is no folder here, and that the hub or its cache did not give."""
    return (
        f"model_name_or_path is {name_or_path!r}, which could not be loaded as a model with its tokenizer "
        f"({error}). Give a hub name that this machine can reach or has in its cache, or a folder."
    )


def _missing_files(inner: Path, folder: Path) -> list[str]:
    missing = []
    if not (inner / "config.json").is_file():
        missing.append("config.json")
    if not any(any(inner.glob(pattern)) for pattern in WEIGHT_PATTERNS):
        missing.append("model.safetensors")
    if not any((place / name).is_file() for place in (inner, folder) for name in TOKENIZER_FILES):
        missing.append("tokenizer.json")
    return missing


def read_pooling_hints(name_or_path: str, *, revision: str | None = None, pooling: str | None = None) -> PoolingHints:
    """Read pooling, normalisation and longest input from a sentence-transformers folder or hub repository.

    ``pooling`` given here is kept, and the folder is not asked for its pooling. Source: the files ``modules.json``,
    ``<n>_Pooling/config.json`` and ``sentence_bert_config.json``.

    A pooling that is not mean, first, last or max raises ValueError; a module after the pooling that is not a
    normalisation (a dense projection) raises ValueError, since leaving it out would change the vectors silently.
    """
    modules = read_json(name_or_path, "modules.json", revision, list)
    if modules is None or not all(isinstance(module, dict) for module in modules):
        return PoolingHints(pooling)
    asked, normalize, subfolder = pooling, False, ""
    for module in modules:
        kind, path = str(module.get("type", "")).rsplit(".", 1)[-1], module.get("path", "")
        if kind == "Transformer":
            subfolder = path
        elif kind == "Pooling":
            asked = asked or _pooling_mode(
                read_json(name_or_path, f"{path}/config.json", revision) or {}, name_or_path
            )
        elif kind == "Normalize":
            normalize = True
        else:
            raise ValueError(
                f"{name_or_path!r} is a sentence-transformers model with a module {kind!r}, and only "
                "Transformer, Pooling and Normalize are known here. Compute its vectors with "
                "sentence-transformers and give them as --embeddings FILE.npy."
            )
    limits = read_json(name_or_path, os.path.join(subfolder, "sentence_bert_config.json"), revision) or {}
    return PoolingHints(asked, normalize, limits.get("max_seq_length"), subfolder)


def _pooling_mode(config: dict, name_or_path: str) -> str | None:
    """One pooling word out of either spelling of the file: flags, or ``pooling_mode`` by name."""
    if isinstance(config.get("pooling_mode"), str):
        modes = [{"cls": "first", "lasttoken": "last"}.get(config["pooling_mode"], config["pooling_mode"])]
    else:
        asked = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        modes = [POOLING_OF_SENTENCE_TRANSFORMERS.get(key, key) for key in asked]
    if len(modes) > 1 or any(word not in POOLING_OF_SENTENCE_TRANSFORMERS.values() for word in modes):
        raise ValueError(
            f"{name_or_path!r} pools by {' and '.join(modes)}, and only one of mean, first, last or max is known "
            "here. Give pooling= by hand, or compute its vectors with sentence-transformers and give them as "
            "--embeddings FILE.npy."
        )
    return modes[0] if modes else None


def read_json(name_or_path: str, filename: str, revision: str | None, kind: type | None = dict) -> dict | list | None:
    """The parsed file of a folder or hub repository, or None when it has no such file.

    Raises:
        ValueError: it is not JSON, or holds no object (`kind` list: no list; None: neither).
    """
    if looks_like_path(name_or_path):
        path = Path(name_or_path).expanduser() / filename
        return reading.read_json(path, kind) if path.is_file() else None
    from transformers.utils import cached_file

    cached_path = cached_file(
        name_or_path,
        filename,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return reading.read_json(cached_path, kind) if cached_path else None
