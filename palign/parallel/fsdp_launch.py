"""Training under FSDP2 (accelerate_configs/fsdp2.yaml): what may be asked for, and what is divided how.

A base that was loaded in parts is trained beside, not within (`divided_training.py`): there nothing is planned here.
"""

import logging
import os
from functools import cache

import torch
from accelerate import Accelerator
from torch import nn

from palign.parallel.fsdp import is_fsdp, is_kept_divided, leave_fsdp

__all__ = ["check_fsdp", "divide_reference", "is_fsdp_launch", "plan_fsdp", "say_there_is_no_gpu"]

logger = logging.getLogger(__name__)
CONFIG = "accelerate_configs/fsdp2.yaml"
# variable that `accelerate launch` sets: what it is where it is not set, what it must be, and why
NEEDS = {
    "FSDP_VERSION": ("1", "2", "FSDP1 wraps modules, and models do not come out of it again"),
    "FSDP_AUTO_WRAP_POLICY": ("NO_WRAP", "TRANSFORMER_BASED_WRAP", "layers are put together one by one"),
    "FSDP_STATE_DICT_TYPE": ("SHARDED_STATE_DICT", "FULL_STATE_DICT", "what is saved would be in parts"),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": ("false", "false", "all processes compute with a model before it is trained"),
    "FSDP_OFFLOAD_PARAMS": ("false", "false", "weights are put together on the GPUs"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("false", "false", "it would recompute under another adapter; give "
                                      "--gradient_checkpointing instead"),
}  # fmt: skip


def is_fsdp_launch() -> bool:
    """Whether the launcher (an FSDP configuration of accelerate) asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_fsdp(*, is_asked: bool = False) -> None:
    """Call before `TrainingArguments` set up the processes: FSDP as it works here, or none.

    Args:
        is_asked: FSDP was asked for in the arguments (`--fsdp`), not by the launcher.

    Raises:
        ValueError: FSDP1, or a setting of FSDP2 under which something would go wrong later.
    """
    if is_asked:
        raise ValueError(f"--fsdp was given. FSDP is the launcher's to say: accelerate launch --config_file {CONFIG}.")
    if not is_fsdp_launch():
        return
    for name, (unset, needed, reason) in NEEDS.items():
        given = os.environ.get(name, unset)
        if given.lower() != needed.lower():
            raise ValueError(
                f"The launcher's configuration asks for FSDP with {name.lower()}: {given}; here it must be {needed} "
                f"({reason}). {CONFIG} has it."
            )
    if not torch.accelerator.is_available() and os.environ.get("RANK", "0") == "0":
        say_there_is_no_gpu()


@cache
def say_there_is_no_gpu() -> None:
    """Once, however many configurations are made."""
    logger.warning(
        "FSDP was asked for, and there is no GPU: what is not loaded in parts is trained whole on every process."
    )


def plan_fsdp(accelerator: Accelerator, model: nn.Module) -> None:
    """Say how Accelerate is to divide a model, before it prepares it; nothing is done outside of FSDP.

    Layers are gathered one by one, as the base's `_no_split_modules` names them: a module of ours around the base does
    not say so by itself. Mixed precision is autocast, as under DDP: FSDP's own would compute heads and give
    log-probabilities of completions in half precision. Gradients are divided after every batch, accumulated or not:
    kept whole until the last one they would take what FSDP is there to save.

    Args:
        accelerator: the trainer's.
        model: to be prepared, with a transformers model inside.

    Raises:
        ValueError: what is trained has several number types, which FSDP2 cannot hold together.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    if not os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP"):  # else the user has said it
        held = {type(module).__name__ for module in model.modules()}
        named = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
        plugin.transformer_cls_names_to_wrap = sorted(held & named)
    kinds = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if len(kinds) > 1 and accelerator.mixed_precision == "no":
        named = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise ValueError(
            f"What is trained is held in {named}, and FSDP2 divides one number type only. Give --bf16 true (all is "
            "held in float32 then), --dtype float32, or --use_peft true."
        )
    plugin.mixed_precision_policy = None
    accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
    accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)  # autocast, and nothing else


def divide_reference(accelerator: Accelerator, model: nn.Module | None) -> None:
    """Divide the reference of a policy trained whole as the policy is, and compute it as that is computed.

    TRL has it in one part, and in half precision where the policy has autocast: the KL between them would not begin
    at 0.

    Args:
        accelerator: the trainer's, after `plan_fsdp`.
        model: that TRL has divided; any other is left alone.
    """
    if model is None or not is_fsdp(model) or is_kept_divided(model):
        return
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    plugin = accelerator.state.fsdp_plugin
    named = plugin.transformer_cls_names_to_wrap
    leave_fsdp(model)
    model.requires_grad_(False)
    accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
    held = {type(module).__name__ for module in model.modules()}
    plugin.transformer_cls_names_to_wrap = [name for name in named or [] if name in held]  # it has no critic
    try:
        fsdp2_prepare_model(accelerator, model)
    finally:
        plugin.transformer_cls_names_to_wrap = named
