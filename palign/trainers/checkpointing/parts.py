"""Checkpoints of what is trained in parts under FSDP2: each process writes, and reads, its own parts."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from palign.parallel.fsdp import local_part
from palign.reading import read_json, read_tensors
from palign.writing import write_whole

__all__ = ["load_optimizer_parts", "load_weight_parts", "save_parts"]

WEIGHTS, OPTIMIZER = "weights_{rank}.safetensors", "optimizer_{rank}.safetensors"
FIGURES = "optimizer.json"  # of parameter groups, and of the schedule: those of all processes


def save_parts(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    """Parts of the weights and of the optimizer's state; all processes call it."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = torch.distributed.get_rank()
    state = _state(model, optimizer)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    save_file(_here(dict(model.named_parameters())), folder / WEIGHTS.format(rank=rank))
    save_file(_here(tensors), folder / OPTIMIZER.format(rank=rank))
    if rank == 0:
        figures = {name: value for name, value in state.items() if name not in tensors}
        write_whole(folder / FIGURES, json.dumps({"groups": figures, "schedule": schedule.state_dict()}) + "\n")


def load_weight_parts(folder: Path, model: nn.Module) -> None:
    """This process's parts of the weights, into the model."""
    _fill(dict(model.named_parameters()), folder / WEIGHTS.format(rank=torch.distributed.get_rank()))


def load_optimizer_parts(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
    """This process's parts of the optimizer's state, and the schedule; all processes call it."""
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    state, figures = _state(model, optimizer), read_json(folder / FIGURES, dict, allows_nan=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    _fill(tensors, folder / OPTIMIZER.format(rank=torch.distributed.get_rank()))
    set_optimizer_state_dict(model, optimizer, tensors | figures["groups"], options=_by_name())
    schedule.load_state_dict(figures["schedule"])


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state, by names of weights."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    return get_optimizer_state_dict(model, optimizer, options=_by_name())


def _by_name() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(flatten_optimizer_state_dict=True)


def _here(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: local_part(value).detach().contiguous() for name, value in tensors.items()}


def _fill(tensors: dict[str, Tensor], path: Path) -> None:
    held = read_tensors(path)
    with torch.no_grad():
        for name, value in tensors.items():
            local_part(value).copy_(held[name])
