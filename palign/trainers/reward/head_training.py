"""The first stage of a PAL reward, and what the model says after it: all that needs states of items and no trainer.

`PALRewardTrainer` has it from here, and so has `VectorFit`, which needs nothing of transformers: one fit, one way to
place people, to score and to save.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from palign.data.guards.finding import completion_texts
from palign.data.preferences import Preferences
from palign.data.trained_rows import save_trained_rows
from palign.models.embeddings import EmbeddingStore
from palign.models.files.pal import pal_card, save_model, written_backbone
from palign.models.pal import PALRewardModel
from palign.models.people_fit import fit_people, linear_scores, row_scores
from palign.models.row_tensors import RowTensors
from palign.parallel.fsdp import outside_fsdp
from palign.parallel.sharded import whole
from palign.trainers.reward.head_fit import fit_head
from palign.trainers.reward.linear_fit import LinearFitOptions, fit_linear_head
from palign.trainers.reward.prototype_count import PrototypeChoice
from palign.trainers.reward.trial import PERSONAL_WIDTH, personal_basis, standardize
from palign.writing import saving

if TYPE_CHECKING:
    from palign.trainers.reward.options import HeadOptions

__all__ = ["HeadTraining", "Rows", "check_prototype_count"]

Rows = Preferences | Iterable[Mapping[str, Any]]


class HeadTraining:
    """Fits head and people of a `PALRewardModel` over states that stay as they are, judges rows and saves.

    Whoever inherits it calls `hold`, sets `model` and `args`, and says where an epoch ends (`epoch_ended`).

    Attributes:
        model: what is trained, perhaps wrapped; `bare_model` is the PAL model itself.
        args: options of the head, with `output_dir`, `seed`, `disable_tqdm` and `should_save`.
        train_rows, eval_rows: checked; the second may be None.
        head_history: `restart`, `epoch` and `loss` (nats a row) of every epoch.
    """

    model: nn.Module
    args: "HeadOptions"

    def hold(
        self,
        model: PALRewardModel,
        args: "HeadOptions",
        train_dataset: Rows,
        eval_dataset: Rows | None,
        *,
        embeddings: np.ndarray | None,
        store: EmbeddingStore | None = None,
        choice: PrototypeChoice | None = None,
        peft_config: Any = None,
    ) -> None:
        """Keep the rows, and check that they fit the model.

        Raises:
            ValueError: they do not.
        """
        self.embeddings, self.choice, self._store = embeddings, choice, store
        self.train_rows = self._preferences(train_dataset)
        self.eval_rows = None if eval_dataset is None else self._preferences(eval_dataset)
        _check_fit(model, self.train_rows, args, peft_config)
        self.trains_backbone = peft_config is not None or args.train_backbone
        self.head_history: list[dict[str, float]] = []

    def prepare(self, model: PALRewardModel, device: torch.device) -> None:
        """Move the model, and add what people held out chose beside its prototypes."""
        model.to(device)
        if self.choice is not None and self.choice.personal is not None and not self.trains_backbone:
            model.add_deviations(*deviation_size(model, self.choice))

    @property
    def bare_model(self) -> PALRewardModel:
        """The PAL model, without what a trainer may have put around it."""
        return self.model

    def epoch_ended(self, loss: float) -> None:
        """An epoch of the head's fit is over, where there is no second stage; `loss` is its mean, nats a row."""

    def n_epochs(self, data: RowTensors) -> int:
        """Epochs of the fit over these rows, those of all restarts."""
        is_linear = self.bare_model.config.variant == "linear"
        return 1 if is_linear else self.args.head_fit_options().schedule(len(data))[0] * self.args.n_restarts

    def _note_epoch(self, restart: int, epoch: int, loss: float) -> None:
        self.head_history.append({"restart": restart, "epoch": epoch, "loss": loss})
        if not self.trains_backbone:  # else steps are those of stage two
            self.epoch_ended(loss)

    def _fit_head(self, model: PALRewardModel, data: RowTensors) -> None:
        """Stage one, with restarts; the best training loss is kept."""
        options, best, best_state = self.args.head_fit_options(), float("inf"), None
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
            is_shown = self.trains_backbone and not self.args.disable_tqdm  # else another bar counts epochs
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
        model = self.bare_model
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
        model = self.bare_model
        data = self._states(rows)
        scores = linear_scores(model.head, data).cpu().numpy()
        texts, row, place = completion_texts(rows)
        return texts, scores[row, place], row

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What `PALRewardModel.save_pretrained` writes, once, by the main process."""
        model = self.bare_model
        backbone = written_backbone(model)
        is_trained_whole = getattr(self.args, "train_backbone", False)
        beside = [
            held for name, held in model.named_parameters()
            if not name.startswith("backbone.") or (held.requires_grad and not is_trained_whole)
        ]  # fmt: skip
        with whole(beside), outside_fsdp(model):
            if not self.args.should_save:
                return
            card, folder = pal_card(model, n_rows=len(self.train_rows)), output_dir or self.args.output_dir
            with saving(folder, "The reward model"):
                save_model(model, Path(folder), card, backbone_state=backbone)
                save_trained_rows(folder, self.train_rows)

    def _preferences(self, rows: Rows) -> Preferences:
        return Preferences.of(rows, embeddings=False if self.embeddings is None else len(self.embeddings))

    def _states(self, rows: Preferences, *, together: bool = False) -> RowTensors:
        """Rows as tensors; texts pass the backbone as it is now, each once, and are kept where the options say."""
        model = self.bare_model
        if rows.is_text:
            fingerprint = model.backbone.fingerprint()
            if self._store is None or self._store.fingerprint != fingerprint:
                self._store = EmbeddingStore(self.args.embedding_cache_dir, fingerprint, model.config.hidden_size)
        return model.row_tensors(
            rows, self.embeddings, store=self._store, batch_size=self.args.embedding_batch_size,
            show_progress=not self.args.disable_tqdm, together=together,
        )  # fmt: skip


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


def _check_fit(model: PALRewardModel, rows: Preferences, args: "HeadOptions", peft_config: Any) -> None:
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
