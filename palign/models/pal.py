"""The PAL reward model: one backbone, K prototypes, and one row of weights for every annotator.

Source: Chen et al., *PAL: Sample-Efficient Personalized Reward Modeling for Pluralistic Alignment* (ICLR 2025;
arXiv 2406.08469).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from palign.data.annotators import AnnotatorIndex, canonical_ids
from palign.data.preferences import Preferences
from palign.data.turns import reads_plain
from palign.models.embeddings import EmbeddingStore, embed_preferences
from palign.models.notebook.drawing import Drawing
from palign.models.notebook.people_picture import draw_people
from palign.models.notebook.tables import columns_of, facts_table, plain_list
from palign.models.pal_config import PALConfig
from palign.models.people_deviations import PersonalDeviations
from palign.models.people_fit import FIT_METHODS, fit_people, scores_of
from palign.models.people_weights import AnnotatorWeights
from palign.models.row_tensors import RowTensors
from palign.models.scoring_inputs import checked_weights, require_same_length, states_once, vector_states
from palign.models.states.evaluating import evaluating
from palign.parallel.sharded import turns

if TYPE_CHECKING:
    import pandas as pd

    from palign.models.backbones import Backbone

__all__ = ["AnnotatorFit", "PALRewardModel"]

SPARSE_FROM = 100_000  # annotators; below, dense gradients are faster
ROWS_AT_ONCE = 16_384  # texts whose states are held while rewards are computed


@dataclass(frozen=True)
class AnnotatorFit:
    """People fitted from answers: `ids`, `weights` and `spread` (n, n_prototypes), `n_rows` (n,) answers each, and
    `deviations` (n, personal_dim) from their mixture, where the model has such.
    """

    ids: list[str]
    weights: Tensor
    spread: Tensor
    n_rows: Tensor
    deviations: Tensor | None = None


class PALRewardModel(nn.Module):
    """Rewards that know who they are for. Make one with `from_backbone`, `from_embeddings` or `from_pretrained`.

    Args:
        config: the architecture.
        annotators: the people who have a row of weights; the model keeps its list of them.
        backbone: turns text into pooled states; None when items are vectors.
    """

    def __init__(self, config: PALConfig, annotators: AnnotatorIndex, backbone: "Backbone | None" = None):
        super().__init__()
        self.config = config
        self.annotators = AnnotatorIndex(annotators.ids)
        self.backbone = backbone
        self.head = config.make_head()
        sparse = len(annotators) >= SPARSE_FROM
        self.people = AnnotatorWeights(len(annotators), config.n_prototypes, partition=config.partition, sparse=sparse)
        self.deviations: PersonalDeviations | None = None
        if config.personal_dim:
            self.add_deviations(config.personal_dim, config.personal_ridge)
        if backbone is not None:
            backbone.requires_grad_(False)

    def add_deviations(self, width: int, ridge: float) -> None:
        """Give everybody a deviation from their mixture, of that width, zero at first; it is saved with the model."""
        self.config.personal_dim, self.config.personal_ridge = width, ridge
        module = PersonalDeviations(len(self.annotators), self.config.hidden_size, width, ridge=ridge)
        self.deviations = module.to(self.device)

    def set_temperature(self, temperature: float) -> None:
        """What every reward of the head is multiplied by; it is saved with the model."""
        self.config.temperature = self.head.temperature = temperature

    @classmethod
    def from_backbone(
        cls,
        name_or_path_or_model: "str | Path | nn.Module",
        *,
        annotators: AnnotatorIndex,
        n_prototypes: int = 4,
        tokenizer: Any = None,
        dtype: str = "float32",
        revision: str | None = None,
        trust_remote_code: bool = False,
        pooling: str | None = None,
        layer: int | None = None,
        max_length: int = 1024,
        plain_prompts: bool = False,
        divided: bool = False,
        **options: Any,
    ) -> "PALRewardModel":
        """A fresh model on a hub name, a folder, or a transformers model with its tokenizer.

        Args:
            annotators: everybody who gets a row of weights.
            plain_prompts: read plain rows bare even where the tokenizer has a chat template.
            divided: as of `Backbone.from_pretrained`.
            options: further fields of `PALConfig` (`variant`, `mixing`, `preference_dim`, …).
        """
        from palign.models.backbones import Backbone

        PALConfig(hidden_size=1, n_prototypes=n_prototypes, **options)  # says what is wrong before a model is loaded
        if isinstance(name_or_path_or_model, nn.Module):
            if tokenizer is None:
                raise ValueError("A model object needs its tokenizer: from_backbone(model, tokenizer=…, …).")
            options_of_backbone = {"pooling": pooling, "layer": layer, "max_length": max_length}
            backbone = Backbone(name_or_path_or_model, tokenizer, **options_of_backbone)
            source = "backbone"
        else:
            backbone = Backbone.from_pretrained(
                str(name_or_path_or_model),
                dtype=dtype,
                revision=revision,
                trust_remote_code=trust_remote_code,
                pooling=pooling,
                layer=layer,
                max_length=max_length,
                divided=divided,
            )
            source = str(name_or_path_or_model)
        config = PALConfig(
            hidden_size=backbone.hidden_size,
            n_prototypes=n_prototypes,
            backbone=source,
            backbone_revision=revision,
            pooling=backbone.pooling,
            layer=backbone.layer,
            normalize=backbone.normalize,
            max_length=backbone.max_length,
            plain_prompts=reads_plain(backbone.tokenizer, plain_prompts),
            **options,
        )
        return cls(config, annotators, backbone)

    @classmethod
    def from_embeddings(
        cls, *, hidden_size: int, annotators: AnnotatorIndex, n_prototypes: int = 4, **options: Any
    ) -> "PALRewardModel":
        """A fresh model over ready vectors of any modality; `options` are further fields of `PALConfig`."""
        return cls(PALConfig(hidden_size=hidden_size, n_prototypes=n_prototypes, **options), annotators)

    @property
    def n_prototypes(self) -> int:
        """K."""
        return self.config.n_prototypes

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer; None when items are vectors."""
        return None if self.backbone is None else self.backbone.tokenizer

    @property
    def plain_prompts(self) -> bool:
        """Whether plain prompts and completions are read bare, or as turns (`palign.data.turns`)."""
        return self.config.plain_prompts

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return self.people.mean.device

    # who is asking

    def weights_for(self, annotator_ids: Iterable[object], *, unknown: str = "mean") -> Tensor:
        """Weights (batch, n_prototypes) of people; a stranger gets the population's mean, or `unknown='error'`."""
        if unknown not in ("mean", "error"):
            raise ValueError(f"unknown is {unknown!r}; it must be 'mean' or 'error'.")
        index = self.annotators.indices(annotator_ids, unknown=None if unknown == "error" else -1)
        with evaluating(self), torch.no_grad():
            return self.people(torch.from_numpy(index).to(self.device))

    def deviations_for(self, annotator_ids: Iterable[object]) -> Tensor | None:
        """Deviations (batch, personal_dim) of people from their mixture; zero for strangers, None without such."""
        if self.deviations is None:
            return None
        index = self.annotators.indices(annotator_ids, unknown=-1)
        return self.deviations.of(torch.from_numpy(index).to(self.device))

    def _weights(self, annotator_ids: Iterable[object] | None, weights: Tensor | None, n_rows: int) -> Tensor:
        if (annotator_ids is None) == (weights is None):
            raise ValueError("Say for whom to score: give either annotator_ids or weights, one of the two.")
        if weights is not None:
            return checked_weights(weights, n_rows, self.n_prototypes, self.device)
        is_one = np.isscalar(annotator_ids)
        row_weights = self.weights_for([annotator_ids] * n_rows if is_one else annotator_ids)
        if len(row_weights) != n_rows:
            raise ValueError(f"{n_rows} completions came with {len(row_weights)} people; each completion needs one.")
        return row_weights

    # scoring

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        item_rows: Tensor,
        annotator_index: Tensor,
        prompt_lengths: Tensor | None = None,
        prompt_input_ids: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        prompt_rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A training batch of `RewardCollator` → scores (rows, max_items); the people's logits (rows, n_prototypes)
        and their mean over everybody (n_prototypes,), which the prior needs.
        """
        states = self.backbone(input_ids, attention_mask, self._lengths(prompt_lengths))
        prompt_states = None
        if self.needs_prompts:
            if prompt_input_ids is None:
                prompt_states = states.prompt[item_rows[:, 0]]
            else:
                lengths = self._lengths(prompt_attention_mask.sum(1))
                prompt_states = self.backbone(prompt_input_ids, prompt_attention_mask, lengths).text[prompt_rows]
        logits = self.people.logits(annotator_index)
        scores = self._head_scores(states.text[item_rows], logits.softmax(-1), prompt_states)
        return scores, logits, self.people.logits.weight.detach().mean(0)

    def _head_scores(self, text: Tensor, weights: Tensor, prompt_states: Tensor | None) -> Tensor:
        """The head's scores of a training batch, in float32 as it is fitted and read, autocast or not.

        In bfloat16 a score of 3 is right to .008 only, and launches round the sums in the head differently.
        """
        if weights.dtype != torch.float32:  # an engine has cast all of the model
            return self.head(text, weights, prompt_states)
        with torch.autocast(text.device.type, enabled=False):
            return self.head(text.float(), weights, None if prompt_states is None else prompt_states.float())

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Compute the backbone's layers again in the backward pass instead of keeping them; as in transformers."""
        if self.backbone is not None:
            self.backbone.model.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """The same, as the first versions 5 of transformers call it."""
        if self.backbone is not None:
            self.backbone.model.gradient_checkpointing_enable(**options)

    def _lengths(self, prompt_lengths: Tensor | None) -> Tensor | None:
        """(batch,) where somebody reads them."""
        return prompt_lengths if self.needs_prompts or self.backbone.needs_lengths else None

    @property
    def needs_prompts(self) -> bool:
        """Whether the head reads the state of the prompt (PAL-B)."""
        return self.head.reads_prompts

    @torch.no_grad()
    def score_tokens(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        weights: Tensor,
        prompt_lengths: Tensor | None = None,
        *,
        deviations: Tensor | None = None,
    ) -> Tensor:
        """Rewards (batch,) of texts tokenised by the backbone's tokenizer, any padding; weights (batch, K).

        `prompt_lengths`: (batch,) tokens of the prompts; needed where the backbone pools the completion's own tokens
        or the head reads prompts. `deviations`: (batch, personal_dim) of the same people, as `deviations_for` gives;
        none if None.
        """
        with evaluating(self):
            states = self.backbone(input_ids, attention_mask, self._lengths(prompt_lengths))
            rewards = self.head(states.text, weights.to(self.device), states.prompt)
            return self._with_deviations(rewards, states.text, deviations)

    def score(
        self,
        prompts: Sequence[Any] | np.ndarray | None,
        completions: Sequence[Any] | np.ndarray,
        annotator_ids: Iterable[object] | None = None,
        *,
        weights: Tensor | None = None,
        deviations: Tensor | None = None,
        batch_size: int = 64,
    ) -> Tensor:
        """Rewards (batch,), each for its person.

        Args:
            prompts: (batch,) texts or lists of messages; vectors (batch, hidden) where the model has no backbone, or
                None where it needs none.
            completions: the same; items (batch, hidden) where the model has no backbone.
            annotator_ids: (batch,) people, or one id for all; strangers get the population's mean weights.
            weights: (batch, n_prototypes) or (n_prototypes,) on the simplex, instead of people.
            deviations: (batch, personal_dim) beside such weights, as `fit_annotators` gives; none if None.

        Each different text is read once. Above 1,000 of them a bar shows how far it is.
        """
        prompts, completions, annotator_ids = map(plain_list, (prompts, completions, annotator_ids))
        require_same_length(prompts, completions, needs_prompts=False)
        people = self._weights(annotator_ids, weights, len(completions))
        if weights is None and self.deviations is not None:
            is_one = np.isscalar(annotator_ids)
            deviations = self.deviations_for([annotator_ids] * len(completions) if is_one else annotator_ids)

        def rewards(states: Tensor, prompt_states: Tensor | None, rows: slice) -> Tensor:
            part = None if deviations is None else deviations[rows]
            return self._with_deviations(self.head(states, people[rows], prompt_states), states, part)

        return self._in_batches(prompts, completions, batch_size, rewards)

    def score_frame(
        self,
        frame: "pd.DataFrame",
        *,
        prompt_column: str = "prompt",
        completion_column: str = "completion",
        annotator_column: str = "annotator_id",
        batch_size: int = 64,
    ) -> "pd.DataFrame":
        """`score` of the rows of a data frame: the same frame with a column `reward` more.

        Raises:
            TypeError, ValueError: no data frame, or a column or a value in it is missing.
        """
        prompts, completions, people = columns_of(frame, (prompt_column, completion_column, annotator_column))
        return frame.assign(reward=self.score(prompts, completions, people, batch_size=batch_size).cpu().numpy())

    def _with_deviations(self, rewards: Tensor, states: Tensor, deviations: Tensor | None) -> Tensor:
        if deviations is None or self.deviations is None:
            return rewards
        return rewards + self.deviations.rewards(states, deviations.to(self.device))

    def score_prototypes(
        self,
        prompts: Sequence[Any] | np.ndarray | None,
        completions: Sequence[Any] | np.ndarray,
        *,
        batch_size: int = 64,
    ) -> Tensor:
        """Rewards (batch, n_prototypes) of every prototype; arguments as `score`."""
        return self._in_batches(prompts, completions, batch_size, lambda x, c, _: self.head.prototype_scores(x, c))

    def score_for_weights(
        self,
        prompts: Sequence[Any] | np.ndarray | None,
        completions: Sequence[Any] | np.ndarray,
        weights: Tensor,
        *,
        batch_size: int = 64,
    ) -> Tensor:
        """Rewards (batch, n_weights) of every completion for every one of weights (n_weights, n_prototypes)."""
        weights = weights.to(self.device)
        return self._in_batches(
            prompts, completions, batch_size, lambda x, c, _: self.head.scores_for_all(x[:, None], weights, c)[:, 0]
        )

    @torch.no_grad()
    def _in_batches(self, prompts: Any, completions: Any, batch_size: int, reward: Any) -> Tensor:
        prompts, completions = plain_list(prompts), plain_list(completions)
        require_same_length(prompts, completions, needs_prompts=self.needs_prompts or self.backbone is not None)
        step = batch_size if self.backbone is None else ROWS_AT_ONCE
        parts = []
        with evaluating(self):
            # where the backbone is divided, a process reads nothing of its own while others still do
            for start, is_own in turns(range(0, len(completions), step), len(completions), self):
                rows = slice(start, start + step)
                asked = None if prompts is None else prompts[rows]
                states, prompt_states = self._states(asked, completions[rows], batch_size)
                if not is_own:
                    continue
                for first in range(0, len(states), batch_size):
                    part = slice(first, first + batch_size)
                    of_prompts = None if prompt_states is None else prompt_states[part]
                    numbers = slice(start + first, start + min(first + batch_size, len(states)))
                    parts.append(reward(states[part], of_prompts, numbers))
        return torch.cat(parts) if parts else torch.empty(0, device=self.device)

    def _states(self, prompts: Any, completions: Any, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Pooled states of completions (batch, hidden) and, for PAL-B, of their prompts."""
        if self.backbone is not None:
            options = {"with_prompts": self.needs_prompts, "plain_prompts": self.plain_prompts}
            return states_once(self.backbone, prompts, completions, batch_size=batch_size, **options)
        states = vector_states(completions, self.config.hidden_size, self.device)
        return states, vector_states(prompts, self.config.hidden_size, self.device) if self.needs_prompts else None

    # people

    def row_tensors(
        self,
        prefs: Preferences,
        embeddings: np.ndarray | None = None,
        *,
        store: EmbeddingStore | None = None,
        annotator_index: np.ndarray | None = None,
        batch_size: int = 32,
        show_progress: bool = False,
        together: bool = False,
    ) -> RowTensors:
        """Preferences as tensors over pooled states; texts are embedded, vectors looked up in `embeddings`.

        `together`: all processes call this with the same rows, and each embeds its share.
        """
        if annotator_index is None:
            annotator_index = self.annotators.indices(prefs.annotator_ids, unknown=-1)
        if not prefs.is_text:
            if embeddings is None:
                raise ValueError("These rows name vectors by index: give the array they index as `embeddings`.")
            embeddings = self._embeddings(embeddings)
            prompts = embeddings if self.needs_prompts else None
            return RowTensors.of(prefs, annotator_index, embeddings, prompts).to(self.device)
        if self.backbone is None:
            made_of = "embeddings" if self.config.image_encoder is None else "images (--image_folder)"
            raise ValueError(f"These rows hold text, and this model was made from {made_of}: it has no backbone.")
        if store is None:  # an empty store is false, and is to be filled
            store = EmbeddingStore(None, self.backbone.fingerprint(), self.config.hidden_size)
        with evaluating(self), torch.no_grad():
            items, prompts = embed_preferences(
                self.backbone,
                prefs,
                store,
                with_prompts=self.needs_prompts,
                batch_size=batch_size,
                progress=show_progress,
                together=together,
                plain_prompts=self.plain_prompts,
            )
        return RowTensors.of(prefs, annotator_index, items, prompts).to(self.device)

    def _embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        if self.backbone is not None:
            raise ValueError("These rows name vectors, and this model was made on a backbone: give it rows of text.")
        if not isinstance(embeddings, np.ndarray):
            embeddings = np.asarray(embeddings, dtype=np.float32)
        if embeddings.ndim != 2 or embeddings.shape[1] != self.config.hidden_size:
            raise ValueError(
                f"embeddings have shape {embeddings.shape}; this model takes (n, {self.config.hidden_size}). Give the "
                "file it was trained on, or make a model of that hidden_size."
            )
        return embeddings

    def fit_annotators(
        self,
        rows: Preferences,
        *,
        embeddings: np.ndarray | None = None,
        method: str = "posterior",
        store: EmbeddingStore | None = None,
        seed: int = 0,
    ) -> AnnotatorFit:
        """Weights of people who were not in training, from their answers; nothing of the model changes.

        Args:
            rows: their answers, text or vectors as in training.
            embeddings: (n, hidden), where rows name vectors.
            method: `posterior` (default): Bayes with the seen people as the prior; `map`: the convex maximum a
                posteriori under a Dirichlet prior with the population's mean; `official`: the schedule of PAL's
                reference code.
            seed: of `official`.

        Returns:
            AnnotatorFit: hand it to `add_annotators`, or its weights to `score(weights=…)`.
        """
        if method not in FIT_METHODS:
            raise ValueError(f"method is {method!r}; it must be one of {', '.join(FIT_METHODS)}.")
        if not isinstance(rows, Preferences):
            rows = Preferences.from_rows(rows, embeddings=False if embeddings is None else len(embeddings))
        people = AnnotatorIndex(dict.fromkeys(canonical_ids(rows.annotator_ids).tolist()))
        data = self.row_tensors(rows, embeddings, store=store, annotator_index=people.indices(rows.annotator_ids))
        n_rows = torch.bincount(data.annotator_index, minlength=len(people)).cpu()
        data = data.as_comparisons()
        with evaluating(self), torch.no_grad():
            fit = fit_people(self.head, self.people, data, len(people), method=method, seed=seed)
            deviations = self.fit_deviations(data, fit.weights)
        deviations = None if deviations is None else deviations.cpu()
        return AnnotatorFit(people.ids, fit.weights.cpu(), fit.spread.cpu(), n_rows, deviations)

    @torch.no_grad()
    def fit_deviations(self, data: RowTensors, weights: Tensor) -> Tensor | None:
        """Deviations (n_people, personal_dim) of people with weights (n_people, n_prototypes) from rows that number
        them; None where the model has none.
        """
        if self.deviations is None:
            return None
        with evaluating(self):
            offsets = scores_of(self.head, data, weights)
        return self.deviations.fit(
            data.item_states,
            data.item_indices,
            data.ranks,
            data.annotator_index,
            offsets,
            len(weights),
            row_weights=data.evidence,
        )

    def add_annotators(self, fit: AnnotatorFit) -> None:
        """Give fitted people rows of their own; nobody else's score moves by a bit."""
        weights = checked_weights(fit.weights, len(fit.ids), self.n_prototypes, self.device)
        self.annotators.add(fit.ids)
        self.people.append(weights)
        if self.deviations is not None:
            width = self.config.personal_dim
            self.deviations.append(torch.zeros(len(fit.ids), width) if fit.deviations is None else fit.deviations)

    # files

    def save_pretrained(self, save_directory: str | Path, *, card: str | None = None) -> None:
        """Write model.safetensors, config.json, annotators.json, README.md and, unless it has a name, the backbone."""
        from palign.models.files.pal import save_model

        save_model(self, Path(save_directory), card)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, device: str | torch.device | None = None, **options: Any
    ) -> "PALRewardModel":
        """Read a folder, or a hub name, that `save_pretrained` wrote.

        Args:
            device: where it goes, such as "cuda"; the CPU if unset.
            options: to the backbone's loading.
        """
        from palign.models.files.pal import load_model

        return load_model(cls, str(name_or_path), options).to(device or "cpu")

    # in a notebook

    def facts(self) -> dict[str, str]:
        """What the model is, name → text."""
        config = self.config
        facts = {"prototypes": f"{self.n_prototypes}", "people": f"{len(self.annotators):,}"}
        facts |= {"backbone": config.backbone or f"none: vectors of {config.hidden_size} numbers"}
        facts |= {"head": config.variant, "temperature": f"{config.temperature:g}"}
        facts |= {"a person's own part": f"{config.personal_dim} numbers" if config.personal_dim else "none"}
        return facts | {"device": str(self.device)}

    def __repr__(self) -> str:
        return f"PALRewardModel({'; '.join(f'{name}: {value}' for name, value in self.facts().items())})"

    def _repr_html_(self) -> str:
        return facts_table("PAL reward model", self.facts())

    def plot_people(self, names: Sequence[str] | None = None, *, seed: int = 0) -> Drawing:
        """Everybody among the prototypes: the last line of a notebook's cell shows it, `.save(path)` keeps it.

        Args:
            names: (n_prototypes,) at the corners; `prototype_0` … if None.
            seed: of the small shifts that keep equal people apart.

        Raises:
            ValueError: one prototype alone, or another number of names.
        """
        names = [f"prototype_{k}" for k in range(self.n_prototypes)] if names is None else list(names)
        if len(names) != self.n_prototypes:
            raise ValueError(f"{len(names)} names were given for {self.n_prototypes} prototypes.")
        return draw_people(self.people.all().detach().cpu().numpy(), self.annotators.ids, names, seed=seed)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        allow_personal_ids: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes; returns the address of the commit.

        Raises:
            ValueError: ids of annotators look like e-mail addresses, and `allow_personal_ids` is not set.
        """
        from palign.data.pseudonyms import refuse_personal_ids
        from palign.models.files.pal import push_model

        if not allow_personal_ids:
            refuse_personal_ids(self.annotators.ids, "say allow_personal_ids=True")
        return push_model(self, repo_id, private, token)
