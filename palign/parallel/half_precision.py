"""Training in half precision on weights that ZeRO-3 has divided from loading on: with the roundings of DDP."""

import torch
from accelerate import Accelerator
from torch import nn

from palign.parallel.deepspeed_launch import is_zero_3

__all__ = ["plan_half_precision"]


def plan_half_precision(accelerator: Accelerator, model: nn.Module) -> None:
    """Say how a ZeRO-3 engine is to compute under `--bf16`, before Accelerate makes it; nothing elsewhere.

    A base that is divided from loading on is in bfloat16 then. What is trained beside it (adapters, heads) is held in
    float32; TRL makes adapters in bfloat16 under ZeRO-3, and DeepSpeed cannot divide the two together. DeepSpeed runs
    the model without autocast, while references, likelihoods and answers are computed under it: policy and reference
    were not the same function of a text. It also rounds gradients to bfloat16 before it sums them, over processes and
    over accumulated batches. Here the model runs under autocast, as under DDP, and gradients are summed in float32,
    unless the launch says otherwise (`communication_data_type`, `data_types`).

    Args:
        accelerator: the trainer's.
        model: to be prepared. Where all that is trained was divided in bfloat16, as in a model that is trained whole,
            it is left to DeepSpeed, which has masters in float32. Beside a critic such a model is held in float32.
    """
    if not is_zero_3(accelerator) or accelerator.mixed_precision != "bf16":
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    is_divided = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
    if not is_divided or all(hasattr(held, "ds_id") and held.dtype == torch.bfloat16 for held in trained):
        return
    for parameter in trained:
        parameter.data = parameter.data.float()
        if hasattr(parameter, "ds_id"):
            parameter.ds_tensor.data = parameter.ds_tensor.data.float()
    config = accelerator.state.deepspeed_plugin.deepspeed_config
    config.setdefault("communication_data_type", "fp32")
    config.setdefault("data_types", {}).setdefault("grad_accum_dtype", "fp32")
    accelerator.native_amp = True  # `accelerator.autocast()`, too
    accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)  # autocast, and nothing else
    accelerator._models.remove(model)  # the engine comes in its place
