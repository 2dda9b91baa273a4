"""`policy_conditioning="adapter"`: one LoRA per prototype, each trained on that prototype's reward alone."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["PrototypeAdapters", "adapter_name", "choose_prototypes", "train_one_by_one"]

History = list[dict[str, float]]
TrainOne = Callable[[PreTrainedModel, Tensor, Any], tuple[PeftModel, History]]


@dataclass
class PrototypeAdapters:
    """A policy with one adapter per prototype.

    Attributes:
        policy: the base with the adapters `type_0` … `type_{K−1}`; `policy.set_adapter("type_0")` selects one.
        histories: per prototype, the metrics of every update.
    """

    policy: PeftModel
    histories: list[History]


def adapter_name(prototype: int) -> str:
    """Name of the adapter, and of its folder, of prototype `prototype`."""
    return f"type_{prototype}"


def choose_prototypes(weights: np.ndarray, *, draw: bool = False, seed: int = 0) -> np.ndarray:
    """Which adapter serves each person: `(n_people,)` integers.

    Args:
        weights: `(n_people, n_prototypes)`, rows on the simplex.
        draw: False serves a person by their dominant prototype, True by a draw in proportion to their weights.
        seed: of the draw.
    """
    weights = np.asarray(weights, dtype=float)
    if not draw:
        return weights.argmax(1)
    ends = weights.cumsum(1) / weights.sum(1, keepdims=True)
    return (np.random.default_rng(seed).random((len(weights), 1)) > ends).sum(1).clip(max=weights.shape[1] - 1)


def train_one_by_one(
    model: PreTrainedModel, args: Any, train_one: TrainOne, *, n_prototypes: int
) -> PrototypeAdapters:
    """Train the adapters one after another, each in `output_dir/type_k`, and put them on the base together.

    Args:
        model: the base; it comes back with the adapters on it.
        args: of every run; each gets a copy with another `output_dir`.
        train_one: (base, weights `(n_prototypes,)`, args) → the policy, saved under `args.output_dir`, and the metrics
            of every update.
        n_prototypes: K.
    """
    histories = []
    for prototype in range(n_prototypes):
        run_args = copy.copy(args)
        run_args.output_dir = str(Path(args.output_dir) / adapter_name(prototype))
        if getattr(args, "run_name", None):
            run_args.run_name = f"{args.run_name}-{adapter_name(prototype)}"
        policy, history = train_one(model, torch.eye(n_prototypes)[prototype], run_args)
        histories.append(history)
        model = policy.unload()
        if hasattr(model, "peft_config"):
            del model.peft_config
    folders = [Path(args.output_dir) / adapter_name(k) for k in range(n_prototypes)]
    policy = PeftModel.from_pretrained(model, folders[0], adapter_name=adapter_name(0))
    for prototype, folder in enumerate(folders[1:], 1):
        policy.load_adapter(folder, adapter_name=adapter_name(prototype))
    return PrototypeAdapters(policy.eval(), histories)
