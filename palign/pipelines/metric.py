"""From arguments to a fitted metric and its baselines: what `recipes/metric.py` starts from and ends with."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from palign.data.arguments import DataArguments
from palign.data.guard import GuardOptions, act_on
from palign.data.guards.metric import check_metric
from palign.data.preferences import Preferences
from palign.data.rendering import require_template
from palign.data.rows.reading import print_note
from palign.data.splits import hold_out
from palign.data.synthetic_metric import make_metric_population
from palign.data.turns import reads_plain, turns_sentence
from palign.functional.metric.choice import Strengths, choose_strengths
from palign.functional.metric.comparisons import Comparisons, Parameters
from palign.functional.metric.fit import MetricFit, fit_metric
from palign.functional.metric.points import people_precision
from palign.functional.metric.regularisers import Penalty
from palign.functional.metric.subspaces import Subspaces, fit_in_subspaces
from palign.models.embeddings import EmbeddingStore, embed_preferences
from palign.models.metric.config import MetricConfig
from palign.models.metric.model import MetricModel, comparisons_of
from palign.models.model_folders import read_tokenizer, require_model_folder
from palign.models.row_tensors import RowTensors
from palign.pipelines.arguments.metric import AUTO, MetricArguments
from palign.pipelines.metric_baselines import BASELINES, Baseline, fit_baseline
from palign.pipelines.metric_coordinates import item_subspaces, pair_scale, principal_coordinates
from palign.pipelines.metric_personal import choose_personal
from palign.pipelines.reports.facts import data_facts
from palign.pipelines.reports.reward import people_in_no_number

if TYPE_CHECKING:
    from palign.models.backbones import Backbone

__all__ = ["FittedMetric", "MetricRows", "fit_all", "read_metric_rows"]

MOST_JOINT = 60_000  # numbers of people's vectors up to which 'auto' tries the joint nuclear norm: each step is a SVD


@dataclass
class MetricRows:
    """Rows to fit and to judge on, and where their vectors come from.

    Attributes:
        notes: sentences for the report.
        dealt: rows that both were dealt from; None where rows to evaluate on were named.
        group_columns: declared groups to report by; group_sizes: how large they must be.
    """

    train: Preferences
    evaluation: Preferences
    embeddings: np.ndarray | None
    backbone: "Backbone | None"
    group_columns: list[str]
    notes: list[str] = field(default_factory=list)
    store: EmbeddingStore | None = None
    plain_prompts: bool = True
    guard: str = "stop"
    dealt: Preferences | None = None
    group_sizes: dict[str, int] = field(default_factory=dict)

    def vectors(self, rows: Preferences) -> np.ndarray:
        """(n_vectors, hidden) that the rows' items are numbers of."""
        if self.backbone is None:
            return np.asarray(self.embeddings)
        with torch.no_grad():
            return embed_preferences(self.backbone, rows, self.store, plain_prompts=self.plain_prompts)[0]


@dataclass
class FittedMetric:
    """The model, its baselines, what held-out rows chose, and what the report is made of."""

    model: MetricModel
    baselines: dict[str, Baseline]
    choice: Strengths | None
    fit: MetricFit
    penalty: Penalty
    notes: list[str]
    facts: dict[str, str]

    def scores(self, rows: Preferences, vectors: np.ndarray) -> dict[str, Tensor]:
        """(n_rows, max_items) of the baselines and of the metric, last."""
        people = self.model.annotators.indices(rows.annotator_ids, unknown=-1)
        data = RowTensors.of(rows, people, vectors)
        points, place = self.model.coordinates_of(data)
        scores = {name: base.scores(points[place], data.annotator_index) for name, base in self.baselines.items()}
        return scores | {"metric": self.model.score_rows(data)}


def read_metric_rows(script: MetricArguments, data_args: DataArguments) -> MetricRows:
    """Check and read everything, cheapest first; no model is loaded where the guard stops."""
    if script.model_name_or_path is not None:
        require_model_folder(script.model_name_or_path)
    notes: list[str] = []
    dealt = None
    if data_args.dataset_name is None:
        train, evaluation, embeddings = _embedded(script)
    else:
        embeddings = data_args.vectors()
        n_embeddings = None if embeddings is None else len(embeddings)
        train, evaluation = data_args.train_rows(n_embeddings), data_args.eval_rows(n_embeddings)
        refuse_single_answers(train, data_args.guard)
        if evaluation is None:
            dealt = train
            held = hold_out(train, fraction=script.eval_fraction, seed=script.seed)
            train, evaluation = held.train, held.evaluation
            notes.append(held.sentence)
    options = GuardOptions(
        prompts_are_new=data_args.eval_dataset_name is not None, seed=script.seed, learns_metric=embeddings is not None
    )
    notes += data_args.look_at(train, evaluation, options=options, embeddings=embeddings)
    rows = MetricRows(
        train,
        evaluation,
        embeddings,
        None,
        data_args.group_columns,
        notes,
        guard=data_args.guard,
        dealt=dealt,
        group_sizes=data_args.group_sizes(),
    )
    if script.model_name_or_path is not None:
        _with_backbone(rows, script)
    return rows


def refuse_single_answers(rows: Preferences, mode: str) -> None:
    """ValueError where everybody answered once: then nothing can be known of anybody, nor of a metric."""
    n_people = len(rows.annotators())
    if len(rows) == n_people and mode == "stop" and int(rows.n_items.max(initial=0)) <= 2:
        raise ValueError(
            f"Each of the {n_people:,} annotators answered once: one answer says on which side of a pair somebody "
            "stands, and nothing of how distances are measured. What can be known is how many people stand where: "
            "palign population. For a metric give two answers or more of a person (--guard warn goes on)."
        )


def _with_backbone(rows: MetricRows, script: MetricArguments) -> None:
    from palign.models.backbones import Backbone

    name = script.model_name_or_path
    if any(not isinstance(text, str) for text in rows.train.texts()):
        require_template(rows.train.texts(), read_tokenizer(name, revision=script.model_revision))
    rows.backbone = Backbone.from_pretrained(
        name, revision=script.model_revision, pooling=script.pooling, layer=script.layer, max_length=script.max_length
    )
    rows.plain_prompts = reads_plain(rows.backbone.tokenizer, script.plain_prompts)
    rows.notes += print_note(turns_sentence(rows.train.prompts, rows.backbone.tokenizer, script.plain_prompts))
    rows.store = EmbeddingStore(script.embedding_cache_dir, rows.backbone.fingerprint(), rows.backbone.hidden_size)


def fit_all(rows: MetricRows, script: MetricArguments) -> FittedMetric:
    """Choose what is to be chosen, fit the metric and the baselines."""
    annotators = rows.train.annotators()
    vectors = rows.vectors(rows.train)
    if rows.backbone is not None and rows.guard != "off":  # of ready vectors the guard has looked before
        rows.notes += act_on([check_metric(rows.train, vectors, seed=script.seed)], rows.guard)
    data = RowTensors.of(rows.train, annotators.indices(rows.train.annotator_ids), vectors).as_comparisons()
    used, place = torch.unique(data.item_indices, return_inverse=True)
    center, basis, note = principal_coordinates(data.item_vectors(used), script)
    points = (data.item_vectors(used).double() - center) @ basis
    pairs, row = comparisons_of(data.over(points, place), points, len(annotators))
    scale = pair_scale(pairs)
    basis, pairs = basis / scale, pairs.over(pairs.items / scale)
    notes = [*rows.notes, *print_note(note)]
    subspaces = None
    if script.estimator == "subspaces":
        subspaces, note = item_subspaces(pairs, script, used)
        notes += print_note(note)
    fit, choice, penalty, note = _fit(pairs, row, script, subspaces)
    notes += print_note(note)
    strengths = choice.strengths if choice is not None else tuple(script.strengths)
    model = _model(rows, script, fit, center, basis, penalty, strengths, choice)
    if script.personal == AUTO and script.loss == "logistic" and subspaces is None:
        notes += print_note(_add_personal(model, pairs, row, fit, script.seed))
    names = BASELINES if script.baselines else {}
    baselines = {name: fit_baseline(name, pairs, row, seed=script.seed) for name in names}
    base = "ready vectors" if rows.backbone is None else f"states of {script.model_name_or_path}"
    notes += people_in_no_number(rows.train, rows.evaluation)
    facts = data_facts(rows.train, rows.evaluation, base)
    return FittedMetric(model, baselines, choice, fit, penalty, notes, facts)


def _fit(
    pairs: Comparisons, row: Tensor, script: MetricArguments, subspaces: Subspaces | None
) -> tuple[MetricFit, Strengths | None, Penalty, str | None]:
    """The fit, what chose its strengths, its penalty, and a sentence on the choice."""
    common = {"loss": script.loss, "seed": script.seed}
    if subspaces is not None:

        def fitter(part: Comparisons, strengths: tuple[float, ...], _: Parameters | None) -> MetricFit:
            return fit_in_subspaces(part, subspaces, loss=script.loss, strengths=strengths, tolerance=1e-3)

        choice = None if script.strengths else choose_strengths(pairs, row, fitter=fitter, **common)
        strengths = tuple(script.strengths) if choice is None else choice.strengths
        fit = fit_in_subspaces(pairs, subspaces, loss=script.loss, strengths=strengths)
        return fit, choice, Penalty.RIDGE, None if choice is None else _chosen({Penalty.RIDGE: choice})
    if script.strengths:
        strengths, penalty = tuple(script.strengths), Penalty(script.penalty)
        return fit_metric(pairs, loss=script.loss, penalty=penalty, strengths=strengths), None, penalty, None
    names = [Penalty(script.penalty)] if script.penalty != AUTO else [Penalty.RIDGE]
    if script.penalty == AUTO and pairs.n_people * pairs.dim <= MOST_JOINT:
        names.append(Penalty.JOINT_NUCLEAR)
    choices = {name: choose_strengths(pairs, row, penalty=name, **common) for name in names}
    penalty = max(choices, key=lambda name: choices[name].log_likelihood)
    choice = choices[penalty]
    fit = fit_metric(pairs, loss=script.loss, penalty=penalty, strengths=choice.strengths)
    note = _chosen(choices)
    if script.penalty == AUTO and Penalty.JOINT_NUCLEAR not in choices:
        note += (
            f" joint_nuclear was not tried, which takes many minutes with {pairs.n_people:,} people of {pairs.dim} "
            "dimensions and is often the best: --penalty joint_nuclear does it."
        )
    return fit, choice, penalty, note


def _chosen(choices: dict[Penalty, Strengths]) -> str:
    best = max(choices, key=lambda name: choices[name].log_likelihood)
    shown = ", ".join(f"{number:g}" for number in choices[best].strengths)
    others = "; ".join(f"{n} {c.log_likelihood:.4f}" for n, c in choices.items() if n != best)
    compared = f"; {others}" if others else ""
    return (
        f"The metric is held by {best} with strengths {shown}, under which rows held out of the fit are likeliest "
        f"({choices[best].log_likelihood:.4f} nats a row{compared})."
    )


def _model(
    rows: MetricRows,
    script: MetricArguments,
    fit: MetricFit,
    center: Tensor,
    basis: Tensor,
    penalty: Penalty,
    strengths: tuple[float, ...],
    choice: Strengths | None,
) -> MetricModel:
    backbone = rows.backbone
    config = MetricConfig(
        len(center), basis.shape[1], script.loss, penalty.value, list(strengths), script.estimator,
        1.0 if choice is None else choice.temperature, plain_prompts=rows.plain_prompts,
    )  # fmt: skip
    if backbone is not None:
        config.backbone, config.backbone_revision = script.model_name_or_path, script.model_revision
        config.pooling, config.layer, config.normalize = backbone.pooling, backbone.layer, backbone.normalize
        config.max_length = backbone.max_length
    tensors = {
        "center": center, "basis": basis, "metric": (fit.metric + fit.metric.T) / 2, "shared": fit.parameters.shared,
        "people": fit.parameters.people, "precision": people_precision(fit, penalty, strengths),
    }  # fmt: skip
    return MetricModel(config, rows.train.annotators(), tensors, backbone)


def _add_personal(model: MetricModel, pairs: Comparisons, row: Tensor, fit: MetricFit, seed: int) -> str | None:
    """Give people quadratic terms of their own where held-out rows ask for them; a sentence if so."""
    penalty, strengths = model.config.penalty, tuple(model.config.strengths)
    terms = choose_personal(
        pairs, row, fit, lambda part: fit_metric(part, penalty=penalty, strengths=strengths, tolerance=1e-3),
        lambda one: people_precision(one, penalty, strengths), seed=seed,
    )  # fmt: skip
    if terms is None:
        return None
    model.add_personal_squares(terms.people, terms.squares)
    return (
        "People do not all measure by one metric: with quadratic terms of their own beside it rows held out are "
        f"likelier by {terms.gain[0]:.3f} ± {terms.gain[1]:.3f} nats, and they are in the model (--personal none "
        "leaves them out)."
    )


def _embedded(script: MetricArguments) -> tuple[Preferences, Preferences, np.ndarray]:
    """People who measure by one planted metric of low rank, and rows of theirs to learn from and to judge by."""
    people = make_metric_population(n_annotators=script.n_annotators, dim=10, rank=3, n_items=200, seed=script.seed)
    rows = [people.comparisons(n, seed=script.seed + i) for i, n in enumerate((script.n_answers, 20))]
    return rows[0], rows[1], people.items
