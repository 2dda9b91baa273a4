"""A value model for PPO, made from the policy."""

from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from palign.models.sharded import loading_whole, whole_tensor


def make_value_model(policy: PreTrainedModel, *, n_layers: int | None = None) -> PreTrainedModel:
    """The body of `policy` with a score head that starts at zero, as TRL's PPO wants a value model; in float32.

    All of it is trained, and steps of PPO's size are lost in the rounding of weights in bfloat16.

    Args:
        policy: a causal language model; its weights are copied, quantized ones (QLoRA) unpacked.
        n_layers: keep only the first layers of the body; None keeps all.

    Raises:
        ValueError: transformers has no sequence classifier for this architecture, or one without `.score`.
    """
    settings = {**policy.config.to_dict(), "id2label": {0: "value"}, "label2id": {"value": 0}}
    settings.pop("quantization_config", None)
    config = type(policy.config).from_dict(settings)
    if n_layers is not None:
        config.num_hidden_layers = n_layers
    try:
        with loading_whole():  # ZeRO-3 divides it with the policy, when training begins
            value = AutoModelForSequenceClassification.from_config(config).float()
    except ValueError as error:
        raise ValueError(
            f"transformers has no sequence classifier for {type(policy).__name__}, so no value model can be made from "
            "it; pass a `value_model` with a `.score` head and a `base_model_prefix`."
        ) from error
    if not hasattr(value, "score"):
        raise ValueError(
            f"{type(value).__name__} has no `.score` head, which TRL's PPO asks of a value model; pass a "
            "`value_model` of your own."
        )
    body = getattr(value, value.base_model_prefix)
    source = getattr(policy, policy.base_model_prefix)
    state = source.state_dict(keep_vars=True)
    if getattr(policy, "is_quantized", False):
        state |= _unpacked(source, list(body.state_dict()))
    body.load_state_dict({name: whole_tensor(state[name]) for name in body.state_dict()})
    nn.init.zeros_(value.score.weight)
    return value


def _unpacked(source: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Those of the named parameters that are weights of modules, as numbers instead of packed in 4 or 8 bits."""
    owners = {name: source.get_submodule(name.rpartition(".")[0]) for name in names if name.endswith(".weight")}
    return {name: dequantize_module_weight(module) for name, module in owners.items()}
