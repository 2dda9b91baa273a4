"""The reward of a person, a prototype, the population or any weights, as a folder that stock programs load."""

import copy
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from palign.models.architectures import mark_ids, special_ids
from palign.models.classifier import configuration_palign_reward, modeling_palign_reward
from palign.models.classifier.boundary import Boundary, boundary_of
from palign.models.classifier.configuration_palign_reward import PalignRewardConfig
from palign.models.classifier.modeling_palign_reward import PalignRewardForSequenceClassification, RewardHead
from palign.models.files.card import CLASSIFIER, named, render
from palign.models.pal_config import OURS
from palign.models.scoring_inputs import checked_weights
from palign.writing import whole_files

if TYPE_CHECKING:
    from palign.models.pal import PALRewardModel

__all__ = ["Exported", "export_classifier", "stock_rewards"]

CODE = "modeling_palign_reward"
TOLERANCE = 1e-5  # of a reward, or of its size where that is above 1
PROBES = (
    ("Is tea better cold?", "No, tea is best hot."),
    ("Name an animal.", "A cat"),
    ("What should I have for breakfast tomorrow, when it rains?", "Toast. And milk, if you like it!"),
    ("Yes or no?", "yes"),
)


@dataclass(frozen=True)
class Exported:
    """What was written: how far its rewards are from the model's at most, on `PROBES`; how it reads questions."""

    largest_difference: float
    reads_turns: bool


def export_classifier(
    model: "PALRewardModel", folder: str | Path, *, weights: Tensor, deviation: Tensor | None = None
) -> Exported:
    """Write the reward of some weights as a sequence classifier with one label.

    Args:
        model: on a backbone.
        folder: gets config.json, model.safetensors, the tokenizer, one file of code and a card.
        weights: (n_prototypes,) on the simplex.
        deviation: (personal_dim,) of the person, where the model has such.

    Raises:
        ValueError: a model of vectors, a head of the user's own, a backbone of remote code, or one whose tokenizer
            does not let the answer be found.
        RuntimeError: the classifier's rewards are not the model's.
    """
    _require_exportable(model)
    weights = checked_weights(weights, 1, model.n_prototypes, torch.device("cpu"))[0]
    backbone = model.backbone
    boundary = boundary_of(backbone.tokenizer, plain_prompts=model.plain_prompts, is_causal=backbone.is_causal)
    transformer = _merged(backbone.model)
    config = _config(model, transformer, boundary, has_deviation=deviation is not None)
    classifier = _classifier(config, transformer, _head(model, config, weights, deviation))
    difference = _largest_difference(model, classifier, boundary, weights, deviation)
    with whole_files(Path(folder), last="config.json") as partial_folder:
        classifier.save_pretrained(partial_folder)
        boundary.tokenizer.model_max_length = config.longest_input
        boundary.tokenizer.save_pretrained(partial_folder)
        (partial_folder / f"{CODE}.py").write_text(one_file(), encoding="utf-8")
        _name_code(partial_folder / "config.json")
        _name_tokenizer(partial_folder / "tokenizer_config.json")
        card = render(CLASSIFIER, backbone=named(model.config.backbone), pooling=config.pooling)
        (partial_folder / "README.md").write_text(card, encoding="utf-8")
    return Exported(difference, boundary.is_turn)


def _require_exportable(model: "PALRewardModel") -> None:
    if model.backbone is None:
        raise ValueError(
            "This reward model takes ready vectors and has no backbone: there is no text classifier to make of it. "
            "Give a model that was trained on texts."
        )
    if model.config.variant not in OURS:
        raise ValueError(
            f"The head {model.config.variant!r} is of your own code, which the exported folder would need. Heads that "
            f"are exported: {', '.join(OURS)}. Serve this reward instead (palign serve)."
        )
    if not type(model.backbone.model).__module__.startswith(("transformers.", "peft.")):
        raise ValueError(
            f"The backbone is a {type(model.backbone.model).__name__}, which is not a class of transformers: the "
            "exported folder would need its code. Serve this reward instead (palign serve)."
        )
    if model.backbone.is_causal and special_ids(model.backbone.tokenizer, is_causal=False)[1]:
        raise ValueError(
            "The tokenizer puts special tokens behind every text, which this causal backbone does not read; stock "
            "programs would. Make the tokenizer leave them out (add_eos_token=False, say) and train again."
        )


def _merged(transformer: nn.Module) -> nn.Module:
    """The transformer with its LoRA weights in place; itself where it has none."""
    if not hasattr(transformer, "peft_config"):
        return transformer
    return copy.deepcopy(transformer).merge_and_unload()


def _config(
    model: "PALRewardModel", transformer: nn.Module, boundary: Boundary, *, has_deviation: bool
) -> PalignRewardConfig:
    backbone, shape = model.backbone, model.config
    prefix, suffix = special_ids(backbone.tokenizer, backbone.is_causal)
    start_token = getattr(backbone.tokenizer, "bos_token_id", None) if backbone.is_causal and not prefix else None
    return PalignRewardConfig(
        backbone_config=copy.deepcopy(transformer.config),
        head=shape.variant,
        similarity=str(shape.similarity),
        preference_dim=shape.preference_dim,
        inner_size=shape.inner_size,
        n_layers=shape.n_layers,
        n_prototypes=shape.n_prototypes if shape.variant == "prompt" else 1,
        has_deviation=has_deviation,
        reward_scale=shape.temperature,
        scaling=shape.scaling,
        pooling=backbone.pooling,
        layer=backbone.layer,
        normalize=backbone.normalize,
        longest_input=backbone.max_length,
        sees_only_the_past=backbone.is_causal,
        prefix_ids=prefix,
        suffix_ids=suffix,
        empty_prompt_ids=[] if start_token is None else [start_token],
        special_ids=mark_ids(backbone.tokenizer),
        mark_id=boundary.mark_id,
        written_ids=boundary.written_ids,
        read_ids=boundary.read_ids,
        pad_token_id=boundary.tokenizer.pad_token_id,
        id2label={0: "reward"},
        label2id={"reward": 0},
    )


@torch.no_grad()
def _head(
    model: "PALRewardModel", config: PalignRewardConfig, weights: Tensor, deviation: Tensor | None
) -> RewardHead:
    """The head with the person folded in, on the CPU."""
    source, head = copy.deepcopy(model.head).cpu().eval(), RewardHead(config)
    head.center.copy_(source.standardize.center)
    head.scale.copy_(source.standardize.scale)
    if source.log_scale is not None:
        head.log_scale.copy_(source.log_scale)
    if config.head != "linear":
        _copy_layers(head.f, source.f)
    if config.head == "prompt":
        head.prompt_center.copy_(source.standardize_prompt.center)
        head.prompt_scale.copy_(source.standardize_prompt.scale)
        head.weights.copy_(weights)
        for network, other in zip(head.g, source.g, strict=True):
            _copy_layers(network, other)
    else:
        head.ideal_point.copy_(source.ideal_points(weights[None])[0])
    if deviation is not None:
        own = copy.deepcopy(model.deviations).cpu()
        head.deviation_center.copy_(own.center)
        head.deviation.copy_(own.basis @ deviation.to(own.basis))
    return head


def _copy_layers(layers: nn.ModuleList, network: nn.Sequential) -> None:
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, other in zip(layers, linear, strict=True):
        layer.load_state_dict(other.state_dict())


def _classifier(
    config: PalignRewardConfig, transformer: nn.Module, head: RewardHead
) -> PalignRewardForSequenceClassification:
    """Around the transformer as it is: no second copy of it is made."""
    with torch.device("meta"):
        classifier = PalignRewardForSequenceClassification(config)
    classifier.model, classifier.score = transformer, head.to(next(transformer.parameters()).device)
    return classifier.eval()


def _largest_difference(
    model: "PALRewardModel",
    classifier: PalignRewardForSequenceClassification,
    boundary: Boundary,
    weights: Tensor,
    deviation: Tensor | None,
) -> float:
    """Between the two rewards of `PROBES`; in either of the ways that callers tokenise."""
    prompts, completions = zip(*PROBES, strict=True)
    options = {} if deviation is None else {"deviations": deviation.expand(len(PROBES), -1).to(model.device)}
    wanted = model.score(prompts, completions, weights=weights, **options).cpu()
    ways = [stock_rewards(classifier, boundary.tokenizer, PROBES, special=special) for special in (False, True)]
    difference = max(float((found - wanted).abs().max()) for found in ways)
    scale = max(1.0, float(wanted.abs().max()))
    is_whole = next(classifier.model.parameters()).dtype in (torch.float32, torch.float64)
    if not difference <= TOLERANCE * scale and is_whole:
        raise RuntimeError(
            f"The classifier's rewards are up to {difference:.2g} from the model's, on {len(PROBES)} short texts; "
            "nothing was written. The tokenizer or its chat template writes a text as a whole otherwise than in its "
            "parts. Serve this reward instead (palign serve)."
        )
    return difference


@torch.no_grad()
def stock_rewards(classifier: nn.Module, tokenizer: Any, pairs: Any, *, special: bool = False) -> Tensor:
    """Rewards (n,) of (question, answer) pairs, as any program asks a classifier for them.

    Args:
        special: whether the tokenizer is asked to put its special tokens around the text.
    """
    turns = [[{"role": "user", "content": p}, {"role": "assistant", "content": c}] for p, c in pairs]
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in turns]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=special).to(classifier.device)
    return classifier(**batch).logits[:, 0].float().cpu()


def one_file() -> str:
    """Configuration and model as one file without an import of palign."""
    parts = [inspect.getsource(module) for module in (configuration_palign_reward, modeling_palign_reward)]
    lines = [line for line in parts[1].splitlines() if not line.startswith("from palign.")]
    return "\n\n".join([parts[0].rstrip(), "\n".join(lines)]).rstrip() + "\n"


def _name_code(path: Path) -> None:
    """Say in config.json where the code lies, and say of the backbone what versions 4 of transformers look for."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries["architectures"] = [PalignRewardForSequenceClassification.__name__]
    entries["auto_map"] = {
        "AutoConfig": f"{CODE}.{PalignRewardConfig.__name__}",
        "AutoModelForSequenceClassification": f"{CODE}.{PalignRewardForSequenceClassification.__name__}",
    }
    backbone = entries["backbone_config"]
    backbone.pop("_name_or_path", None)  # a folder of this machine
    rotary = backbone.get("rope_parameters") or {}
    if "rope_theta" in rotary:  # versions 4 would take their default in silence
        backbone.setdefault("rope_theta", rotary["rope_theta"])
        if rotary.get("rope_type", "default") != "default":
            backbone.setdefault("rope_scaling", {key: rotary[key] for key in rotary if key != "rope_theta"})
    path.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _name_tokenizer(path: Path) -> None:
    """The class and the settings by the names that versions 4 of transformers know, too."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only"):
        entries.pop(name, None)
    if entries.get("tokenizer_class") == "TokenizersBackend":
        entries["tokenizer_class"] = "PreTrainedTokenizerFast"
    content, template = path.with_name("tokenizer.json"), path.with_name("chat_template.jinja")
    if content.is_file():
        splitter = json.loads(content.read_text(encoding="utf-8")).get("pre_tokenizer") or {}
        if "add_prefix_space" in splitter:  # versions 4 would switch it off
            entries.setdefault("add_prefix_space", splitter["add_prefix_space"])
    if template.is_file():
        entries["chat_template"] = template.read_text(encoding="utf-8")
    path.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
