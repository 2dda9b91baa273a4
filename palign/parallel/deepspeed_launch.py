"""What several trainers in one process need under DeepSpeed or FSDP2, and DeepSpeed on the CPU."""

import importlib.util
import os
from typing import TYPE_CHECKING

import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from palign.parallel.sharded import make_whole

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import Trainer, TrainingArguments

__all__ = [
    "divide_loaded",
    "is_deepspeed_launch",
    "is_zero_3",
    "leave_accelerator",
    "let_flags_size",
    "prepare_deepspeed",
    "refuse_eval_in_parts",
    "trained_model",
]

BATCH_SIZES = ("train_batch_size", "train_micro_batch_size_per_gpu")


def is_deepspeed_launch() -> bool:
    """Whether the launcher (a DEEPSPEED configuration of accelerate) asked for DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def prepare_deepspeed(*, is_asked: bool) -> None:
    """Call before `TrainingArguments` set up the processes.

    On a machine without an accelerator DeepSpeed's first initialisation compiles an operation for shared memory, which
    no training needs; it takes half a minute, fails without a compiler and waits for ever on a lock left by a killed
    process. It is left out.

    Args:
        is_asked: DeepSpeed was asked for in the arguments; else the launcher may have.

    Raises:
        ImportError: DeepSpeed is asked for and not installed.
    """
    if not (is_asked or is_deepspeed_launch()):
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise ImportError("DeepSpeed is asked for and not installed: pip install 'palign[deepspeed]'.")
    if torch.cuda.is_available():
        return
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False


def divide_loaded() -> object | None:
    """What says, as long as somebody holds it, that models are to be loaded in parts: under a launch with ZeRO-3.

    For recipes that train nothing; where something is trained `TrainingArguments` say it. Else None.
    """
    if not is_deepspeed_launch():
        return None
    from accelerate import DeepSpeedPlugin

    plugin = DeepSpeedPlugin()
    if plugin.zero_stage != 3:
        return None
    plugin.set_deepspeed_weakref()
    return plugin


def leave_accelerator(mixed_precision: str | None = None) -> None:
    """Forget the last trainer's `Accelerator`, so that another one may bring its DeepSpeed plugin or its precision.

    A process trains several models in turn (baselines, routes), and Accelerate refuses a second plugin. Process
    groups stay as they are.

    Args:
        mixed_precision: of the next trainer ("no", "bf16"); None: that of the last one will do.
    """
    if not AcceleratorState._shared_state:
        return
    state = AcceleratorState()
    if getattr(state, "fsdp_plugin", None) is not None:
        # it stays: the processes are said to be FSDP's by now, and a new state would take no plugin for them
        state._mixed_precision = mixed_precision or state._mixed_precision
        return
    if getattr(state, "deepspeed_plugins", None) is not None or mixed_precision not in (None, state.mixed_precision):
        AcceleratorState._reset_state()
        GradientState._reset_state()


def let_flags_size(args: "TrainingArguments") -> None:
    """Put the batch sizes of a trainer in place of those that DeepSpeed's configuration names.

    `check_launch` has compared these with the flags of the run; a trainer within it may read batches of another size.

    Args:
        args: of that trainer, which is not yet made.
    """
    plugin = args.deepspeed_plugin
    if plugin is None:
        return
    held = plugin.hf_ds_config
    held.config.update({name: "auto" for name in BATCH_SIZES if name in held.config})
    if hasattr(held, "trainer_config_process"):  # else it is the launcher's, and the trainer fills it in
        held.mismatches.clear()
        held.trainer_config_process(args)


def is_zero_3(accelerator: "Accelerator") -> bool:
    """Whether this Accelerator trains under ZeRO-3."""
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    return plugin is not None and plugin.zero_stage == 3


def refuse_eval_in_parts(trainer: "Trainer", name: str) -> None:
    """ValueError for a trainer that cannot evaluate between steps where ZeRO-3 has divided what it evaluates.

    Args:
        trainer: made, not yet run.
        name: of the trainer, for the message.
    """
    asked = getattr(trainer.args.eval_strategy, "value", trainer.args.eval_strategy)
    if is_zero_3(trainer.accelerator) and asked != "no":
        raise ValueError(
            f"eval_strategy is {asked!r}, and under ZeRO-3 {name} can evaluate before and after training only. Give "
            "--eval_strategy no, or launch with accelerate_configs/zero2.yaml."
        )


def trained_model(trainer: "Trainer", part: str | None = None) -> nn.Module:
    """What a trainer trained, without an engine, to answer with or to train again.

    It is whole on every process, but for what was divided from loading on (`trainer.divided`).
    Call it after `save_model`, on all processes.

    Args:
        part: name of the module of it that is needed further, if not all; the rest may stay divided.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    model = getattr(model, part) if part else model
    make_whole(model, getattr(trainer, "model_wrapped", trainer.model), keep=getattr(trainer, "divided", ()))
    return model
