"""One LoRA adapter for each type on one base: add, route, run all of them in one forward, save, load.

PEFT's `set_adapter` and `disable_adapter` change `requires_grad`: inside a loss that trains several adapters they
silently drop gradients. Here the active adapter is switched and no flag is touched; flags are set once for all types.
Adapters are named `type_0 … type_{K−1}`, by number only.
"""

import copy
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from palign.models.completions import policy_logps
from palign.models.files.adapter_files import CONFIG, WEIGHTS, base_of, read_adapter_config, write_base
from palign.models.states.folded import folded
from palign.parallel.sharded import is_sharded, set_whole, whole, whole_tensor
from palign.reading import read_tensors, reading, require_tensors

__all__ = [
    "TypePolicies", "adapter_state", "add_type_adapters", "checkpointing_contexts", "checkpointing_kwargs",
    "disable_dropout", "load_type_adapters", "read_type_adapters", "require_grad", "restore_adapter_state", "route",
    "save_type_adapters", "type_names", "untrained_types",
]  # fmt: skip

PLAIN_STARTS = (True, False, "gaussian", "orthogonal")  # the others change the weights of the base


def type_names(model: nn.Module) -> list[str]:
    """`["type_0", …]`, the type adapters on a model."""
    numbers = (re.fullmatch(r"type_(\d+)", name) for name in getattr(model, "peft_config", {}))
    return [f"type_{k}" for k in sorted(int(match[1]) for match in numbers if match)]


def add_type_adapters(
    model: nn.Module, peft_config: LoraConfig, n_types: int, *, seed: int, autocast_adapter_dtype: bool = True
) -> PeftModel:
    """Put `n_types` adapters of one configuration on a base, in place, all of them trainable.

    Each type's A is drawn from the seed and the type's number alone; the global random state is left as it was. The
    active adapter is `type_0`.

    Args:
        model: a base without adapters.
        peft_config: of every type; copied.
        n_types: at least 1.
        seed: of the draws.
        autocast_adapter_dtype: hold half-precision adapters in float32; False under ZeRO-3.

    Raises:
        TypeError: not a LoRA configuration.
        ValueError: the base carries adapters, or the configuration would train or change what all types share.
    """
    _check_base(model)
    _check_config(peft_config)
    if n_types < 1:
        raise ValueError(f"n_types is {n_types}; give at least 1.")
    policy: Any = model
    with torch.random.fork_rng():
        for k in range(n_types):
            torch.manual_seed(int(np.random.SeedSequence([seed, k]).generate_state(1)[0]))
            config = copy.deepcopy(peft_config)
            config.inference_mode = False
            options = {"autocast_adapter_dtype": autocast_adapter_dtype}
            if k == 0:
                policy = get_peft_model(model, config, adapter_name="type_0", **options)
            else:
                policy.add_adapter(f"type_{k}", config, **options)
    require_grad(policy)
    return policy


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout rate inside to 0, for good: policy and reference must be the same function of a text."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _check_base(model: nn.Module) -> None:
    if isinstance(model, PeftModel) or any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ValueError(
            "The base already carries an adapter, and the reference is the base with adapters off. Merge it first "
            "(PEFT's merge_and_unload), or give the plain base model."
        )


def _check_config(config: LoraConfig) -> None:
    if not isinstance(config, LoraConfig):
        raise TypeError(f"peft_config is a {type(config).__name__}; types are LoRA adapters: give a LoraConfig.")
    reasons = {
        "bias": ("none", "biases belong to the base, which all types and the reference share"),
        "modules_to_save": (None, "every type would hold a full copy of these modules, outside of LoRA"),
        "trainable_token_indices": (None, "new token rows would be trained outside of LoRA"),
    }
    for name, (allowed, reason) in reasons.items():
        given = getattr(config, name, allowed)
        if given and given != allowed:
            raise ValueError(f"peft_config.{name} is {given!r}: {reason}. Give {allowed!r}; target_modules may grow.")
    if config.init_lora_weights not in PLAIN_STARTS:
        raise ValueError(
            f"peft_config.init_lora_weights is {config.init_lora_weights!r}, which may change the base's own weights: "
            f"the reference would move, and each further type start from another base. Give one of {PLAIN_STARTS}."
        )


def require_grad(model: PeftModel, n_types: int | None = None) -> None:
    """Make every type's adapter trainable; once after adding or loading, and again before an optimizer is rebuilt."""
    names = type_names(model)
    if not names or n_types not in (None, len(names)):
        raise ValueError(f"the model carries {len(names)} type adapters ({names}), and {n_types} are asked for.")
    model.base_model.set_requires_grad(names, True)


class _Route(AbstractContextManager):
    """Tuner layers with another active adapter for a while; may be entered again and again, also within itself."""

    def __init__(self, layers: Sequence[BaseTunerLayer], active: str | list[str], disabled: bool) -> None:
        self.layers, self.active, self.disabled = layers, active, disabled
        self._before: list[list[tuple[str | list[str], bool]]] = []

    def __enter__(self) -> None:
        self._before.append([(layer._active_adapter, layer._disable_adapters) for layer in self.layers])
        for layer in self.layers:
            layer._active_adapter, layer._disable_adapters = self.active, self.disabled

    def __exit__(self, *_: object) -> None:
        for layer, (active, disabled) in zip(self.layers, self._before.pop(), strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


def _tuner_layers(model: nn.Module) -> list[BaseTunerLayer]:
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise ValueError("the model carries no adapters; call add_type_adapters or load_type_adapters first.")
    return layers


def route(model: PeftModel, name: str | None) -> AbstractContextManager:
    """Inside this context forwards run under the adapter of that name; with None adapters are off: the reference.

    No `requires_grad` is touched, so that gradients of several adapters can meet in one loss. Nests, and restores
    what was active after an exception too.
    """
    if name is not None and name not in model.peft_config:
        raise ValueError(f"there is no adapter {name!r}; the model carries {', '.join(model.peft_config)}.")
    return _Route(_tuner_layers(model), [name or "type_0"], name is None)


def checkpointing_kwargs(model: PeftModel) -> dict[str, Any]:
    """Arguments of gradient checkpointing that stay right when adapters are switched between forwards.

    A recomputation runs under the adapter that was active in its forward; without this it silently runs under
    whichever is active at the backward. For `model.gradient_checkpointing_enable(kwargs)`.
    """
    layers = _tuner_layers(model)
    return {"use_reentrant": False, "context_fn": lambda: checkpointing_contexts(layers)}


def checkpointing_contexts(layers: Sequence[BaseTunerLayer]) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Of a forward pass and of its recomputation, which runs under the adapter that is active now."""
    return nullcontext(), _Route(layers, layers[0]._active_adapter, layers[0]._disable_adapters)


class TypePolicies(nn.Module):
    """The one module to wrap for training: its forward runs all adapters, always in the same order.

    So it is exact on one process, under DDP and under ZeRO: every rank runs every adapter once in each forward, with
    a filler of no effect where a type has nothing to compute, and there is one backward for all types.
    """

    def __init__(self, policy: PeftModel) -> None:
        super().__init__()
        self.policy = policy
        self.names = type_names(policy)
        self.n_types = len(self.names)
        if self.n_types == 0:
            raise ValueError("the model carries no type adapters; call add_type_adapters first.")

    @classmethod
    def of_base(cls, model: nn.Module) -> "TypePolicies":
        """Around a base whose adapters are still to come, by `add`; until then it has no forward."""
        policies = cls.__new__(cls)
        nn.Module.__init__(policies)
        policies.policy, policies.names, policies.n_types = model, [], 0
        return policies

    def add(self, peft_config: LoraConfig, n_types: int, *, seed: int) -> None:
        """Put the adapters on the base, as `add_type_adapters` does."""
        self.policy = add_type_adapters(self.policy, peft_config, n_types, seed=seed)
        self.names = type_names(self.policy)
        self.n_types = len(self.names)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor, needs_grad: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities of completions under the types, nats.

        Args:
            input_ids, attention_mask, completion_mask: (n_sequences, seq_len), padded on any side.
            needs_grad: (n_sequences, n_types) bool, the cells to compute; None is all.

        Returns:
            (n_sequences, n_types); cells that were not asked for are 0.
        """
        if needs_grad is not None and needs_grad.shape != (len(input_ids), self.n_types):
            raise ValueError(
                f"needs_grad has shape {tuple(needs_grad.shape)}; it must be ({len(input_ids)}, {self.n_types}): one "
                "cell for each sequence and type."
            )
        batch = _packed(input_ids, attention_mask, completion_mask)
        layers = _tuner_layers(self.policy)
        columns = []
        for k, name in enumerate(self.names):
            wanted = None if needs_grad is None else needs_grad[:, k]
            if wanted is None or bool(wanted.any()):
                with _Route(layers, [name], False), folded(self.policy, name):
                    columns.append(self._column(batch, wanted))
            else:
                columns.append(self._nothing(layers, batch, name).expand(len(wanted)))
        return torch.stack(columns, dim=1)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """What `transformers.Trainer` calls; recomputation runs under the adapter of its forward.

        Raises:
            ValueError: reentrant checkpointing is asked for, which cannot be told whose adapter was active.
        """
        given = activation_checkpointing_kwargs or {}
        if given.get("use_reentrant"):
            raise ValueError(
                "gradient checkpointing with use_reentrant=True would recompute under the wrong adapter; leave it out "
                "(gradient_checkpointing_kwargs), non-reentrant checkpointing is used."
            )
        base, settings = self.policy.get_base_model(), given | checkpointing_kwargs(self.policy)
        if hasattr(base, "activation_checkpointing_enable"):
            base.activation_checkpointing_enable(activation_checkpointing_kwargs=settings, **options)
        else:  # an earlier transformers
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """The former name of `activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs)

    def _column(self, batch: tuple[Tensor, Tensor, Tensor], wanted: Tensor | None) -> Tensor:
        if wanted is None or bool(wanted.all()):
            return policy_logps(self.policy, *batch)
        numbers = wanted.nonzero()[:, 0]
        logps = policy_logps(self.policy, *_packed(*(tensor[numbers] for tensor in batch)))
        return logps.new_zeros(len(wanted)).index_copy(0, numbers, logps)

    def _nothing(self, layers: list[BaseTunerLayer], batch: tuple[Tensor, Tensor, Tensor], name: str) -> Tensor:
        """0 of a type that has nothing to compute, with gradients of exactly zero instead of None.

        Of several processes every one has to run the layers: weights in parts are gathered there, and ZeRO-2 takes it
        that gradients come in one order everywhere. Two tokens of the first row do that.
        """
        if torch.distributed.is_initialized():
            ids, mask = batch[0][:1, :2], torch.ones_like(batch[1][:1, :2])
            with _Route(layers, [name], False), folded(self.policy, name):
                return policy_logps(self.policy, ids, mask, mask) * 0.0
        nothing = torch.zeros(1, device=batch[0].device)
        if not torch.is_grad_enabled():
            return nothing
        held = (part for layer in layers for at, part in layer.named_parameters() if f".{name}." in f".{at}.")
        return sum(((part.float() * 0.0).sum().to(nothing.device) for part in held if part.requires_grad), nothing)


def _packed(input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Real tokens to the front, the common tail of pads cut off: three tensors (batch, longest)."""
    real = attention_mask.bool()
    longest = int(real.sum(1).max())
    if bool((real[:, 1:] & ~real[:, :-1]).any()):
        order = torch.argsort((~real).to(torch.uint8), dim=1, stable=True)
        input_ids, attention_mask, completion_mask = (
            tensor.gather(1, order) for tensor in (input_ids, attention_mask, completion_mask)
        )
    return input_ids[:, :longest], attention_mask[:, :longest], completion_mask[:, :longest]


def untrained_types(policies: TypePolicies) -> np.ndarray:
    """(n_types,) bool: adapters that add nothing yet (every B is 0), so that they are the reference.

    False of all where weights are divided among processes.
    """
    layers = [module for module in policies.policy.modules() if isinstance(module, BaseTunerLayer)]
    if is_sharded(policies.policy) or not all(isinstance(layer, LoraLayer) for layer in layers):
        return np.zeros(policies.n_types, dtype=bool)
    return np.array([not any(_adds(layer, name) for layer in layers) for name in policies.names])


def _adds(layer: LoraLayer, name: str) -> bool:
    """Whether a layer's adapter changes anything: always where it is not the product B A alone."""
    if name in layer.lora_variant or name in layer.lora_embedding_B:
        return True
    return name in layer.lora_B and any(bool(held.any()) for held in layer.lora_B[name].parameters())


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """A copy on the CPU of all type adapters, by parameter name; by all processes where weights are divided."""
    return {name: whole_tensor(parameter).cpu().clone() for name, parameter in _adapter_parameters(model)}


def restore_adapter_state(model: PeftModel, state: dict[str, Tensor]) -> None:
    """Write back what `adapter_state` gave; another set of names or shapes raises ValueError."""
    parameters = dict(_adapter_parameters(model))
    shapes = {name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in parameters.items()}
    different = sorted(
        {*parameters, *state} - {name for name in parameters if name in state and shapes[name] == state[name].shape}
    )
    if different:
        raise ValueError(
            f"the adapter state does not fit this model: {len(different)} parameters are missing or have another "
            f"shape, first {different[0]!r}. Restore it on a model with the same base, configuration and n_types."
        )
    with torch.no_grad(), whole(parameters.values(), write=True):
        for name, parameter in parameters.items():
            set_whole(parameter, state[name])


def _adapter_parameters(model: PeftModel) -> list[tuple[str, nn.Parameter]]:
    owned = re.compile(rf"lora_.*\.({'|'.join(type_names(model))})(\.|$)")
    return [(name, parameter) for name, parameter in model.named_parameters() if owned.search(name)]


def save_type_adapters(
    model: PeftModel,
    folder: str | Path,
    state_dict: dict[str, Tensor] | None = None,
    *,
    lies_at: str | Path | None = None,
) -> None:
    """Write `folder/type_k/`, each a plain PEFT adapter; type folders of a larger number of types are removed.

    Everything is written under other names first and renamed then: an interrupted save leaves no half-written adapter.

    Args:
        model: with its type adapters; in several processes call this on the main one.
        folder: made where it is missing.
        state_dict: the model's, or that of a `TypePolicies` around it; as gathered under ZeRO-3.
        lies_at: where the folder will be moved to; the way to the base is seen from there.
    """
    folder, names = Path(folder), type_names(model)
    folder.mkdir(parents=True, exist_ok=True)
    if state_dict is not None:
        state_dict = {name.removeprefix("policy."): tensor for name, tensor in state_dict.items()}
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        model.save_pretrained(
            partial,
            selected_adapters=names,
            save_embedding_layers=False,
            state_dict=state_dict,
            safe_serialization=True,
        )
        for name in names:
            write_base(Path(partial) / name, Path(lies_at or folder) / name)
            if (folder / name).exists():
                (folder / name).rename(Path(partial) / f"old_{name}")
            (Path(partial) / name).rename(folder / name)
    remove_types_from(folder, len(names))


def remove_types_from(folder: str | Path, k: int) -> None:
    """Remove `type_k`, `type_{k+1}`, … of a mixture that had more types."""
    while (Path(folder) / f"type_{k}" / CONFIG).is_file():
        shutil.rmtree(Path(folder) / f"type_{k}")
        k += 1


def load_type_adapters(
    model: nn.Module, folder: str | Path, n_types: int | None = None, trainable: bool = False
) -> PeftModel:
    """Put the adapters that `save_type_adapters` wrote on their base, in place.

    Args:
        model: the base they were trained on, without adapters.
        folder: holds `type_0`, `type_1`, …
        n_types: how many there must be; None takes all that are there.
        trainable: whether training goes on from them.

    Raises:
        ValueError: a folder or file is missing, the base carries adapters, or shapes differ. A base of another name
            is a warning.
    """
    _check_base(model)
    folders = _type_folders(Path(folder), n_types)
    configs = [read_adapter_config(path) for path in folders]
    for path, config in zip(folders, configs, strict=True):
        trained_on, given = base_of(config.base_model_name_or_path, path), getattr(model, "name_or_path", "")
        config.base_model_name_or_path = given or trained_on
        if trained_on and given and os.path.realpath(trained_on) != os.path.realpath(given):
            warnings.warn(f"{path} was trained on {trained_on!r}; the base given is {given!r}.", stacklevel=2)
        config.inference_mode = not trainable
        _check_config(config)
    with torch.random.fork_rng(), reading(folder, "The adapters"):  # the draws are overwritten
        policy = get_peft_model(model, configs[0], adapter_name="type_0")
        for k, config in enumerate(configs[1:], start=1):
            policy.add_adapter(f"type_{k}", config)
    read_type_adapters(policy, folder)
    policy.base_model.set_requires_grad(type_names(policy), trainable)
    return policy if trainable else policy.eval()


def read_type_adapters(model: PeftModel, folder: str | Path) -> None:
    """Overwrite the type adapters on a model by those in a folder; ValueError where one is missing or does not fit."""
    names = type_names(model)
    for name, path in zip(names, _type_folders(Path(folder), len(names)), strict=True):
        tensors = read_tensors(path / WEIGHTS)
        needed = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        require_tensors(tensors, needed, path / WEIGHTS, "Give the base it was trained on.")
        set_peft_model_state_dict(model, tensors, adapter_name=name)


def _type_folders(folder: Path, n_types: int | None) -> list[Path]:
    def complete(k: int) -> bool:
        return all((folder / f"type_{k}" / name).is_file() for name in (CONFIG, WEIGHTS))

    k = 0
    while complete(k) and k != n_types:
        k += 1
    if k == 0 or n_types not in (None, k):
        raise ValueError(
            f"{str(folder)!r} holds no complete adapter type_{k} (with {CONFIG} and {WEIGHTS}); "
            f"{'at least one type' if n_types is None else f'{n_types} types'} must be there. Give a folder written "
            "by save_type_adapters or the mixture-DPO trainer."
        )
    return [folder / f"type_{number}" for number in range(k)]
