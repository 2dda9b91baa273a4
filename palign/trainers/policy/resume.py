"""The guard and the reward scales of a run, beside its checkpoint: the same files for every trainer of a policy."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from palign.functional.reward_scales import RewardScale, RewardScales
from palign.models.backbones import enter_tensor
from palign.parallel.sharded import whole_tensor
from palign.reading import read_json, read_tensors, reading
from palign.rewards import PersonalizedReward
from palign.trainers.policy.collapse import CollapseGuard

__all__ = [
    "copies", "guard_from", "guard_record", "load_watch", "reward_record", "save_watch", "scales_from",
    "scales_record",
]  # fmt: skip

GUARD, WATCH = "guard.safetensors", "watch.json"


def reward_record(reward: PersonalizedReward) -> dict[str, Any]:
    """What a policy is rewarded by, for `same_run`: a reward model of torch by content, any other by its class.

    Every process of a reward model that is divided among them calls it.
    """
    digest, model = hashlib.sha256(), reward.model
    state = model.state_dict(keep_vars=True) if isinstance(model, nn.Module) else {}
    for name in sorted(name for name, held in state.items() if torch.is_tensor(held)):
        enter_tensor(digest, name, whole_tensor(state[name]))
    model_key = f"{type(model).__name__}, key {digest.hexdigest()[:16]}" if state else type(model).__name__
    return {"reward": model_key, "prototype_weights": None if reward.weights is None else reward.weights.tolist()}


def guard_record(guard: CollapseGuard, folder: Path) -> dict[str, Any]:
    """Write a guard's weights; returns what else it knows, for JSON."""
    kept = {f"good.{name}": t for name, t in guard.good_weights.items()}
    kept |= {f"latest.{name}": t for name, t in guard.latest_weights.items()}
    save_file(copies(kept), folder / GUARD)
    return {"n_beyond": guard.n_beyond, "stop_reason": guard.stop_reason}


def guard_from(guard: CollapseGuard, record: dict[str, Any], folder: Path, device: torch.device) -> None:
    """Put a guard where `guard_record` had it."""
    kept = read_tensors(folder / GUARD)
    guard.n_beyond, guard.stop_reason = record["n_beyond"], record["stop_reason"]
    for part in ("good", "latest"):
        weights = {name.removeprefix(f"{part}."): t for name, t in kept.items() if name.startswith(f"{part}.")}
        setattr(guard, f"{part}_weights", {name: tensor.to(device) for name, tensor in weights.items()})


def scales_record(scales: RewardScales) -> list[list[Any]]:
    """Everybody's scale, for JSON: [person or None, mean and std]."""
    return [[who, asdict(scale)] for who, scale in scales.scales.items()]


def scales_from(scales: RewardScales, record: list[list[Any]]) -> None:
    """Put scales where `scales_record` had them."""
    scales.scales = {who: RewardScale(**scale) for who, scale in record}


def save_watch(guard: CollapseGuard, scales: RewardScales, folder: Path) -> None:
    """Write guard and scales beside a checkpoint; one process does."""
    record = guard_record(guard, folder) | {"reward_scales": scales_record(scales)}
    (folder / WATCH).write_text(json.dumps(record) + "\n", encoding="utf-8")


def load_watch(guard: CollapseGuard, scales: RewardScales, folder: Path, device: torch.device) -> None:
    """What `save_watch` wrote; a checkpoint of an earlier version has none, and nothing is changed."""
    if not (folder / WATCH).is_file():
        return
    record = read_json(folder / WATCH, dict, allows_nan=True)
    with reading(folder / WATCH, "The guard's state"):
        guard_from(guard, record, folder, device)
        scales_from(scales, record["reward_scales"])


def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as safetensors can write them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
