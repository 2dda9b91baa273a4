"""Options of transformers' training arguments that TRL's PPO takes and does not read: what they mean here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator, PartialState
from torch import nn

from palign.trainers.deepspeed_runs import leave_accelerator
from palign.trainers.pal_ppo_config import PALPPOConfig

__all__ = ["checkpoint_activations", "heed_max_steps", "mixed_precision"]

PRECISION = "ACCELERATE_MIXED_PRECISION"


def heed_max_steps(args: PALPPOConfig) -> None:
    """`max_steps` updates, where it is given: `total_episodes`, which alone TRL's PPO reads, is set by it."""
    if args.max_steps > 0:
        n_each = args.per_device_train_batch_size * args.gradient_accumulation_steps * PartialState().num_processes
        args.total_episodes = args.max_steps * n_each


@contextmanager
def mixed_precision(args: PALPPOConfig) -> Iterator[None]:
    """Inside this context an `Accelerator` is made as `bf16` asks; TRL's PPO asks the launcher's environment alone."""
    before = os.environ.get(PRECISION)
    precision = "bf16" if args.bf16 else before or "no"
    leave_accelerator(precision)
    os.environ[PRECISION] = precision
    try:
        yield
    finally:
        os.environ.pop(PRECISION)
        if before is not None:
            os.environ[PRECISION] = before


def checkpoint_activations(model: nn.Module, accelerator: Accelerator) -> None:
    """Policy and value model keep no activations of their layers, but compute them again in the backward pass.

    Args:
        model: TRL's wrapper of both, as prepared. It switches the policy's off while it generates.
    """
    both = accelerator.unwrap_model(model)
    both.gradient_checkpointing_enable()
    if hasattr(both.value_model, "gradient_checkpointing_enable"):
        both.value_model.gradient_checkpointing_enable()
