"""PAL reward models on disk and on the hub: safetensors, config.json, annotators.json, a model card."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from palign.contents import reading_whole
from palign.data.annotators import AnnotatorIndex
from palign.models.files.adapter_files import base_of, load_adapter, portable_base, write_base
from palign.models.files.base_files import plain_state, require_finite_parts, require_fitting
from palign.models.files.card import PAL, base_note, named, render, shown, table
from palign.models.pal_config import PALConfig
from palign.parallel.sharded import is_sharded
from palign.reading import read_tensors, reading, require_files, require_tensors
from palign.writing import whole_files

if TYPE_CHECKING:
    from palign.models.pal import PALRewardModel

__all__ = [
    "load_backbone_state",
    "load_model",
    "load_own_state",
    "pal_card",
    "push_model",
    "save_model",
    "written_backbone",
]

WEIGHTS, CONFIG, ANNOTATORS = "model.safetensors", "config.json", "annotators.json"
BACKBONE, ADAPTER, ADAPTER_CONFIG = "backbone", "backbone_adapter", "adapter_config.json"


def pal_card(model: "PALRewardModel", *, n_rows: int | None = None) -> str:
    """The README.md of a reward model; `n_rows` judgements that it was trained on, where that is known."""
    config = model.config
    with torch.no_grad():
        weights = model.people.all()
    largest = torch.bincount(weights.argmax(1), minlength=model.n_prototypes).tolist()
    types = ((f"`prototype_{k}`", f"{model.people.mean[k]:.2f}", n) for k, n in enumerate(largest))
    return render(
        PAL,
        n_prototypes=model.n_prototypes,
        n_annotators=len(model.annotators),
        variant=shown(config.variant),
        backbone=f"backbone `{named(config.backbone)}`" if config.backbone else "ready vectors",
        types=table(types),
        base_note=base_note(config.backbone),
        n_rows="Judgements" if n_rows is None else f"{n_rows:,} judgements",
    )


def save_model(
    model: "PALRewardModel",
    folder: Path,
    card: str | None = None,
    *,
    backbone_state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model; it is complete or none, whenever the process is killed.

    `backbone_state`: what `written_backbone` gave where the backbone is divided among processes.
    """
    with whole_files(folder, last=CONFIG) as partial_folder:
        _write_model(model, partial_folder, folder, card, backbone_state)


def written_backbone(model: "PALRewardModel") -> dict[str, torch.Tensor] | None:
    """The tensors of a divided backbone that is to be written; None where it has a name of its own, or is whole.

    All processes call it; what they get is as of `plain_state`.
    """
    if model.config.backbone != BACKBONE or not is_sharded(model):
        return None
    return plain_state(_inner_backbone(model))


def _inner_backbone(model: "PALRewardModel") -> torch.nn.Module:
    backbone = model.backbone.model
    return backbone.get_base_model() if hasattr(backbone, "peft_config") else backbone


def _write_model(
    model: "PALRewardModel",
    folder: Path,
    lies_at: Path,
    card: str | None,
    backbone_state: dict[str, torch.Tensor] | None,
) -> None:
    adapter = model.backbone is not None and hasattr(model.backbone.model, "peft_config")
    config = dataclasses.replace(model.config, backbone_adapter=adapter)
    if config.backbone != BACKBONE:
        config.backbone = portable_base(config.backbone, lies_at)
    if model.backbone is not None:
        if adapter:
            model.backbone.model.save_pretrained(folder / ADAPTER)
            if config.backbone == BACKBONE:
                _keep_start(folder / ADAPTER / ADAPTER_CONFIG)
            write_base(folder / ADAPTER, lies_at / ADAPTER)
        if config.backbone == BACKBONE:
            inner = _inner_backbone(model)
            if backbone_state is None and adapter:
                backbone_state = plain_state(inner)  # adapter layers inside it are left to the adapter's folder
            inner.save_pretrained(folder / BACKBONE, state_dict=backbone_state)
            model.backbone.tokenizer.save_pretrained(folder / BACKBONE)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in own_state(model).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    model.annotators.save(folder / ANNOTATORS)
    config.save(folder / CONFIG)
    (folder / "README.md").write_text(pal_card(model) if card is None else card, encoding="utf-8")


def _keep_start(file: Path) -> None:
    """Say that the adapter starts plainly.

    PiSSA, OLoRA and the like have changed the base that is saved beside it, and would change it again at loading.
    """
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("init_lora_weights") not in (True, False, None):
        config["init_lora_weights"] = True
        file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def own_state(model: "PALRewardModel") -> dict[str, torch.Tensor]:
    """What PAL adds: head and people, not the backbone."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}


def load_model(cls: "type[PALRewardModel]", name_or_path: str, options: dict[str, Any]) -> "PALRewardModel":
    """Read what `save_model` wrote, here or on the hub."""
    from palign.models.model_folders import looks_like_path

    if looks_like_path(name_or_path) or Path(name_or_path).exists():
        folder = Path(name_or_path).expanduser()
    else:
        from huggingface_hub import snapshot_download

        options = dict(options)  # the revision is that of this repository, not of the backbone's
        try:
            folder = Path(snapshot_download(name_or_path, revision=options.pop("revision", None)))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{name_or_path!r} is no folder here, and as a model of the hub it cannot be had "
                f"({type(error).__name__}). Check the name; give a folder that PALRewardModel.save_pretrained or "
                "recipes/pal_reward.py wrote."
            ) from error
    advice = "Give a folder that PALRewardModel.save_pretrained or recipes/pal_reward.py wrote to its end."
    needed = (CONFIG, WEIGHTS, ANNOTATORS)
    require_files(folder, needed, "is not a PAL reward model", advice, named=name_or_path)
    with reading_whole(folder):
        config = PALConfig.load(folder / CONFIG)
        people, backbone = AnnotatorIndex.load(folder / ANNOTATORS), _load_backbone(config, folder, options)
        with reading(folder, "The reward model"):
            model = cls(config, people, backbone)
        load_own_state(model, folder)
        return model.eval()


def load_own_state(model: "PALRewardModel", folder: Path) -> None:
    """Head and people of a folder into a model of the same configuration and people."""
    state, model_state = read_tensors(folder / WEIGHTS), own_state(model)
    for name in ("support", "log_prior"):  # their length is that of the saved population
        model_state[f"people.{name}"] = state.get(f"people.{name}")
        if model_state[f"people.{name}"] is not None:
            setattr(model.people, name, torch.empty_like(model_state[f"people.{name}"], device=model.device))
    wrong = [
        name
        for name in sorted(model_state.keys() | state.keys())
        if name not in model_state or name not in state or model_state[name].shape != state[name].shape
    ]
    if wrong:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit {CONFIG} and {ANNOTATORS} beside it: {', '.join(wrong[:3])} missing, "
            "unexpected or of another shape. The files are of different models; save the model again."
        )
    _check_population(state, folder / WEIGHTS)
    model.load_state_dict(state, strict=False)


def _check_population(state: dict[str, torch.Tensor], path: Path) -> None:
    """ValueError where the population's weights are none."""
    support, mean, log_prior = (state[f"people.{name}"] for name in ("support", "mean", "log_prior"))
    shares = torch.cat([support, mean[None]]) if support.shape[1:] == mean.shape else None
    fits = shares is not None and log_prior.shape == support.shape[:1] and len(support) > 0
    if not fits or (shares < -1e-6).any() or (shares.sum(1) - 1).abs().max() > 1e-3:
        raise ValueError(
            f"{path}: people.mean and people.support are no weights that sum to 1. Give a whole copy of the folder."
        )


def load_backbone_state(model: "PALRewardModel", folder: Path) -> None:
    """A trained backbone, LoRA or whole, out of a folder that `save_model` wrote, into a model that has its like."""
    if (folder / ADAPTER).is_dir() and hasattr(model.backbone.model, "peft_config"):
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        path = folder / ADAPTER / "adapter_model.safetensors"
        tensors = read_tensors(path)
        require_tensors(tensors, get_peft_model_state_dict(model.backbone.model), path)
        set_peft_model_state_dict(model.backbone.model, tensors)
    elif (folder / BACKBONE).is_dir():
        saved = type(model.backbone.model).from_pretrained(folder / BACKBONE, use_safetensors=True)
        model.backbone.model.load_state_dict(saved.state_dict())


def push_model(model: "PALRewardModel", repo_id: str, private: bool | None, token: str | None) -> str:
    """Upload to the hub; returns the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="PAL reward model"))


def _load_backbone(config: PALConfig, folder: Path, options: dict[str, Any]) -> Any:
    if config.backbone is None:
        return None
    from palign.models.backbones import Backbone

    is_inside = config.backbone == BACKBONE
    source = str(folder / BACKBONE) if is_inside else base_of(config.backbone, folder)
    defaults = {
        "revision": config.backbone_revision,
        "pooling": config.pooling,
        "layer": config.layer,
        "normalize": config.normalize,
        "max_length": config.max_length,
    }
    with reading(source, "The backbone"):
        backbone = Backbone.from_pretrained(source, **(defaults | options))
    if is_inside:
        _require_saved(backbone.model, folder / BACKBONE)
        require_fitting(backbone.tokenizer, backbone.model, source)
    if config.backbone_adapter:
        backbone.model = load_adapter(backbone.model, folder / ADAPTER)
    return backbone


def _require_saved(model: torch.nn.Module, folder: Path) -> None:
    """ValueError where a backbone has a tensor that its folder lacks (transformers draws a new one), or no numbers."""
    held: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        held |= read_tensors(path)
    heads = ("", *{f"{name.split('.')[0]}." for name in held})  # a whole language model has one more word in front
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    lacking = [
        name
        for name, _ in model.named_parameters()
        if name not in tied and not name.startswith("pooler.") and not any(head + name in held for head in heads)
    ]
    if lacking:
        raise ValueError(
            f"{str(folder)!r} lacks {len(lacking)} tensors of the backbone, first {lacking[0]!r}; new ones would be "
            "drawn at random. Give a whole copy of the folder."
        )
    require_finite_parts(model, folder)
