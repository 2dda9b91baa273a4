"""A mixture as vLLM serves it: its adapters, who is served by which, and the line that starts the server.

vLLM chooses an adapter by the `model` of a request, and knows no people: `routes.json` says which name to send for
whom. Its limits on adapters are those of `vllm/lora/peft_helper.py` and `MaxLoRARanks` of `vllm/config/lora.py`.
"""

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palign.models.files.mixture import BASE, MixtureRecord, load_mixture
from palign.models.single_adapter import require_adapter_folder
from palign.writing import whole_files, write_whole

__all__ = ["ExportedForVllm", "export_for_vllm", "launch_line"]

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
FAIR, ROUTES, LAUNCH = "fair", "routes.json", "launch.sh"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "tokenizer.model", "vocab.txt",
)  # fmt: skip


@dataclass(frozen=True)
class ExportedForVllm:
    """The line that starts vLLM, and what is to be known of the folder."""

    launch: str
    notes: list[str]


def export_for_vllm(
    mixture: str | Path, folder: str | Path, *, fair_path: str | Path | None = None
) -> ExportedForVllm:
    """Write adapters with the tokenizer beside each, routes.json and launch.sh.

    Args:
        mixture: a folder of `MixtureDPOTrainer`.
        folder: is made.
        fair_path: the fair policy, for people who are not known.

    Raises:
        ValueError: an adapter that vLLM does not take; each is named with the reason.
    """
    mixture, folder = Path(mixture).expanduser(), Path(folder)
    record = load_mixture(mixture)
    base = record.base_model or str((mixture / BASE).resolve())
    sources = {f"type_{k}": mixture / f"type_{k}" for k in range(record.n_types)}
    if fair_path is not None:
        sources[FAIR] = Path(fair_path).expanduser()
    ranks = {name: _required_rank(name, source) for name, source in sources.items()}
    tokenizer = next((p for p in (mixture, mixture / BASE) if (p / "tokenizer_config.json").is_file()), None)
    for name, source in sources.items():
        _copy_adapter(source, tokenizer, folder / name)
    routes = _routes(record, list(sources), base)
    write_whole(folder / ROUTES, json.dumps(routes, indent=1, ensure_ascii=False) + "\n")
    launch = launch_line(base, {name: str((folder / name).resolve()) for name in sources}, max(ranks.values()))
    write_whole(folder / LAUNCH, f"#!/bin/sh\n{launch}\n")
    notes = [f"{len(sources)} adapters: {', '.join(f'{name} (rank {ranks[name]})' for name in sources)}."]
    if record.plain_prompts:
        notes.append("The policies read prompts bare: ask /v1/completions, not /v1/chat/completions.")
    if fair_path is None:
        notes.append("No --fair_path: routes.json draws a type for people who are not known, by the types' shares.")
    notes.append(f"{ROUTES} holds the annotators' ids as they were given.")
    return ExportedForVllm(launch, notes)


def launch_line(base: str, adapters: Mapping[str, str], largest_rank: int) -> str:
    """`vllm serve …` for adapters by name."""
    rank = next(rank for rank in RANKS if rank >= largest_rank)
    modules = " ".join(shlex.quote(f"{name}={path}") for name, path in adapters.items())
    return (
        f"vllm serve {shlex.quote(base)} --enable-lora --max-lora-rank {rank} --max-loras {len(adapters)} "
        f"--lora-modules {modules}"
    )


def _required_rank(name: str, folder: Path) -> int:
    """The rank of an adapter; ValueError where vLLM does not take it."""
    config = require_adapter_folder(folder)
    ranks = [config.r, *(config.rank_pattern or {}).values()]
    reasons = []
    if config.modules_to_save:
        reasons.append(f"it holds whole modules ({', '.join(config.modules_to_save)}: modules_to_save)")
    if config.use_dora:
        reasons.append("it is DoRA")
    if config.bias != "none":
        reasons.append(f"it holds biases (bias={config.bias!r})")
    if getattr(config, "trainable_token_indices", None):
        reasons.append("it holds single token embeddings (trainable_token_indices)")
    if config.rank_pattern or config.alpha_pattern:
        reasons.append("its layers have ranks of their own (rank_pattern or alpha_pattern)")
    if max(ranks) > RANKS[-1]:
        reasons.append(f"its rank is {max(ranks)}, and vLLM takes up to {RANKS[-1]}")
    if reasons:
        raise ValueError(
            f"vLLM does not take the adapter {name}: {'; '.join(reasons)}. Train plain LoRA, or serve this mixture by "
            "palign serve."
        )
    return max(ranks)


def _copy_adapter(source: Path, tokenizer: Path | None, target: Path) -> None:
    with whole_files(target, last="adapter_config.json") as partial_folder:
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            shutil.copyfile(source / name, partial_folder / name)
        for name in TOKENIZER_FILES:
            if tokenizer is not None and (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, partial_folder / name)


def _routes(record: MixtureRecord, names: list[str], base: str) -> dict[str, Any]:
    """Who is served by which adapter: `people` by id; `strangers` one name, or shares by name."""
    types = record.responsibilities.argmax(1).tolist()
    shares = {f"type_{k}": float(weight) for k, weight in enumerate(record.mixing_weights)}
    return {
        "base_model": base,
        "adapters": names,
        "endpoint": "/v1/completions" if record.plain_prompts else "/v1/chat/completions",
        "people": {person: f"type_{k}" for person, k in zip(record.annotators.ids, types, strict=True)},
        "strangers": FAIR if FAIR in names else shares,
    }
