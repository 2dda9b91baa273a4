"""What kind of model lies at a path, told from its files before anything heavy is read."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from palign.conditioning import PolicyConditioning, conditioning_of, reads_plain_prompts
from palign.models.files.adapter_files import base_of, check_adapter_config
from palign.models.files.game import GAME, SMALLEST_BETA
from palign.models.files.mixture import BASE, load_mixture
from palign.models.metric.config import MetricConfig
from palign.models.model_folders import looks_like_path, read_json, require_model_folder
from palign.models.pal_config import PALConfig
from palign.reading import number_in

__all__ = ["KNOWN", "ModelKind", "ModelSource", "recognise"]

KNOWN = (
    "a PAL reward model (recipes/pal_reward.py), a metric (recipes/metric.py), a mixture (recipes/em_dpo.py), a fair "
    "policy (recipes/fair_policy.py), a PEFT adapter, or a transformers model for sequence classification with one "
    "label or for causal language modelling"
)
DEFAULT_BETA = 0.1


class ModelKind(StrEnum):
    """How a model gives a completion a score."""

    PAL = "PAL reward model"
    METRIC = "metric of all"
    MIXTURE = "mixture of policies"
    FAIR_POLICY = "fair policy"
    ADAPTER = "policy adapter"
    REWARD = "reward model"
    REWARD_ADAPTER = "reward model adapter"
    CAUSAL = "causal language model"


@dataclass(frozen=True)
class ModelSource:
    """A model that is known by its files.

    Attributes:
        name: in the report.
        path: folder or hub name.
        kind: how it scores.
        base: of an adapter, the model that it lies on; of a causal language model, the reference.
        beta: of implicit rewards β·(log π − log π_ref); None where the kind has none.
        reads_vectors: of a PAL model or a metric, whether its items are vectors.
        image_encoder: of a PAL model on images, the content key of the encoder of its vectors.
        backbone: what the model reads texts with, by a name; None where no file says so.
        conditioning: of a policy, how it was told who is asking; None where no file says so.
        plain_prompts: whether it reads plain prompts bare, or as turns (`palign.data.turns`); None where no file says
            so, and the user or the tokenizer decides.
    """

    name: str
    path: str
    kind: ModelKind
    base: str | None = None
    beta: float | None = None
    reads_vectors: bool = False
    backbone: str | None = None
    conditioning: PolicyConditioning | None = None
    plain_prompts: bool | None = None
    image_encoder: str | None = None


def recognise(
    path: str, *, name: str = "", reference: str | None = None, base: str | None = None, beta: float | None = None
) -> ModelSource:
    """What lies at a folder or hub name.

    Args:
        path: see `KNOWN`.
        name: in the report; that of the folder if empty.
        reference: the language model that a plain causal language model is measured against.
        base: of an adapter, where its configuration names none that is there.
        beta: of implicit rewards, where no file says it; .1 if unset.

    Raises:
        ValueError: nothing is there, or nothing of these; a model with several labels; a language model without a
            reference; an adapter without its base. No weights have been read.
    """
    name = name or Path(path).name or path
    if looks_like_path(path) and not Path(path).expanduser().is_dir():
        raise ValueError(f"{path!r} is named as a model, and there is no such folder. Give {KNOWN}.")
    config = read_json(path, "config.json", None)
    if isinstance(config, dict) and config.get("model_type") == PALConfig.model_type:
        return ModelSource(name, path, ModelKind.PAL, **_items(config), image_encoder=config.get("image_encoder"))
    if isinstance(config, dict) and config.get("model_type") == MetricConfig.model_type:
        return ModelSource(name, path, ModelKind.METRIC, **_items(config))
    if looks_like_path(path) and (Path(path).expanduser() / "mixture.json").is_file():
        record = load_mixture(path)
        require_model_folder(record.base_model or str(Path(path).expanduser() / BASE))
        return ModelSource(name, path, ModelKind.MIXTURE, beta=record.beta, backbone=_short(record.base_model))
    adapter = read_json(path, "adapter_config.json", None)
    if isinstance(adapter, dict):
        return _adapter(path, name, adapter, base, beta)
    if isinstance(config, dict):
        return _whole(path, name, config, reference, beta)
    holds = f"it holds no config.json, adapter_config.json or mixture.json{_contents(path)}"
    raise ValueError(f"{path!r} is no model that can be judged: {holds}. Give {KNOWN}.")


def _items(config: dict[str, Any]) -> dict[str, Any]:
    """What the items of a PAL model or a metric are, by its configuration."""
    backbone, vectors = config.get("backbone"), "vectors of images" if config.get("image_encoder") else "ready vectors"
    return {"reads_vectors": backbone is None, "backbone": vectors if backbone is None else _short(backbone)}


def _adapter(path: str, name: str, config: dict[str, Any], base: str | None, beta: float | None) -> ModelSource:
    check_adapter_config(config, f"{path}/adapter_config.json")
    named = config.get("base_model_name_or_path")
    if named is not None and not isinstance(named, str):
        raise ValueError(f"{path}/adapter_config.json: base_model_name_or_path is {str(named)[:60]!r}, and no text.")
    under = base or (base_of(named, Path(path).expanduser()) if looks_like_path(path) else named)
    if not under:
        raise ValueError(f"The adapter {path!r} does not say what it was trained on: give --base_path.")
    if looks_like_path(str(under)) and not Path(str(under)).expanduser().is_dir():
        raise ValueError(
            f"The adapter {path!r} was trained on {under!r}, and there is no such folder here: give --base_path."
        )
    require_model_folder(str(under))
    if config.get("task_type") == "SEQ_CLS":
        return ModelSource(name, path, ModelKind.REWARD_ADAPTER, base=str(under))
    game = read_json(path, GAME, None)
    if game is not None:
        number_in(game, "beta", f"{path}/{GAME}", least=SMALLEST_BETA)
        return ModelSource(
            name,
            path,
            ModelKind.FAIR_POLICY,
            base=str(under),
            backbone=_short(under),
            beta=float(game["beta"]),
            plain_prompts=bool(game.get("plain_prompts", True)),
        )
    return _policy(name, path, ModelKind.ADAPTER, str(under), beta)


def _whole(path: str, name: str, config: dict[str, Any], reference: str | None, beta: float | None) -> ModelSource:
    """A whole transformers model, not an adapter."""
    require_model_folder(path)
    named = config.get("architectures") or []
    heads = [str(head) for head in named] if isinstance(named, list) else []
    if any(head.endswith("ForSequenceClassification") for head in heads):
        labels, number = config.get("id2label"), config.get("num_labels", 2)
        n_labels = len(labels) if isinstance(labels, dict) and labels else number
        if n_labels != 1:
            raise ValueError(
                f"{path!r} classifies into {n_labels} labels; a reward model has one (num_labels=1), its score."
            )
        return ModelSource(name, path, ModelKind.REWARD)
    if any(head.endswith(("ForCausalLM", "LMHeadModel")) for head in heads):
        if reference is None:
            raise ValueError(
                f"{path!r} is a causal language model; its implicit reward β·(log π − log π_ref) needs the model it "
                "was trained from: give --reference_path."
            )
        if read_json(reference, "config.json", None) is None:
            raise ValueError(f"--reference_path names {reference!r}, which holds no config.json; give a model.")
        require_model_folder(reference)
        return _policy(name, path, ModelKind.CAUSAL, reference, beta)
    head_names = ", ".join(heads) or "none"
    raise ValueError(f"{path!r} has the head {head_names}, which gives no score of a completion. Give {KNOWN}.")


def _policy(name: str, path: str, kind: ModelKind, base: str, beta: float | None) -> ModelSource:
    beta = DEFAULT_BETA if beta is None else beta
    plain = reads_plain_prompts(path)
    if plain is None and looks_like_path(path):  # the adapter of one type, beside the mixture's file
        record = read_json(str(Path(path).expanduser().resolve().parent), "mixture.json", None)
        plain = bool(record.get("plain_prompts", True)) if isinstance(record, dict) else None
    known = {"backbone": _short(base), "conditioning": conditioning_of(path), "plain_prompts": plain}
    return ModelSource(name, path, kind, base=base, beta=beta, **known)


def _short(base: object) -> str | None:
    """A hub name as it is, and of a folder its name."""
    return None if base is None else Path(str(base)).name if looks_like_path(str(base)) else str(base)


def _contents(path: str) -> str:
    if not looks_like_path(path):
        return ""
    names = sorted(file.name for file in Path(path).expanduser().iterdir())
    return f" (but {', '.join(names[:8])}{' …' if len(names) > 8 else ''})" if names else " (it is empty)"
