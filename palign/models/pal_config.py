"""What a PAL reward model is made of, as `config.json` holds it."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from palign.functional.ideal_point import Similarity
from palign.models.heads import (
    FixedPointHead,
    LinearHead,
    MetricHead,
    Mixing,
    PointHead,
    PromptPointHead,
    Scaling,
    Standardize,
)
from palign.reading import read_json

__all__ = ["PALConfig", "register_head"]

OURS = {"fixed": FixedPointHead, "linear": LinearHead, "metric": MetricHead, "prompt": PromptPointHead}
VARIANTS: dict[str, type[PointHead]] = dict(OURS)


def register_head(name: str, head: type[PointHead]) -> None:
    """Let `variant=name` mean a head of your own, in `PALConfig` and `--variant`, and in saved models that are read.

    A saved model holds the name alone and no code: call this before reading one, too.

    Args:
        name: of the variant; a name that was registered before now means the new head.
        head: a `PointHead` made by `head(hidden_size, n_prototypes=…, preference_dim=…, inner_size=…, n_layers=…,
            dropout=…, similarity=…)`, a `FixedPointHead` also with `mixing=…`.
    """
    if not (isinstance(head, type) and issubclass(head, PointHead)):
        raise TypeError(f"head is {head!r}; it must be a subclass of palign.models.heads.PointHead.")
    if name in OURS:
        raise ValueError(f"{name!r} is a head of palign; give yours another name.")
    VARIANTS[name] = head


@dataclass
class PALConfig:
    """Architecture of a `PALRewardModel`.

    Attributes:
        hidden_size: width of the pooled states.
        n_prototypes: K; 1 is the ordinary reward model that serves one average person.
        variant: `fixed` (PAL-A: the ideal point does not depend on the prompt), `prompt` (PAL-B), `linear` (directions
            fitted by EM), `metric` (one linear map, points mixed among the states: sets `n_layers` and `mixing`) or a
            name given to `register_head`.
        mixing: `latent`, `projected` or `input`, where the `fixed` variant mixes its prototypes.
        similarity: `squared_distance`, `distance` or `cosine`; None takes that of the variant (PAL-B: cosine; linear:
            `inner_product`).
        preference_dim: width of the preference space.
        inner_size, n_layers, dropout: of f and of each g_k; one layer is a linear map.
        scaling: what the head does to centred states: `common` (one scale for all) or `unit` (each to one length; not
            of a linear head).
        partition: one-hot weights at evaluation.
        temperature: what rewards are multiplied by, fitted on people held out; 1 leaves them.
        personal_dim: width of everybody's deviation from their mixture (`palign.models.people_deviations`); 0: none.
        personal_ridge: strength of its shrinkage to zero.
        image_encoder: content key of the encoder whose vectors of images the items are; None for others.
        backbone: hub name or path of the backbone, `backbone` for the folder inside the saved model, None for vectors.
        backbone_revision: of the hub name.
        backbone_adapter: whether the saved model holds LoRA weights for the backbone.
        pooling, layer, normalize, max_length: of the backbone.
        plain_prompts: whether plain prompts and completions are read bare, or as turns (`palign.data.turns`); models
            saved before there was a choice read them bare.
    """

    hidden_size: int
    n_prototypes: int = 4
    variant: str = "fixed"
    mixing: str = "latent"
    similarity: str | None = None
    preference_dim: int = 32
    inner_size: int = 64
    n_layers: int = 2
    dropout: float = 0.4
    scaling: str = "common"
    partition: bool = False
    temperature: float = 1.0
    personal_dim: int = 0
    personal_ridge: float = 1.0
    image_encoder: str | None = None
    backbone: str | None = None
    backbone_revision: str | None = None
    backbone_adapter: bool = False
    pooling: str | None = None
    layer: int | None = None
    normalize: bool = False
    max_length: int = 1024
    plain_prompts: bool = True
    model_type: str = "palign_pal_reward"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(
                f"variant is {self.variant!r}; it must be 'fixed' (PAL-A), 'prompt' (PAL-B), 'linear', 'metric' or a "
                "head of your own, named by palign.models.pal_config.register_head before."
            )
        allowed = [kind.value for kind in Mixing]
        if self.mixing not in allowed:
            raise ValueError(f"mixing is {self.mixing!r}; it must be one of {', '.join(allowed)}.")
        allowed = [kind.value for kind in Scaling]
        if self.scaling not in allowed:
            raise ValueError(f"scaling is {self.scaling!r}; it must be one of {', '.join(allowed)}.")
        if self.variant == "metric":
            self.n_layers, self.mixing = 1, Mixing.PROJECTED.value
        if self.similarity is None:
            self.similarity = VARIANTS[self.variant].default_similarity.value
        allowed = [kind.value for kind in Similarity]
        if self.similarity not in allowed:
            raise ValueError(f"similarity is {self.similarity!r}; it must be one of {', '.join(allowed)}.")
        for name in ("hidden_size", "n_prototypes", "preference_dim", "inner_size", "n_layers"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} is {number!r}; it must be a whole number, at least 1.")
        for name in ("temperature", "personal_ridge"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be positive and finite.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1).")

    def make_head(self) -> PointHead:
        """A fresh head of this architecture."""
        options = {
            name: getattr(self, name)
            for name in ("n_prototypes", "preference_dim", "inner_size", "n_layers", "dropout", "similarity")
        }
        kind = VARIANTS[self.variant]
        if issubclass(kind, FixedPointHead):
            options["mixing"] = self.mixing
        head = kind(self.hidden_size, **options)
        head.temperature = self.temperature
        for module in head.modules():
            if isinstance(module, Standardize):
                module.scaling = Scaling(self.scaling)
        return head

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(self.to_json_string(), encoding="utf-8")

    def to_json_string(self) -> str:
        """JSON, also for loggers that ask a model's configuration for it."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_dict(self) -> dict[str, object]:
        """The fields."""
        return asdict(self)

    @classmethod
    def load(cls, path: Path) -> "PALConfig":
        """Read what `save` wrote; ValueError when the file is something else's."""
        entries = read_json(path, dict)
        if entries.get("model_type") != cls.model_type:
            raise ValueError(
                f"{path} is the configuration of a {entries.get('model_type', 'model of unknown type')!r}, not of a "
                f"PAL reward model ({cls.model_type!r}). Give a folder that PALRewardModel.save_pretrained wrote."
            )
        known = {item.name: item.type for item in fields(cls)}
        for name, value in entries.items():
            if name in known and not _is_a(value, known[name]):
                raise ValueError(f"{path}: {name} is {str(value)[:60]!r}, which it cannot be.")
        try:
            return cls(**{name: value for name, value in entries.items() if name in known})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None


def _is_a(value: object, kind: Any) -> bool:
    """Whether a value of JSON is of a field's kind; a whole number is a float, too, and a bool is no number."""
    kinds = get_args(kind) or (kind,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, int) if float in kinds else kinds)
