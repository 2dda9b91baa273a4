"""Training of a PAL reward model: head and people over frozen states first, then, if asked, the backbone with them.

Where we differ from the reference code: embeddings are computed once; every text is pooled once; people are shrunk to
the population by a prior; and training ends with everybody's posterior mean, so that somebody of whom little is known
is served like the population, and nobody worse than by one pooled reward for want of data.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from palign.functional.losses import plackett_luce, preference_loss
from palign.models.embeddings import EmbeddingStore
from palign.models.files.pal import BACKBONE, load_backbone_state, load_own_state, pal_card
from palign.models.pal import PALRewardModel
from palign.models.row_tensors import RowTensors
from palign.parallel.deepspeed_launch import leave_accelerator, refuse_eval_in_parts
from palign.parallel.divided_training import refuse_copies
from palign.parallel.fsdp_launch import plan_fsdp
from palign.parallel.half_precision import plan_half_precision
from palign.parallel.sharded import divided_parameters, make_whole
from palign.parallel.shared_work import ending_together
from palign.trainers.checkpointing.complete import CompleteCheckpoints
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.progress import show_named_progress
from palign.trainers.reward.collator import PairDataset, RewardCollator
from palign.trainers.reward.head_training import HeadTraining, Rows
from palign.trainers.reward.prototype_count import PrototypeChoice
from palign.writing import write_whole

__all__ = ["PALRewardTrainer"]

logger = logging.getLogger(__name__)


class PALRewardTrainer(HeadTraining, CompleteCheckpoints, Trainer):
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
        self.hold(
            model, args, train_dataset, eval_dataset, embeddings=embeddings, store=store, choice=choice,
            peft_config=peft_config,
        )  # fmt: skip
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
        args.remove_unused_columns, args.label_names = False, []
        self._divided = divided_parameters(model)  # from loading to the end
        self.prepare(model, args.device)  # the first stage is computed before transformers would move it
        leave_accelerator()
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
            plan_half_precision(self.accelerator, model)
            refuse_eval_in_parts(self, "PALRewardTrainer")

    @property
    def bare_model(self) -> PALRewardModel:
        """The PAL model, out of what Accelerate has put around it."""
        return self.accelerator.unwrap_model(self.model)

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
        model = self.bare_model
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
        state = self.state
        state.max_steps = self.n_epochs(data)
        state.global_step, state.epoch, state.num_train_epochs = 0, 0.0, state.max_steps
        self.control = self.callback_handler.on_train_begin(self.args, state, self.control)
        self._fit_head(model, data)
        self.control = self.callback_handler.on_train_end(self.args, state, self.control)

    def epoch_ended(self, loss: float) -> None:
        """A step of a training that has no other steps."""
        self.state.global_step += 1
        self.state.epoch = float(self.state.global_step)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        self.log({"loss": loss})

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
            model, options = self.bare_model, self.args
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

    def write_card(self, folder: Path) -> None:
        """README.md of the reward model."""
        model = self.bare_model
        write_whole(folder / "README.md", pal_card(model, n_rows=len(self.train_rows)))

    def read_weights(self, folder: Path) -> None:
        """Head, people and what was trained of the backbone, from a checkpoint of stage two."""
        model = self.bare_model
        load_own_state(model, folder)
        load_backbone_state(model, folder)

    # plumbing

    def _on_main_process(self, work: Any) -> None:
        """Do something to head and people once, and give every process the result."""
        model = self.bare_model
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
