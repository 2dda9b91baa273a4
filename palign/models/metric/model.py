"""One metric for all, an ideal point each: what `palign metric` fits, scored, placed, saved and read.

Source: Canal et al., *One for All* (NeurIPS 2022; arXiv 2207.03609). The mathematics is in `palign.functional.metric`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from palign.contents import reading_whole
from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.functional.metric.comparisons import Comparisons, rewards
from palign.functional.metric.points import fit_vectors, ideal_points, rows_or_zero
from palign.models.embeddings import EmbeddingStore, embed_preferences
from palign.models.files.adapter_files import base_of, portable_base
from palign.models.files.card import named, render
from palign.models.metric.card import CARD
from palign.models.metric.config import MetricConfig
from palign.models.row_tensors import RowTensors
from palign.models.scoring_inputs import require_same_length, text_states, vector_states
from palign.reading import read_tensors, reading, require_files, require_tensors
from palign.writing import whole_files

if TYPE_CHECKING:
    from palign.models.backbones import Backbone

__all__ = ["MetricModel", "comparisons_of"]

WEIGHTS, CONFIG, ANNOTATORS = "model.safetensors", "config.json", "annotators.json"
LEAST_EIGENVALUE = -1e-6  # of a saved metric, relative to its largest


def comparisons_of(data: RowTensors, coordinates: Tensor, n_people: int) -> tuple[Comparisons, Tensor]:
    """Rows as pairs of a better and a worse item; all pairs of a row count together as much as the row does.

    Args:
        data: rows whose `annotator_index` lies in [0, n_people).
        coordinates: (n_vectors, dim) of every vector that rows name.

    Returns:
        The pairs, and (n_pairs,) int64, the row that each is of.
    """
    ranks, items = data.ranks, data.item_indices
    row, better, worse = torch.nonzero(
        (ranks[:, :, None] < ranks[:, None, :]) & (ranks >= 0)[:, :, None], as_tuple=True
    )
    weight = 1.0 / torch.bincount(row, minlength=len(data)).clamp_min(1).double()
    if data.evidence is not None:
        weight = weight * data.evidence.double()
    person = data.annotator_index[row]
    pairs = Comparisons(coordinates.double(), items[row, better], items[row, worse], person, n_people, weight[row])
    return pairs, row


class MetricModel:
    """Rewards −temperature · (zᵀMz + v_k·z), z the coordinates of an item: minus its squared distance, under M, to the
    ideal point of person k, up to a number of the person's own.

    Args:
        config: the architecture.
        annotators: who has a row of `people`.
        tensors: `center` (hidden,), `basis` (hidden, dim), `metric` (dim, dim), `shared` (dim,), `people` (n, dim),
            `precision` (dim, dim) of the prior under which newcomers are placed; with `personal_squares` also
            `squares` (n, dim, dim), which stand beside the metric for a person.
        backbone: turns text into vectors; None where items are vectors.
    """

    def __init__(
        self,
        config: MetricConfig,
        annotators: AnnotatorIndex,
        tensors: Mapping[str, Tensor],
        backbone: "Backbone | None" = None,
    ):
        self.config, self.annotators, self.backbone = config, AnnotatorIndex(annotators.ids), backbone
        require_tensors(tensors, _empty(config, len(annotators)), WEIGHTS)
        self.tensors = {name: tensor.detach().double().contiguous() for name, tensor in tensors.items()}

    @property
    def metric(self) -> Tensor:
        """M, (dim, dim)."""
        return self.tensors["metric"]

    def vectors_for(self, annotator_ids: Iterable[object], *, unknown: str = "shared") -> Tensor:
        """v_k (batch, dim) of people; a stranger has what all share, or is a ValueError with `unknown='error'`."""
        if unknown not in ("shared", "error"):
            raise ValueError(f"unknown is {unknown!r}; it must be 'shared' or 'error'.")
        rows = torch.from_numpy(self.annotators.indices(annotator_ids, unknown=None if unknown == "error" else -1))
        return self.tensors["shared"] + rows_or_zero(self.tensors["people"], rows)

    def ideal_points(self, annotator_ids: Iterable[object], *, softening: float = 0.05) -> Tensor:
        """Ideal points (batch, dim) of people, in the coordinates of `coordinates`."""
        return ideal_points(self.metric, self.vectors_for(annotator_ids, unknown="error"), softening=softening)

    def coordinates(self, vectors: Any) -> Tensor:
        """Vectors (batch, hidden) → (batch, dim)."""
        states = vector_states(vectors, self.config.hidden_size, torch.device("cpu")).double()
        return (states - self.tensors["center"]) @ self.tensors["basis"]

    def coordinates_of(self, data: RowTensors) -> tuple[Tensor, Tensor]:
        """Coordinates (n_used, dim) of the vectors that rows name, and (n_rows, max_items) which each item has."""
        used, place = torch.unique(data.item_indices, return_inverse=True)
        return self.coordinates(data.item_vectors(used)), place

    def score(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any] | np.ndarray,
        annotator_ids: Iterable[object],
        *,
        batch_size: int = 64,
    ) -> Tensor:
        """Rewards (batch,), each for its person.

        Args:
            prompts: (batch,) texts or lists of messages; not read where items are vectors.
            completions: the same; items (batch, hidden) where the model has no backbone.
            annotator_ids: (batch,) people, or one id for all; strangers get what all share.
        """
        require_same_length(prompts, completions, needs_prompts=self.backbone is not None)
        ids = [annotator_ids] * len(completions) if np.isscalar(annotator_ids) else list(annotator_ids)
        if len(ids) != len(completions):
            raise ValueError(f"{len(completions)} completions came with {len(ids)} people; each completion needs one.")
        if self.backbone is None:
            points = self.coordinates(completions)
        else:
            options = {"with_prompts": False, "plain_prompts": self.config.plain_prompts}
            parts = [slice(i, i + batch_size) for i in range(0, len(completions), batch_size)]
            with torch.no_grad():
                states = [text_states(self.backbone, prompts[p], completions[p], **options)[0].cpu() for p in parts]
            points = self.coordinates(torch.cat(states)) if states else torch.zeros(0, self.config.dim)
        people = torch.from_numpy(self.annotators.indices(ids, unknown=-1))
        return self._rewards(points[:, None], people, self.tensors["people"])[:, 0]

    def _rewards(self, points: Tensor, person: Tensor, people: Tensor) -> Tensor:
        """Points (n, n_items, dim) for persons (n,), rows of a table of people (n_people, dim), −1 unknown; to
        (n, n_items)."""
        values = rewards(points, self.metric, (self.tensors["shared"] + rows_or_zero(people, person))[:, None])
        if self.config.personal_squares and people is self.tensors["people"]:
            values = values - ((points @ rows_or_zero(self.tensors["squares"], person)) * points).sum(-1)
        return self.config.temperature * values

    def row_tensors(
        self, prefs: Preferences, embeddings: np.ndarray | None = None, *, store: EmbeddingStore | None = None
    ) -> RowTensors:
        """Preferences over vectors: those of `embeddings`, or of the backbone's reading of texts; strangers are −1."""
        people = self.annotators.indices(prefs.annotator_ids, unknown=-1)
        if not prefs.is_text:
            if embeddings is None or self.backbone is not None:
                raise ValueError(
                    "These rows name vectors by index: give the array they index as `embeddings`, to a model that was "
                    "fitted on vectors."
                )
            return RowTensors.of(prefs, people, np.asarray(embeddings))
        if self.backbone is None:
            raise ValueError("These rows hold text, and this metric was fitted on vectors: it has no backbone.")
        if store is None:
            store = EmbeddingStore(None, self.backbone.fingerprint(), self.config.hidden_size)
        options = {"progress": False, "plain_prompts": self.config.plain_prompts}
        with torch.no_grad():
            items, _ = embed_preferences(self.backbone, prefs, store, **options)
        return RowTensors.of(prefs, people, items)

    def score_rows(self, data: RowTensors, people: Tensor | None = None) -> Tensor:
        """Rewards (n_rows, max_items) of every item for the person of its row, 0 at padding.

        `people`: (n, dim), whom `annotator_index` numbers in place of those known here.
        """
        points, place = self.coordinates_of(data)
        table = self.tensors["people"] if people is None else people.double()
        return self._rewards(points[place], data.annotator_index, table).masked_fill(data.ranks < 0, 0.0)

    def fit_annotators(
        self, rows: Preferences, *, embeddings: np.ndarray | None = None, store: EmbeddingStore | None = None
    ) -> tuple[list[str], Tensor]:
        """People from their answers, with the metric as it is: their ids and their part (n, dim) beside what all
        share.

        A convex problem each; nothing of the model changes. Hand both to `add_annotators`.
        """
        index = rows.annotators()
        data = self.row_tensors(rows, embeddings, store=store).with_people(index.indices(rows.annotator_ids))
        points, place = self.coordinates_of(data)
        data = data.over(points.float(), place)
        pairs, _ = comparisons_of(data, data.item_states, len(index))
        part = fit_vectors(
            pairs, self.metric, self.tensors["shared"], self.tensors["precision"], loss=self.config.loss
        )
        return index.ids, part

    def add_annotators(self, ids: Sequence[str], people: Tensor) -> None:
        """Give placed people rows of their own; nobody else's score moves."""
        if people.shape != (len(ids), self.config.dim):
            raise ValueError(
                f"{len(ids)} people need ({len(ids)}, {self.config.dim}) numbers, not {tuple(people.shape)}."
            )
        self.annotators.add(ids)
        self.tensors["people"] = torch.cat([self.tensors["people"], people.double()])
        if self.config.personal_squares:
            none = self.metric.new_zeros(len(ids), *self.metric.shape)
            self.tensors["squares"] = torch.cat([self.tensors["squares"], none])

    def add_personal_squares(self, people: Tensor, squares: Tensor) -> None:
        """Give everybody quadratic terms (n, dim, dim) beside the metric, and the linear part (n, dim) that goes with
        them."""
        self.config.personal_squares = True
        self.tensors |= {"people": people.double(), "squares": squares.double().contiguous()}

    # files

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors, config.json, annotators.json and README.md, all of them or none."""
        folder = Path(folder)
        with whole_files(folder, last=CONFIG) as partial:
            save_file(self.tensors, partial / WEIGHTS, metadata={"format": "pt"})
            self.annotators.save(partial / ANNOTATORS)
            config = MetricConfig(**vars(self.config))
            config.backbone = portable_base(config.backbone, folder)
            config.save(partial / CONFIG)
            backbone = f"states of `{named(config.backbone)}`" if config.backbone else "ready vectors"
            values = vars(config) | {"backbone": backbone, "n_annotators": len(self.annotators)}
            (partial / "README.md").write_text(render(CARD, **values), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "MetricModel":
        """Read what `save_pretrained` wrote.

        Raises:
            ValueError: a file is missing, damaged or of another model; a metric that is none.
        """
        folder = Path(folder).expanduser()
        advice = "Give a folder that palign metric wrote to its end."
        require_files(folder, (CONFIG, WEIGHTS, ANNOTATORS), "is no metric", advice)
        with reading_whole(folder):
            config = MetricConfig.load(folder / CONFIG)
            people, tensors = AnnotatorIndex.load(folder / ANNOTATORS), read_tensors(folder / WEIGHTS)
            require_tensors(tensors, _empty(config, len(people)), folder / WEIGHTS)
            _require_metric(tensors, folder / WEIGHTS)
            return cls(config, people, tensors, _backbone(config, folder))


def _empty(config: MetricConfig, n_people: int) -> dict[str, Tensor]:
    """Tensors of the shapes that a model has."""
    d = config.dim
    shapes = {"center": (config.hidden_size,), "basis": (config.hidden_size, d), "metric": (d, d), "shared": (d,)}
    shapes |= {"people": (n_people, d), "precision": (d, d)}
    shapes |= {"squares": (n_people, d, d)} if config.personal_squares else {}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _require_metric(tensors: Mapping[str, Tensor], path: Path) -> None:
    """ValueError where M or the prior's precision is not symmetric and positive (semi)definite."""
    for name in ("metric", "precision"):
        matrix = tensors[name].double()
        values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
        size = float(values.abs().max()) if len(values) else 0.0
        if float((matrix - matrix.T).abs().max()) > 1e-6 * size or float(values[0]) < LEAST_EIGENVALUE * size:
            raise ValueError(
                f"{path}: {name} is not symmetric with eigenvalues of 0 and more, so it measures no distance. Give a "
                "whole copy of the folder."
            )


def _backbone(config: MetricConfig, folder: Path) -> "Backbone | None":
    if config.backbone is None:
        return None
    from palign.models.backbones import Backbone

    source = base_of(config.backbone, folder)
    with reading(source, "The backbone"):
        return Backbone.from_pretrained(
            source, revision=config.backbone_revision, pooling=config.pooling, layer=config.layer,
            normalize=config.normalize, max_length=config.max_length,
        )  # fmt: skip
