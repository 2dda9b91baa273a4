"""What a metric model is made of, as `config.json` holds it."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from palign.functional.metric.comparisons import Loss
from palign.functional.metric.regularisers import Penalty
from palign.reading import number_in, read_json

__all__ = ["ESTIMATORS", "MetricConfig"]

ESTIMATORS = ("general", "subspaces")
WHOLE_COPY = "Give a whole copy of the folder."


@dataclass
class MetricConfig:
    """Architecture of a `MetricModel`, and how it was fitted.

    Attributes:
        hidden_size: width of the vectors that are given to it.
        dim: coordinates that the metric is of; fewer than `hidden_size` where principal directions were taken.
        loss, penalty, strengths, estimator: how it was fitted.
        temperature: what rewards are multiplied by.
        personal_squares: whether people have quadratic terms of their own.
        backbone, backbone_revision, pooling, layer, normalize, max_length, plain_prompts: as in `PALConfig`; the
            backbone is None where items are vectors.
    """

    hidden_size: int
    dim: int
    loss: str = "logistic"
    penalty: str = "ridge"
    strengths: list[float] = field(default_factory=list)
    estimator: str = "general"
    temperature: float = 1.0
    personal_squares: bool = False
    backbone: str | None = None
    backbone_revision: str | None = None
    pooling: str | None = None
    layer: int | None = None
    normalize: bool = False
    max_length: int = 1024
    plain_prompts: bool = True
    model_type: str = "palign_metric"

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "MetricConfig":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is of another model, or holds what it cannot.
        """
        record = read_json(path, dict)
        if record.get("model_type") != cls.model_type:
            kind = record.get("model_type", "model of unknown type")
            raise ValueError(
                f"{path} is the configuration of a {str(kind)[:40]!r}, not of a metric ({cls.model_type!r}). Give a "
                "folder that palign metric wrote."
            )
        for name, whole in (("hidden_size", True), ("dim", True), ("max_length", True), ("temperature", False)):
            number_in(record, name, path, least=1 if whole else 1e-6, whole=whole)
        allowed = {"loss": list(Loss), "penalty": list(Penalty), "estimator": ESTIMATORS}
        for name, values in allowed.items():
            if record.get(name) not in [str(value) for value in values]:
                raise ValueError(f"{path}: {name} is {str(record.get(name))[:60]!r}, which it cannot be. {WHOLE_COPY}")
        strengths = record.get("strengths")
        is_list = isinstance(strengths, list) and len(strengths) == Penalty(record["penalty"]).n_strengths
        if not is_list or not all(isinstance(s, float | int) and 0 < s < 1e15 for s in strengths):
            raise ValueError(f"{path}: strengths is {str(strengths)[:60]!r}, which it cannot be. {WHOLE_COPY}")
        kinds = {"backbone": str, "backbone_revision": str, "pooling": str, "layer": int}
        wrong = [n for n, kind in kinds.items() if record.get(n) is not None and not isinstance(record[n], kind)]
        wrong += [n for n in ("personal_squares", "normalize", "plain_prompts") if not isinstance(record.get(n), bool)]
        if wrong:
            raise ValueError(
                f"{path}: {wrong[0]} is {str(record.get(wrong[0]))[:60]!r}, which it cannot be. {WHOLE_COPY}"
            )
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in record.items() if name in known})
