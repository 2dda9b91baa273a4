"""Whether a run has room on its card, asked before its model is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from palign.models.model_folders import looks_like_path
from palign.parallel.deepspeed_launch import is_deepspeed_launch
from palign.parallel.fsdp_launch import is_fsdp_launch
from palign.pipelines.memory.run import PlannedRun
from palign.pipelines.memory.shape import GIB, read_shape

if TYPE_CHECKING:
    from palign.pipelines.memory.plan import MemoryPlan

__all__ = ["refuse_without_room", "room_sentence"]

DIVIDING = "accelerate_configs/zero3.yaml or fsdp2.yaml with --num_processes"


def room_sentence(plan: "MemoryPlan", limit: float) -> str | None:
    """One sentence where the plan exceeds `limit` bytes of each process, else None."""
    if plan.peak <= limit:
        return None
    weights = max(stage.get("weights", 0.0) for stage in plan.stages.values())
    advice = (
        "lower --per_device_train_batch_size or lengths, or give --gradient_checkpointing true"
        if weights < limit and not plan.run.gradient_checkpointing
        else "take more processes, a smaller base or --load_in_4bit true"
        if plan.run.divides_weights
        else f"divide the model: {DIVIDING}"
    )
    return (
        f"{plan.run.recipe} under {plan.run.launcher} would hold {plan.peak / GIB:.1f} GiB on each card at its peak "
        f"(stage {plan.peak_stage!r}, {weights / GIB:.1f} GiB of it weights), and a card has {limit / GIB:.1f} GiB; "
        f"{advice}."
    )


def refuse_without_room(recipe: str, model_name_or_path: str | None, dtype: str | None, **known: Any) -> None:
    """Where weights are whole on each card and cannot lie there, say so now and not after minutes of loading.

    Nothing is said where nothing is known: no CUDA card, a name that is no folder here, a launcher that divides,
    weights in 4 or 8 bits. Weights alone are asked about: batches that are too large are the user's to lower.

    Args:
        recipe: of `palign.pipelines.memory.run.RECIPES`.
        dtype: as `--dtype` has it; "auto" is that of the files.
        known: further fields of `PlannedRun`.

    Raises:
        ValueError: the weights are larger than the card.
    """
    if model_name_or_path is None or not looks_like_path(model_name_or_path) or not torch.cuda.is_available():
        return
    if is_deepspeed_launch() or is_fsdp_launch() or not Path(model_name_or_path, "config.json").is_file():
        return
    limit = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    check_weights(recipe, model_name_or_path, dtype, limit, **known)


def check_weights(recipe: str, folder: str, dtype: str | None, limit: float, **known: Any) -> None:
    """ValueError where the weights of a model, whole on a card, are larger than `limit` bytes."""
    # here, since the plan reads constants of every trainer, and a run without a card imports its own trainer alone
    from palign.pipelines.memory.plan import plan_memory

    try:
        shape = read_shape(folder)
    except ValueError:  # a model without these sizes, of which no plan is made
        return
    held = "float32" if dtype == "float32" or (dtype in (None, "auto") and shape.stored_bytes > 2) else "bfloat16"
    plan = plan_memory(PlannedRun(recipe=recipe, dtype=held, reward_model=False, **known), shape)
    weights = plan.stages["loading"]["weights"]
    if weights > limit:
        raise ValueError(
            f"The weights of {folder!r} take {weights / GIB:.1f} GiB in {held}, and they lie whole on each card of "
            f"this launch, which has {limit / GIB:.1f} GiB; all of {recipe} would take {plan.peak / GIB:.1f} GiB or "
            f"more. Divide the model ({DIVIDING}), take it in 4 bits (--load_in_4bit true), or take a smaller one."
        )
