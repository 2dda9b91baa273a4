"""Training of a PAL reward model: head and people over frozen states first, then, if asked, the backbone with them.

Where we differ from the reference code: embeddings are computed once; every text is pooled once; people are shrunk to
the population by a prior; and training ends with everybody's posterior mean, so that somebody of whom little is known
is served like the population, and nobody worse than by one pooled reward for want of data.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback

from palign.data.guards.finding import completion_texts
from palign.data.preferences import Preferences
from palign.data.trained_rows import save_trained_rows
from palign.functional.losses import plackett_luce, preference_loss
from palign.models.embeddings import EmbeddingStore
from palign.models.files.pal import BACKBONE, load_backbone_state, load_own_state, pal_card
from palign.models.pal import PALRewardModel
from palign.models.people_fit import fit_people, linear_scores, row_scores
from palign.models.row_tensors import RowTensors
from palign.parallel.deepspeed_launch import leave_accelerator, refuse_eval_in_parts
from palign.parallel.divided_training import refuse_copies
from palign.parallel.fsdp import outside_fsdp
from palign.parallel.fsdp_launch import plan_fsdp
from palign.parallel.sharded import divided_parameters, make_whole, whole
from palign.parallel.shared_work import ending_together
from palign.trainers.checkpointing.complete import CompleteCheckpoints
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.progress import show_named_progress
from palign.trainers.reward.collator import PairDataset, RewardCollator
from palign.trainers.reward.head_fit import HeadFitOptions, fit_head
from palign.trainers.reward.linear_fit import LinearFitOptions, fit_linear_head
from palign.trainers.reward.prototype_count import PrototypeChoice
from palign.trainers.reward.trial import PERSONAL_WIDTH, personal_basis, standardize
from palign.writing import saving, write_whole

__all__ = ["PALRewardTrainer", "check_prototype_count", "head_fit_options"]

logger = logging.getLogger(__name__)
Rows = Preferences | Iterable[Mapping[str, Any]]


def head_fit_options(args: PALRewardConfig) -> HeadFitOptions:
    """The options of the first stage."""
    return HeadFitOptions(
        args.head_epochs, args.head_learning_rate, args.head_batch_size, args.head_weight_decay,
        args.annotator_learning_rate, args.annotator_prior, args.loss_type, args.head_min_steps,
    )  # fmt: skip


class PALRewardTrainer(CompleteCheckpoints, Trainer):
    """A `transformers.Trainer` for `PALRewardModel`.

    Args:
        model: the model to train, in place.
        args: `PALRewardConfig`.
        train_dataset, eval_dataset: `Preferences`, or rows as `Preferences.from_rows` takes them.
        embeddings: (n, hidden) where rows name vectors.
        peft_config: a `peft.LoraConfig` puts LoRA on the backbone and trains it in a second stage.
        store: embeddings that are shared between trainers; one made where `args` say, if None.
        choice: what people held out chose (`palign.trainers.reward.prototype_count`): how a linear head is fitted, the
            temperature, a person's own part. Left as they are if None, and without the last where the backbone is
            trained: the states that it was tried on are gone.

    Raises:
        ValueError: rows and model do not fit (people without a row of weights, more prototypes than annotators,
            vectors for a model of text, …), before anything is computed.
    """

    def __init__(
        self,
        model: PALRewardModel,
        args: PALRewardConfig,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        *,
        embeddings: np.ndarray | None = None,
        peft_config: Any = None,
        store: EmbeddingStore | None = None,
        choice: PrototypeChoice | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        self.embeddings, self.choice = embeddings, choice
        self._store = store
        self.train_rows = self._preferences(train_dataset)
        self.eval_rows = None if eval_dataset is None else self._preferences(eval_dataset)
        _check_fit(model, self.train_rows, args, peft_config)
        if peft_config is not None:
            from peft import TaskType, get_peft_model

            refuse_copies(model, peft_config)
            peft_config.task_type = TaskType.FEATURE_EXTRACTION  # other types ask for a head, which a backbone lacks
            with torch.random.fork_rng():  # the trainer's seed comes only after this
                torch.manual_seed(args.seed)
                model.backbone.model = get_peft_model(model.backbone.model, peft_config)
        elif args.train_backbone:
            model.backbone.requires_grad_(True)
            model.config.backbone, model.config.backbone_revision = BACKBONE, None  # saved with the model from now on
        self.trains_backbone = peft_config is not None or args.train_backbone
        args.remove_unused_columns, args.label_names = False, []
        self._divided = divided_parameters(model)  # from loading to the end
        model.to(args.device)  # embeddings and the first stage are computed before transformers would move it
        leave_accelerator()
        if choice is not None and choice.personal is not None and not self.trains_backbone:
            model.add_deviations(*deviation_size(model, choice))
        self.head_history: list[dict[str, float]] = []
        super().__init__(
            model=model,
            args=args,
            train_dataset=PairDataset(self.train_rows),
            eval_dataset=None if self.eval_rows is None else PairDataset(self.eval_rows),
            data_collator=RewardCollator(
                model.backbone,
                self.train_rows,
                model.annotators,
                model.needs_prompts,
                plain_prompts=model.plain_prompts,
            ),
            callbacks=callbacks,
        )
        show_named_progress(self)
        self.model_accepts_loss_kwargs = False  # our loss is a mean: the trainer divides it by the accumulation steps
        if self.trains_backbone:
            plan_fsdp(self.accelerator, model)
            refuse_eval_in_parts(self, "PALRewardTrainer")

    # training

    writes_own_weights = True

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Both stages, as the options say; returns the second stage's `TrainOutput`, or None if there is none.

        Args:
            resume_from_checkpoint: True: go on from the last complete checkpoint, or begin where there is none; or
                its folder. Checkpoints are of the second stage and hold what the first one gave, which is then not
                fitted again; the first stage by itself begins anew.

        Raises:
            ValueError: the checkpoint is not complete, or of another run (`CompleteCheckpoints.train`).
        """
        model = self.accelerator.unwrap_model(self.model)
        resume = self.agreed_resume_point(resume_from_checkpoint) if self.trains_backbone else None
        if resume is None:
            data = self._states(self.train_rows, together=True).as_comparisons()
            fit = self._fit_head if self.trains_backbone else self._fit_alone
            self._on_main_process(lambda: fit(model, data))
        output = None
        if self.trains_backbone:
            model.people.logits.sparse = False
            rows_of = torch.from_numpy(model.annotators.indices(self.train_rows.annotator_ids))
            self._counts = torch.bincount(rows_of, minlength=len(model.annotators)).clamp_min(1)
            output = super().train(resume, **kwargs)
            self.leave_fsdp2()
            make_whole(model, self.model_wrapped, keep=self._divided)
            model.eval()
            data = self._states(self.train_rows, together=True).as_comparisons()  # the backbone has moved
        self._on_main_process(lambda: self._place_people(model, data))
        return output

    def deciding(self) -> dict[str, Any]:
        """What the head is: its options are the model's."""
        return {name: value for name, value in asdict(self.model.config).items() if not name.startswith("backbone")}

    def _fit_alone(self, model: PALRewardModel, data: RowTensors) -> None:
        """Stage one where there is no other, with the events of a training: a step is an epoch of the head's fit."""
        state, options = self.state, head_fit_options(self.args)
        is_linear = model.config.variant == "linear"
        state.max_steps = 1 if is_linear else options.schedule(len(data))[0] * self.args.n_restarts
        state.global_step, state.epoch, state.num_train_epochs = 0, 0.0, state.max_steps
        self.control = self.callback_handler.on_train_begin(self.args, state, self.control)
        self._fit_head(model, data)
        self.control = self.callback_handler.on_train_end(self.args, state, self.control)

    def _note_epoch(self, restart: int, epoch: int, loss: float) -> None:
        self.head_history.append({"restart": restart, "epoch": epoch, "loss": loss})
        if self.trains_backbone:  # whose steps are those of stage two
            return
        self.state.global_step += 1
        self.state.epoch = float(self.state.global_step)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        self.log({"loss": loss})

    def _fit_head(self, model: PALRewardModel, data: RowTensors) -> None:
        """Stage one, with restarts; the best training loss is kept."""
        options, best, best_state = head_fit_options(self.args), float("inf"), None
        if model.config.variant == "linear":
            linear = LinearFitOptions() if self.choice is None else self.choice.linear
            loss = fit_linear_head(model.head, model.people, data, linear, seed=self.args.seed)
            self._note_epoch(0, 1, loss)
            return
        epochs = options.schedule(len(data))[0]
        for restart in range(self.args.n_restarts):
            seed = self.args.seed + restart
            if restart:
                _draw_again(model, seed)
            standardize(model.head, data)
            is_shown = self.trains_backbone and not self.args.disable_tqdm  # else transformers' bar counts epochs
            with tqdm(total=epochs, desc="fitting heads", disable=not is_shown) as bar:

                def on_epoch(epoch: int, loss: float, bar: tqdm = bar, restart: int = restart) -> None:
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.4f}")
                    self._note_epoch(restart, epoch, loss)

                with torch.random.fork_rng():  # dropout too: the same seed gives the same head
                    torch.manual_seed(seed)
                    loss = fit_head(model.head, model.people, data, options, seed=seed, on_epoch=on_epoch)
            if self.args.n_restarts > 1 and loss < best:
                parts = (model.head.state_dict(), model.people.state_dict())
                best, best_state = loss, [{name: t.clone() for name, t in part.items()} for part in parts]
        if best_state is not None:
            model.head.load_state_dict(best_state[0])
            model.people.load_state_dict(best_state[1])

    def _place_people(self, model: PALRewardModel, data: RowTensors) -> None:
        """Freeze the population; replace everybody's weights by their posterior mean under it, at the temperature that
        people held out chose; fit their own parts.
        """
        if self.choice is not None and not self.trains_backbone:
            is_pooled = model.n_prototypes == 1
            model.set_temperature(self.choice.pooled_temperature if is_pooled else self.choice.temperature)
        counts = torch.bincount(data.annotator_index, data.evidence, len(model.annotators))
        model.people.freeze_population(counts, seed=self.args.seed)
        if self.args.smooth_annotators and self.args.loss_type == "logistic" and model.n_prototypes > 1:
            fit = fit_people(model.head, model.people, data, len(model.annotators), method="posterior")
            model.people.store(fit.weights)
            model.people.freeze_population(counts, seed=self.args.seed)
        if model.deviations is not None:
            model.deviations.center, model.deviations.basis = (part.to(model.device) for part in personal_basis(data))
            model.deviations.own.weight.copy_(model.fit_deviations(data, model.people.all()))

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean preference loss of the rows of a batch, and the people's prior (stage two)."""
        ranks = inputs.pop("ranks")
        scores, logits, center = model(**inputs)
        loss = preference_loss(scores, ranks, self.args.loss_type).mean()
        if self.args.annotator_prior and logits.shape[1] > 1:
            n_rows = self._counts.to(logits.device)[inputs["annotator_index"]]
            loss = loss + (self.args.annotator_prior * (logits - center).square().sum(-1) / n_rows).mean()
        return (loss, {"scores": scores}) if return_outputs else loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Backbone at `learning_rate`; head and people at a tenth of what they had in stage one."""
        if self.optimizer is None:
            model, options = self.accelerator.unwrap_model(self.model), self.args
            groups = [
                {"params": [p for p in model.backbone.parameters() if p.requires_grad],
                 "weight_decay": options.weight_decay},
                {"params": list(model.head.parameters()), "lr": options.head_learning_rate / 10,
                 "weight_decay": options.head_weight_decay},
                {"params": list(model.people.parameters()), "lr": options.annotator_learning_rate / 10,
                 "weight_decay": 0.0},
            ]  # fmt: skip
            self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
        return self.optimizer

    # judging

    def evaluate(
        self, eval_dataset: Rows | None = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Pair accuracy over strictly ordered items and mean log-likelihood (nats a row) of held-out rows."""
        rows = self.eval_rows if eval_dataset is None else self._preferences(eval_dataset)
        if rows is None:
            raise ValueError("There is nothing to evaluate on: give eval_dataset, here or to the trainer.")
        scores, ranks = self.predict_scores(rows, together=True), torch.from_numpy(rows.ranks.astype(np.int64))
        better = (ranks[:, None, :] > ranks[:, :, None]) & (ranks[:, :, None] >= 0)
        gaps = scores[:, :, None] - scores[:, None, :]
        right = ((gaps > 0).float() + 0.5 * (gaps == 0).float())[better]
        metrics = {
            f"{metric_key_prefix}_accuracy": float(right.mean()),
            f"{metric_key_prefix}_log_likelihood": float(-plackett_luce(scores, ranks).mean()),
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def predict_scores(
        self,
        rows: Preferences,
        *,
        weights: Tensor | None = None,
        deviations: Tensor | None = None,
        together: bool = False,
    ) -> Tensor:
        """Rewards (n_rows, max_items) of every item for the person of its row, or for `weights`; 0 at padding.

        `deviations`: (n_rows, personal_dim) beside such weights. `together`: all processes call this with the same
        rows, and each embeds its share of the texts.
        """
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        with outside_fsdp(model):  # parts of the model run by themselves
            return self._scores(model, rows, weights, deviations, together)

    def _scores(
        self,
        model: PALRewardModel,
        rows: Preferences,
        weights: Tensor | None,
        deviations: Tensor | None,
        together: bool,
    ) -> Tensor:
        data = self._states(rows, together=together)
        device = data.annotator_index.device
        people = model.people(data.annotator_index) if weights is None else weights.to(device).expand(len(data), -1)
        if weights is None and model.deviations is not None:
            deviations = model.deviations.of(data.annotator_index)
        own = None if deviations is None else deviations.to(device)
        scores = row_scores(model.head, data, people, deviations=model.deviations, own=own)
        return scores.masked_fill(data.ranks < 0, 0.0).cpu()

    @torch.no_grad()
    def prototype_scores(self, rows: Preferences) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Every completion of the rows as text (n,), its reward for each prototype (n, n_prototypes), its row (n,).

        Of vectors the text is "item" and the number of the vector.
        """
        model = self.accelerator.unwrap_model(self.model)
        data = self._states(rows)
        scores = linear_scores(model.head, data).cpu().numpy()
        texts, row, place = completion_texts(rows)
        return texts, scores[row, place], row

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What `PALRewardModel.save_pretrained` writes, once, by the main process."""
        model = self.accelerator.unwrap_model(self.model)
        # a backbone with a name of its own is not written, and in parts it stays where it is
        is_apart = model.config.backbone not in (None, BACKBONE)
        written = [held for held in model.parameters() if held.requires_grad or not is_apart]
        with whole(written), outside_fsdp(model):
            if not self.args.should_save:
                return
            card, folder = pal_card(model, n_rows=len(self.train_rows)), output_dir or self.args.output_dir
            with saving(folder, "The reward model"):
                model.save_pretrained(folder, card=card)
                save_trained_rows(folder, self.train_rows)

    def write_card(self, folder: Path) -> None:
        """README.md of the reward model."""
        model = self.accelerator.unwrap_model(self.model)
        write_whole(folder / "README.md", pal_card(model, n_rows=len(self.train_rows)))

    def read_weights(self, folder: Path) -> None:
        """Head, people and what was trained of the backbone, from a checkpoint of stage two."""
        model = self.accelerator.unwrap_model(self.model)
        load_own_state(model, folder)
        load_backbone_state(model, folder)

    # plumbing

    def _preferences(self, rows: Rows) -> Preferences:
        return Preferences.of(rows, embeddings=False if self.embeddings is None else len(self.embeddings))

    def _states(self, rows: Preferences, *, together: bool = False) -> RowTensors:
        """Rows as tensors; texts pass the backbone as it is now, each once, and are kept where the options say."""
        model = self.accelerator.unwrap_model(self.model)
        if rows.is_text:
            fingerprint = model.backbone.fingerprint()
            if self._store is None or self._store.fingerprint != fingerprint:
                self._store = EmbeddingStore(self.args.embedding_cache_dir, fingerprint, model.config.hidden_size)
        return model.row_tensors(
            rows, self.embeddings, store=self._store, batch_size=self.args.embedding_batch_size,
            show_progress=not self.args.disable_tqdm, together=together,
        )  # fmt: skip

    def _on_main_process(self, work: Any) -> None:
        """Do something to head and people once, and give every process the result."""
        model = self.accelerator.unwrap_model(self.model)
        with ending_together():
            if self.accelerator.is_main_process:
                work()
        if self.accelerator.num_processes > 1:
            deviations = {} if model.deviations is None else model.deviations.state_dict()
            held = [{"head": model.head.state_dict(), "people": model.people.state_dict(), "deviations": deviations,
                     "temperature": model.config.temperature}]  # fmt: skip
            torch.distributed.broadcast_object_list(held)
            model.set_temperature(held[0]["temperature"])
            if model.deviations is not None:
                model.deviations.basis = torch.empty_like(held[0]["deviations"]["basis"], device=model.device)
                model.deviations.load_state_dict(held[0]["deviations"])
            for name in ("support", "log_prior"):
                setattr(model.people, name, torch.empty_like(held[0]["people"][name]))
            model.head.load_state_dict(held[0]["head"])
            model.people.load_state_dict(held[0]["people"])


def deviation_size(model: PALRewardModel, choice: PrototypeChoice) -> tuple[int, float]:
    """Width and ridge of a person's own part."""
    return min(PERSONAL_WIDTH, model.config.hidden_size), choice.personal.ridge


def _draw_again(model: PALRewardModel, seed: int) -> None:
    """Fresh parameters for head and people."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.head.load_state_dict(model.config.make_head().state_dict())
        nn.init.normal_(model.people.logits.weight, std=0.1)


def check_prototype_count(n_prototypes: int, n_annotators: int) -> None:
    """ValueError where there are more prototypes than people."""
    if n_prototypes > n_annotators:
        raise ValueError(
            f"n_prototypes is {n_prototypes}, and the rows come from {n_annotators} annotators; there cannot be more "
            f"prototypes than people. Take at most {n_annotators}, or 'auto'."
        )


def _check_fit(model: PALRewardModel, rows: Preferences, args: PALRewardConfig, peft_config: Any) -> None:
    if len(rows) == 0:
        raise ValueError("There are no rows to train on.")
    people = rows.annotators()
    check_prototype_count(model.n_prototypes, len(people))
    model.annotators.indices(people.ids)  # strangers raise
    if rows.is_text != (model.backbone is not None):
        held, made = ("text", "for vectors") if rows.is_text else ("indices of vectors", "on a backbone")
        raise ValueError(
            f"The rows hold {held} and the model was made {made}. Use PALRewardModel.from_backbone for text, "
            "PALRewardModel.from_embeddings for vectors."
        )
    if peft_config is not None and args.train_backbone:
        raise ValueError("Both LoRA and train_backbone are asked for; train the backbone in one of the two ways.")
    if not rows.is_text and (peft_config is not None or args.train_backbone):
        raise ValueError(
            "There is no backbone to train: rows of vectors have none. Leave out use_peft/train_backbone."
        )
