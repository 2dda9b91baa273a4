"""What TRL's GRPO and RLOO forget at a checkpoint, so that a resumed run ends where an uninterrupted one does.

1. The order of the rows: TRL's sampler draws one order after another from one generator, which begins anew with the
   process. Here every epoch has its seed.
2. Completions that are still to be used: with several updates on one generation, a checkpoint may fall between them,
   and TRL would draw new completions after it. Here they are written beside the checkpoint.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Sampler

from palign.reading import read_json, reading

__all__ = ["OrderByEpoch", "load_generation", "save_generation"]


class OrderByEpoch(Sampler):
    """TRL's sampler, whose generator is seeded anew in every epoch.

    Args:
        sampler: TRL's, which has a `generator` if it shuffles.
        seed: of the first epoch.
        epoch: says which epoch begins, counted from 0.
    """

    def __init__(self, sampler: Any, seed: int, epoch: Callable[[], int]) -> None:
        self.sampler, self.seed, self.epoch = sampler, seed, epoch

    def __iter__(self) -> Iterator[int]:
        generator = getattr(self.sampler, "generator", None)
        if generator is not None:
            generator.manual_seed(self.seed + self.epoch())
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


def save_generation(folder: Path, rank: int, step: int, batches: Sequence[Mapping[str, Any]]) -> None:
    """Write one process's completions beside a checkpoint.

    Args:
        folder: of the checkpoint.
        rank: of the process.
        step: forward and backward passes so far.
        batches: the parts of the last generation: tensors by name, and plain values.
    """
    tensors, record = {}, {"step": step, "batches": []}
    for number, batch in enumerate(batches):
        tensors |= {f"{number}.{name}": v.contiguous().clone() for name, v in batch.items() if torch.is_tensor(v)}
        record["batches"].append({name: v for name, v in batch.items() if not torch.is_tensor(v)})
    save_file(tensors, folder / f"generation_{rank}.safetensors")
    (folder / f"generation_{rank}.json").write_text(json.dumps(record), encoding="utf-8")


def load_generation(folder: Path, rank: int, device: torch.device) -> tuple[int, list[dict[str, Any]]] | None:
    """The step and the batches that `save_generation` wrote; None where there are none for this process."""
    path = folder / f"generation_{rank}.json"
    if not path.is_file():
        return None
    record, tensors_path = read_json(path, dict, allows_nan=True), path.with_suffix(".safetensors")
    with reading(path, "The completions still to be used"):
        tensors = load_file(tensors_path)  # log-probabilities may be infinite; it knows no "cpu:0"
        batches = record["batches"]
        for name, value in tensors.items():
            number, _, key = name.partition(".")
            batches[int(number)][key] = value.to(device)
        return record["step"], batches
