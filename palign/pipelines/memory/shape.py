"""The shape of a language model from its files, no weight of it read: `config.json`, and the headers or the index of
its safetensors.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palign.reading import read_json

__all__ = ["GIB", "LINEARS", "ModelShape", "read_shape"]

GIB = 2**30  # bytes
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
INDEX, CONFIG, ONE_FILE = "model.safetensors.index.json", "config.json", "model.safetensors"
LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself has it
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2")
NORMS_HEADS = ("qwen3", "olmo2")
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder with a gated MLP.

    Attributes:
        hidden, intermediate, n_layers, n_heads, n_kv_heads, head_dim, vocab: as `config.json` has them.
        is_tied: embedding and head are one matrix.
        normalizes_heads: queries and keys have a norm of their own.
        n_parameters: of the whole model; of the files' headers where they are there, else of the sizes.
        stored_bytes: of one parameter as the files have it.
        model_type: of transformers.
        source: what `n_parameters` was read from.
    """

    hidden: int
    intermediate: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    is_tied: bool
    normalizes_heads: bool
    n_parameters: int
    stored_bytes: float
    model_type: str
    source: str

    @property
    def query(self) -> int:
        """Numbers of all queries of a token."""
        return self.n_heads * self.head_dim

    @property
    def key(self) -> int:
        """Numbers of all keys of a token, and of all values."""
        return self.n_kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear maps of a layer, by name."""
        h, i = self.hidden, self.intermediate
        sizes = ((h, self.query), (h, self.key), (h, self.key), (self.query, h), (h, i), (h, i), (i, h))
        return dict(zip(LINEARS, sizes, strict=True))

    @property
    def layer_parameters(self) -> int:
        """Of one layer."""
        return sum(n_in * n_out for n_in, n_out in self.linears.values()) + 2 * self.hidden

    @property
    def body_parameters(self) -> int:
        """Of the model without its head."""
        return self.n_parameters - (0 if self.is_tied else self.vocab * self.hidden)

    def adapter_parameters(self, rank: int, targets: tuple[str, ...] = LINEARS) -> int:
        """Of one LoRA adapter of that rank on those linear maps of every layer."""
        return self.n_layers * sum(rank * sum(self.linears[name]) for name in targets)

    @property
    def is_counted_exactly(self) -> bool:
        """Whether activations are counted for this kind of model, or taken as those of a Llama of its sizes."""
        return self.model_type in LLAMA_LIKE


def read_shape(folder: str | Path) -> ModelShape:
    """The shape of the model in a folder.

    Raises:
        ValueError: no `config.json`, one that names no sizes of a decoder, or a damaged safetensors file.
    """
    folder = Path(folder).expanduser()
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{str(folder)!r} holds no config.json. Give the folder of a language model.")
    config = read_json(folder / CONFIG, dict)
    config = config.get("text_config") or config
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    lacking = [name for name in names if not isinstance(config.get(name), int) or config[name] < 1]
    if lacking:
        raise ValueError(
            f"{folder / CONFIG} has no {lacking[0]}, so that its memory cannot be planned. Give a decoder whose "
            f"config.json has {', '.join(names)}."
        )
    sizes = _sizes(config)
    n_parameters, stored, source = _counted(folder)
    if n_parameters is None:
        n_parameters, source = _by_sizes(sizes), CONFIG
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    stored = stored or (4 if dtype == "float32" else 2)
    return ModelShape(**sizes, n_parameters=n_parameters, stored_bytes=stored, source=source)


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    heads, hidden, kind = config["num_attention_heads"], config["hidden_size"], str(config.get("model_type", ""))
    return {
        "hidden": hidden, "intermediate": config.get("intermediate_size") or 4 * hidden,
        "n_layers": config["num_hidden_layers"], "n_heads": heads,
        "n_kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or hidden // heads,
        "vocab": config["vocab_size"], "is_tied": bool(config.get("tie_word_embeddings", False)),
        "normalizes_heads": kind in NORMS_HEADS, "model_type": kind,
    }  # fmt: skip


def _by_sizes(sizes: dict[str, Any]) -> int:
    shape = ModelShape(**sizes, n_parameters=0, stored_bytes=4, source=CONFIG)
    ends = shape.vocab * shape.hidden * (1 if shape.is_tied else 2) + shape.hidden
    return shape.n_layers * shape.layer_parameters + ends


def _counted(folder: Path) -> tuple[int | None, float, str]:
    """Parameters, bytes of each on average, and the file that says so; None where no weights lie there."""
    index = read_json(folder / INDEX, dict) if (folder / INDEX).is_file() else None
    names = sorted(set(index.get("weight_map", {}).values())) if index else [ONE_FILE]
    if all((folder / name).is_file() for name in names):
        numbers = [_in_file(folder / name) for name in names]
        n = sum(part for part, _ in numbers)
        return n, sum(size for _, size in numbers) / max(n, 1), f"headers of {len(names)} safetensors file(s)"
    held = (index or {}).get("metadata", {})
    if held.get("total_parameters"):
        n = int(held["total_parameters"])
        return n, float(held.get("total_size", 0)) / n, INDEX
    return None, 0, CONFIG


def _in_file(path: Path) -> tuple[int, int]:
    """Numbers and bytes of a safetensors file, by its header."""
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else LONGEST_HEADER + 1
        content = file.read(length) if length <= LONGEST_HEADER else b""
    try:
        header = json.loads(content)
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        counts = [math.prod(entry["shape"]) for entry in tensors]
        return sum(counts), sum(n * BYTES.get(entry["dtype"], 1) for n, entry in zip(counts, tensors, strict=True))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}). Give a whole copy of the model.") from error
