"""From arguments to rows, vectors and fresh models: what `recipes/pal_reward.py` starts from."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import set_seed

from palign.data.annotators import AnnotatorIndex
from palign.data.arguments import DataArguments
from palign.data.guard import GuardOptions
from palign.data.image_folder import ImageFolder
from palign.data.preferences import Preferences
from palign.data.rendering import require_template
from palign.data.rows.reading import print_note
from palign.data.splits import hold_out
from palign.data.synthetic import make_gaussian_population
from palign.data.turns import reads_plain, turns_sentence
from palign.functional.evidence.positions import position_within
from palign.functional.losses import pair_order
from palign.models.embeddings import EmbeddingStore
from palign.models.model_folders import read_tokenizer, require_model_folder
from palign.models.pal import PALRewardModel
from palign.models.pal_config import PALConfig
from palign.parallel.one_disk import require_one_disk
from palign.parallel.sharded import divides_by_fsdp, is_sharded
from palign.parallel.shared_work import computed_once
from palign.pipelines.arguments.reward_options import NoModel, RewardArguments
from palign.pipelines.reports.facts import data_facts
from palign.pipelines.reports.reward import (
    NAMES_DOUBTED,
    choice_sentences,
    names_matter,
    people_in_no_number,
    states_sentence,
)
from palign.trainers.reward.head_training import HeadTraining, check_prototype_count
from palign.trainers.reward.linear_fit import RECURS, TEXTS_RECUR
from palign.trainers.reward.options import HeadOptions, VectorRewardConfig
from palign.trainers.reward.prototype_count import PrototypeChoice, calibrate_head, choose_n_prototypes, require_people
from palign.trainers.reward.vector_fit import VectorFit

if TYPE_CHECKING:
    from trl import ModelConfig

    from palign.models.backbones import Backbone
    from palign.trainers.reward.state_choice import StateChoice

__all__ = ["RewardSetup", "dominant_prototypes", "set_up_reward"]

MOST_PERSONAL = 100_000  # people; a row of numbers for each of more is not worth its memory
AUTO_JUDGED = 4  # prototypes by which kinds of states are judged, where K is to be chosen after them
EMBEDDED = {"n_annotators": 60, "n_types": 3, "n_rows": 60, "n_newcomers": 40}


@dataclass
class RewardSetup:
    """Rows, vectors and what a fresh model is made of.

    Attributes:
        n_prototypes: K, chosen if it was to be.
        choice: what people held out chose, or None.
        variant: kind of head, where it was chosen.
        states: which states of the backbone are read, where it was chosen.
        dealt: rows that `train_rows` and `eval_rows` were dealt from; None where rows to evaluate on were named.
        guard_notes: what the guard reports of the rows.
        newcomers: rows to place newcomers by and rows to judge by, or None.
        images: the folder of the images that are judged, or None.
        image_encoder: content key of the encoder whose vectors `embeddings` are, where items are images.
    """

    script: RewardArguments
    args: HeadOptions
    train_rows: Preferences
    eval_rows: Preferences
    embeddings: np.ndarray | None
    backbone: "Backbone | None"
    backbone_name: str | None
    newcomers: tuple[Preferences, Preferences] | None
    group_columns: list[str]
    group_sizes: dict[str, int] = field(default_factory=dict)
    n_prototypes: int = 1
    choice: PrototypeChoice | None = None
    annotators: AnnotatorIndex = field(default_factory=AnnotatorIndex)
    guard_notes: list[str] = field(default_factory=list)
    variant: str | None = None
    states: "StateChoice | None" = None
    dealt: Preferences | None = None
    image_encoder: str | None = None
    images: ImageFolder | None = None

    def config(self, n_prototypes: int) -> PALConfig:
        """The architecture with that K."""
        options = self.script.head_options()
        if self.variant is not None and self.variant != options["variant"]:
            options |= {"variant": self.variant, "similarity": None}
        if self.states is not None:
            options["scaling"] = self.states.scaling
        if self.backbone is None:
            return PALConfig(self.embeddings.shape[1], n_prototypes, image_encoder=self.image_encoder, **options)
        backbone = self.backbone
        return PALConfig(
            backbone.hidden_size, n_prototypes, backbone=self.backbone_name, pooling=backbone.pooling,
            layer=backbone.layer, normalize=backbone.normalize, max_length=backbone.max_length,
            plain_prompts=reads_plain(backbone.tokenizer, self.script.plain_prompts), **options,
        )  # fmt: skip

    def make_model(self, n_prototypes: int) -> PALRewardModel:
        """A fresh model; the same seed gives the same one. A backbone that will be trained is copied."""
        set_seed(self.args.seed)
        backbone = self._own_backbone() if self.trains_backbone else self.backbone
        index = AnnotatorIndex(self.annotators.ids)
        return PALRewardModel(self.config(n_prototypes), index, backbone)

    def _own_backbone(self) -> "Backbone":
        """One to train, that reads what `backbone` reads."""
        if not is_sharded(self.backbone.model):
            return copy.deepcopy(self.backbone)
        backbone = self.fresh_backbone()
        backbone.read_as(self.backbone.kind)
        return backbone

    def choice_of(self, name: str) -> PrototypeChoice | None:
        """What people held out chose for the model, without a person's own part for the 'pooled' baseline."""
        return self.choice if self.choice is None or name == "pal" else replace(self.choice, personal=None)

    def make_trainer(self, name: str, args: HeadOptions, model_args: "ModelConfig | NoModel") -> HeadTraining:
        """What fits the model 'pooled' or 'pal', with options of its own."""
        model = self.make_model(1 if name == "pooled" else self.n_prototypes)
        rows = (self.train_rows, self.eval_rows)
        if isinstance(args, VectorRewardConfig):
            return VectorFit(model, args, *rows, embeddings=self.embeddings, choice=self.choice_of(name))
        # here, since who fits vectors need not wait for transformers and TRL
        from trl import get_peft_config

        from palign.trainers.pal_reward_trainer import PALRewardTrainer

        return PALRewardTrainer(
            model, args, *rows, embeddings=self.embeddings, peft_config=get_peft_config(model_args), store=self.store,
            choice=self.choice_of(name),
        )  # fmt: skip

    trains_backbone: bool = False
    fresh_backbone: Callable[[], "Backbone"] | None = None  # where weights in parts cannot be copied

    def newcomer_accuracies(self, trainer: HeadTraining) -> dict[str, float]:
        """`newcomers/<n>/accuracy`: newcomers placed by their first n answers, judged on their other rows."""
        if self.newcomers is None:
            return {}
        place, judge = self.newcomers
        accuracies = {}
        for n_answers in self.script.newcomer_answers:
            fit = trainer.model.fit_annotators(
                first_rows(place, n_answers), embeddings=self.embeddings, method=self.script.fit_method,
                store=None if self.trains_backbone else self.store, seed=self.args.seed,
            )  # fmt: skip
            rows = AnnotatorIndex(fit.ids).indices(judge.annotator_ids)
            rows = torch.from_numpy(rows)
            people = {"weights": fit.weights[rows]}
            if getattr(trainer.model, "deviations", None) is not None:
                people["deviations"] = fit.deviations[rows]
            scores = trainer.predict_scores(judge, **people)
            right, n_pairs = pair_order(scores, torch.from_numpy(judge.ranks))
            accuracies[f"newcomers/{n_answers}/accuracy"] = float((right / n_pairs).mean())
        return accuracies

    @cached_property
    def store(self) -> EmbeddingStore | None:
        """Embeddings of texts under the frozen backbone, for every K and everybody; None where items are vectors."""
        if self.backbone is None:
            return None
        return EmbeddingStore(self.args.embedding_cache_dir, self.backbone.fingerprint(), self.backbone.hidden_size)

    def facts(self) -> dict[str, str]:
        """What the report is made of."""
        vectors = "ready vectors" if self.image_encoder is None else "vectors of images"
        base = vectors if self.backbone_name is None else f"states of {self.backbone_name}"
        return data_facts(self.train_rows, self.eval_rows, base)

    def notes(self) -> list[str]:
        """Sentences for the report."""
        notes = [*self.guard_notes]
        notes += people_in_no_number(self.train_rows, self.eval_rows)
        notes += [] if self.states is None else [states_sentence(self.states)]
        return notes if self.choice is None else [*notes, *choice_sentences(self.choice)]


def set_up_reward(
    script: RewardArguments, data_args: DataArguments, args: HeadOptions, model_args: "ModelConfig | NoModel"
) -> RewardSetup:
    """Check and read everything, cheapest first; choose K where it is 'auto'."""
    require_one_disk(args.output_dir)
    if model_args.model_name_or_path is not None:
        from palign.pipelines.memory.room import refuse_without_room

        require_model_folder(model_args.model_name_or_path)
        refuse_without_room("pal_reward", model_args.model_name_or_path, model_args.dtype)
    split_note: list[str] = []
    dealt = image_encoder = None
    if data_args.dataset_name is None:
        train, evaluation, embeddings, newcomers = _embedded(args.seed)
    else:
        embeddings = data_args.vectors()
        n_embeddings = None if embeddings is None else len(embeddings)
        train, evaluation = data_args.train_rows(n_embeddings), data_args.eval_rows(n_embeddings)
        newcomers = _newcomers(script, data_args, n_embeddings)
        if data_args.images is not None:
            from palign.pipelines.image_vectors import image_vectors

            images = (train, evaluation, *(newcomers or ()))
            kept = {"store_dir": args.embedding_cache_dir, "show_progress": not args.disable_tqdm}
            embeddings, image_encoder = computed_once(lambda: image_vectors(data_args, images, **kept))
        if script.n_prototypes is not None:
            check_prototype_count(script.n_prototypes, len(train.annotators()))
        if evaluation is None:
            dealt = train
            held = hold_out(train, fraction=script.eval_fraction, seed=args.seed)
            train, evaluation, split_note = held.train, held.evaluation, [held.sentence]
    options = GuardOptions(
        n_types=None if script.n_prototypes in (None, 1) else script.n_prototypes,
        prompts_are_new=data_args.eval_dataset_name is not None,
        seed=args.seed,
    )
    guard_notes = split_note + data_args.look_at(
        train, evaluation, options=options, embeddings=embeddings, unseen=newcomers[0] if newcomers else None
    )
    if script.n_prototypes is None:
        require_people(train.annotators().indices(train.annotator_ids), train.n_items)
    if model_args.model_name_or_path is not None and any(not isinstance(text, str) for text in train.texts()):
        trusts = getattr(model_args, "trust_remote_code", False)
        origin = {"revision": model_args.model_revision, "trust_remote_code": trusts}
        require_template(train.texts(), read_tokenizer(model_args.model_name_or_path, **origin))
    trains_all = args.train_backbone and not model_args.use_peft
    load_backbone = partial(_backbone, script, model_args, trains_all=trains_all)
    setup = RewardSetup(
        script, args, train, evaluation, embeddings, load_backbone(), model_args.model_name_or_path,
        newcomers, data_args.group_columns, data_args.group_sizes(), annotators=train.annotators(),
        guard_notes=guard_notes,
        trains_backbone=bool(model_args.use_peft or args.train_backbone), dealt=dealt,
        image_encoder=image_encoder, images=data_args.images, fresh_backbone=load_backbone,
    )  # fmt: skip
    if setup.backbone is not None:
        note = turns_sentence(train.prompts, setup.backbone.tokenizer, script.plain_prompts)
        setup.guard_notes += print_note(note)
    _choose_states(setup)
    _choose(setup)
    return setup


def first_rows(rows: Preferences, n: int) -> Preferences:
    """The first n rows of everybody."""
    people = rows.annotators().indices(rows.annotator_ids)
    order = np.argsort(people, kind="stable")
    return rows.select(np.sort(order[position_within(np.bincount(people)) < n]))


def dominant_prototypes(model: PALRewardModel) -> dict[str, str]:
    """Everybody's largest weight, as a discovered type."""
    largest = model.people.all().argmax(1).tolist()
    return {name: f"prototype_{k}" for name, k in zip(model.annotators.ids, largest, strict=True)}


def _choose_states(setup: RewardSetup) -> None:
    """Pooling, layer and scaling where they are 'auto': the backbone and the heads read as people held out chose."""
    script, args, backbone = setup.script, setup.args, setup.backbone
    if backbone is None:
        return
    from palign.trainers.reward.state_choice import choose_states

    is_free = script.pooling == "auto" and backbone.is_causal and backbone.pooling == "completion"
    layers = [backbone.layer] if script.layer is not None or not is_free else None
    poolings = ("completion", "completion_last") if is_free else (backbone.pooling,)
    scalings = ("unit", "common") if script.scaling == "auto" else (script.scaling,)
    if layers is not None and len(poolings) == len(scalings) == 1:
        return

    def choose() -> "StateChoice | None":
        return choose_states(
            setup.train_rows, backbone, setup.config(1), args.head_fit_options(),
            n_prototypes=(1, AUTO_JUDGED) if script.n_prototypes is None else (script.n_prototypes,),
            layers=layers, poolings=poolings, scalings=scalings, batch_size=args.embedding_batch_size,
            seed=args.seed, show_progress=not args.disable_tqdm and PartialState().is_main_process,
        )  # fmt: skip

    if is_sharded(backbone.model):  # all have to run it; the main process decides
        found = choose()
        setup.states = computed_once(lambda: found)
    else:
        setup.states = computed_once(choose)
    if setup.states is None:
        return
    backbone.read_as(setup.states.kind)
    setup.store.append(setup.states.keys, setup.states.vectors)
    print_note(states_sentence(setup.states))


def _choose(setup: RewardSetup) -> None:
    """K where it is 'auto'; kind of head, temperature and a person's own part, unless the backbone is trained."""
    script, args = setup.script, setup.args
    is_auto = script.n_prototypes is None
    if not is_auto:
        setup.n_prototypes = script.n_prototypes
    if (setup.trains_backbone or not (script.calibrate or script.variant == "auto")) and not is_auto:
        return
    data = setup.make_model(1).row_tensors(
        setup.train_rows, setup.embeddings, store=setup.store, show_progress=not args.disable_tqdm, together=True
    )
    variants = ("fixed", "linear") if script.variant == "auto" and not setup.trains_backbone else None
    variants = variants if args.loss_type == "logistic" else None
    personal = script.personal == "auto" and not setup.trains_backbone and len(setup.annotators) <= MOST_PERSONAL
    options = replace(args.head_fit_options(), min_steps=0)
    recurs = TEXTS_RECUR if setup.embeddings is None else RECURS
    common = {"variants": variants, "recurs": recurs, "personal": personal, "seed": args.seed}

    def choose() -> PrototypeChoice:
        if is_auto:
            progress = {"show_progress": not args.disable_tqdm}
            return choose_n_prototypes(data, setup.config(1), args.head_fit_options(), **common, **progress)
        steps = {"min_steps": args.head_min_steps}
        return calibrate_head(data, setup.config(1), options, setup.n_prototypes, **steps, **common)

    choice = computed_once(choose)
    if not script.calibrate:
        choice = replace(choice, temperature=1.0, pooled_temperature=1.0)
    setup.choice, setup.n_prototypes, setup.variant = choice, choice.n_prototypes, choice.variant
    answer = print_note(names_matter(setup.guard_notes, choice))
    if answer:
        setup.guard_notes = [note for note in setup.guard_notes if not note.startswith(NAMES_DOUBTED)] + answer
    if not is_auto:
        args.head_min_steps = choice.min_steps


def _backbone(script: RewardArguments, model_args: "ModelConfig | NoModel", *, trains_all: bool) -> "Backbone | None":
    """In parts, where the launch divides; FSDP2's parts are frozen."""
    if model_args.model_name_or_path is None:
        return None
    from palign.models.backbones import Backbone

    dtype = model_args.dtype if model_args.dtype not in (None, "auto") else "float32"
    return Backbone.from_pretrained(
        model_args.model_name_or_path, dtype=dtype, revision=model_args.model_revision,
        trust_remote_code=getattr(model_args, "trust_remote_code", False),
        pooling=None if script.pooling == "auto" else script.pooling, layer=script.layer, max_length=script.max_length,
        divided=not (trains_all and divides_by_fsdp()),
    )  # fmt: skip


def _newcomers(
    script: RewardArguments, data_args: DataArguments, n_embeddings: int | None
) -> tuple[Preferences, Preferences] | None:
    if script.newcomers_dataset_name is None:
        return None
    names = (script.newcomers_dataset_name, script.newcomers_eval_dataset_name)
    return tuple(data_args.load(name, None, n_embeddings) for name in names)


def _embedded(seed: int) -> tuple[Preferences, Preferences, np.ndarray, tuple[Preferences, Preferences]]:
    """Three types of people over vectors, with their truth known, and newcomers."""
    people = make_gaussian_population(n_types=EMBEDDED["n_types"], n_annotators=EMBEDDED["n_annotators"], seed=seed)
    new = people.newcomers(EMBEDDED["n_newcomers"], seed=seed + 1)
    rows = [
        population.comparisons(EMBEDDED["n_rows"], seed=seed + number, beta=8.0)
        for number, population in enumerate((people, people, new, new))
    ]
    return rows[0], rows[1], people.items, (rows[2], rows[3])
