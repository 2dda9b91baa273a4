"""The critic of PPO: what reward is still to come, read from the state before a token is drawn.

Four kinds. `lora` (the default): a second LoRA adapter on the base that the policy has already, and a head. `head`: a
head alone, on the policy's states, which it does not change. `full`, `layers:N`: a further body, copied from
the policy whole or up to layer N. Head and body are in float32 and start at the value 0.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from palign.models.adapters import checkpointing_contexts, route
from palign.parallel.sharded import copy_values, divided_parameters, loading

__all__ = [
    "ADAPTER", "Critic", "RecomputeUnderItsAdapter", "check_critic", "critic_body", "critic_route", "critic_set_aside",
    "last_states", "let_learn", "n_layers_of", "put_critic", "take_off_critic",
]  # fmt: skip

ADAPTER = "critic"
KINDS = "'lora', 'head', 'full' or 'layers:N' with N of 1 or more"


def check_critic(kind: str) -> None:
    """Raise `ValueError` unless `kind` names a critic."""
    if kind in ("lora", "head", "full"):
        return
    name, _, number = kind.partition(":")
    if name != "layers" or not number.isdecimal() or int(number) < 1:
        raise ValueError(f"critic is {kind!r}; give {KINDS}.")


def n_layers_of(kind: str) -> int | None:
    """N of 'layers:N', None otherwise."""
    return int(kind.partition(":")[2]) if kind.startswith("layers:") else None


class Critic(nn.Module):
    """A head, and under it a body where it has one.

    Args:
        hidden_size: of the states.
        body: (input_ids, position_ids) → `last_hidden_state`; None reads states of the policy's base.
    """

    _no_split_modules = ["Critic"]  # FSDP2 puts it together by itself: it is run beside the policy's forward pass

    def __init__(self, hidden_size: int, body: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, states: Tensor | None = None, **inputs: Tensor) -> Tensor:
        """Values, float32: (...) of states (..., hidden) of the policy's base; of a critic with a body (batch,
        seq_len), of `input_ids` and perhaps `position_ids`.
        """
        if self.body is not None:
            states = self.body(**inputs, use_cache=False).last_hidden_state
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states.float()).squeeze(-1)


def put_critic(model: nn.Module, kind: str, *, lora_r: int, seed: int) -> Critic:
    """Give a policy its critic, in place: `model.critic`, and the adapter 'critic' where the kind is `lora`.

    Args:
        model: the policy; with adapters for `lora`.
        kind: see `check_critic`.
        lora_r: rank of the critic's adapter, on the same modules as the policy's.
        seed: of the adapter's first weights; the global random state is left as it was.

    Raises:
        ValueError: `lora`, and the policy has no LoRA adapter to take after.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    body = None
    if kind == "lora":
        if not isinstance(model, PeftModel):
            raise ValueError(
                "critic is 'lora', and the policy has no adapter: a critic on a base that moves with the policy would "
                "move as well. Train an adapter (--use_peft true), or give --critic head, full or layers:N."
            )
        _add_adapter(model, lora_r, seed)
    elif kind != "head":
        body = critic_body(base, n_layers=n_layers_of(kind))
    critic = Critic(base.config.get_text_config().hidden_size, body)
    model.critic = critic.to(next(base.parameters()).device)
    return critic


def _add_adapter(model: PeftModel, lora_r: int, seed: int) -> None:
    of_policy = model.peft_config[model.active_adapter]
    config = LoraConfig(
        r=lora_r, lora_alpha=2 * lora_r, lora_dropout=0.0, target_modules=of_policy.target_modules,
        task_type=of_policy.task_type,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(ADAPTER, config)


def let_learn(model: nn.Module) -> None:
    """Policy and critic take gradients both: PEFT freezes whichever adapter is not active."""
    if isinstance(model, PeftModel) and ADAPTER in model.peft_config:
        model.base_model.set_requires_grad([model.active_adapter, ADAPTER], True)


def critic_route(model: nn.Module, kind: str) -> AbstractContextManager:
    """Inside this context the base answers under the critic's adapter, if it has one; no gradient flag is touched."""
    return route(model, ADAPTER) if kind == "lora" else nullcontext()


@contextmanager
def last_states(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside this context the last hidden states (batch, seq_len, hidden) of every forward pass are put in a list.

    The pass itself goes through whatever wraps the model (DDP, an engine, FSDP2), as they need it.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    seen: list[Tensor] = []
    hook = base.base_model.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    try:
        yield seen
    finally:
        hook.remove()


class RecomputeUnderItsAdapter:
    """`context_fn` of gradient checkpointing: what is computed again is so under the adapter of its forward pass."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self.layers = [] if model is None else [m for m in model.modules() if isinstance(m, BaseTunerLayer)]

    def __call__(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        return checkpointing_contexts(self.layers)

    def __reduce__(self) -> Any:
        return type(self), ()  # training arguments are written beside a checkpoint, and no model with them


def critic_body(policy: PreTrainedModel, *, n_layers: int | None = None) -> nn.Module:
    """A copy of the body of `policy` in float32; steps of PPO's size are lost in the rounding of bfloat16.

    In parts where ZeRO-3 has the policy in parts; all processes call it.

    Args:
        policy: a causal language model; quantized weights (QLoRA) are unpacked.
        n_layers: keep only the first layers; None keeps all.
    """
    settings = policy.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(policy.config).from_dict(settings)
    if n_layers is not None:
        if n_layers > config.get_text_config().num_hidden_layers:
            raise ValueError(
                f"critic is 'layers:{n_layers}', and the policy has {config.get_text_config().num_hidden_layers} "
                "layers; give as many or fewer."
            )
        config.get_text_config().num_hidden_layers = n_layers
        if getattr(config.get_text_config(), "layer_types", None):
            config.get_text_config().layer_types = config.get_text_config().layer_types[:n_layers]
    source, is_quantized = policy.base_model, getattr(policy, "is_quantized", False)
    parts = [] if is_quantized else divided_parameters(source)
    with torch.random.fork_rng(), loading(divided=bool(parts)):  # under ZeRO-3 the main process alone draws
        body = AutoModel.from_config(config, dtype=torch.float32)
    adapted = any(isinstance(module, BaseTunerLayer) for module in source.modules())
    state = {_plain(name): value for name, value in source.state_dict(keep_vars=True).items() if "lora_" not in name}
    if is_quantized:
        state |= _unpacked(source, list(body.state_dict()), adapted)
    for name, held in body.state_dict(keep_vars=True).items():
        copy_values(held, state[name])
    return body.requires_grad_(True)


def _plain(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _unpacked(source: nn.Module, names: list[str], adapted: bool) -> dict[str, Tensor]:
    """Those of the named parameters that are weights of modules, as numbers instead of packed in 4 or 8 bits."""
    weights = {}
    for name in names:
        if name.endswith(".weight"):
            owner = source.get_submodule(name.rpartition(".")[0])
            owner = owner.base_layer if adapted and isinstance(owner, BaseTunerLayer) else owner
            weights[name] = dequantize_module_weight(owner)
    return weights


@contextmanager
def critic_set_aside(model: nn.Module) -> Iterator[None]:
    """Inside this context the model is the policy alone, to be saved: without the critic and its adapter's name."""
    critic = model._modules.pop("critic", None)
    config = getattr(model, "peft_config", {}).pop(ADAPTER, None)
    try:
        yield
    finally:
        if critic is not None:
            model.critic = critic
        if config is not None:
            model.peft_config[ADAPTER] = config


def take_off_critic(model: nn.Module) -> None:
    """Leave the policy as it would be without a critic, which is gone then."""
    model._modules.pop("critic", None)
    if isinstance(model, PeftModel) and ADAPTER in model.peft_config:
        model.delete_adapter(ADAPTER)
