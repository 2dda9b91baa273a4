"""K policies on one base, and who is served by which."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from palign.contents import locked
from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.functional.evidence.components import evidence_of_rows
from palign.functional.mixture import responsibilities, sum_by_annotator
from palign.models.adapters import TypePolicies, load_type_adapters, route
from palign.models.architectures import stop_ids
from palign.models.completions import TokenizedItems, prompt_ids
from palign.models.files.base_files import load_base, require_fitting
from palign.models.files.mixture import BASE, MixtureRecord, load_mixture
from palign.models.reference_logps import reference_pass
from palign.models.type_scores import gathered, implicit_rewards, row_log_likelihoods, type_logps
from palign.parallel.sharded import is_sharded
from palign.reading import reading

__all__ = ["Answer", "MixturePolicy", "TypePosterior"]

Rows = Preferences | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Answer:
    """What a type wrote.

    Attributes:
        text: without special tokens and outer spaces.
        is_cut: whether it did not end within the limit of tokens.
    """

    text: str
    is_cut: bool


@dataclass(frozen=True)
class TypePosterior:
    """Who belongs to which type, as far as their votes say.

    Attributes:
        annotators: the people, in order of first appearance.
        responsibilities: (n_annotators, n_types), rows sum to 1.
        n_rows: (n_annotators,) votes of each.
    """

    annotators: AnnotatorIndex
    responsibilities: Tensor
    n_rows: Tensor

    @property
    def types(self) -> dict[str, int]:
        """Everybody's likeliest type."""
        return dict(zip(self.annotators.ids, self.responsibilities.argmax(1).tolist(), strict=True))


class MixturePolicy:
    """A language model with one adapter for each type, the share of each type, and the people it knows.

    Args:
        policies: the adapters on their base.
        tokenizer: of the base.
        record: people, responsibilities, mixing weights, beta.
        reference_cache_dir: folder of reference log-probabilities; in memory if None.
        autocast_dtype: in which judging runs; the reference must be read in the precision of the types.
    """

    def __init__(
        self,
        policies: TypePolicies,
        tokenizer: PreTrainedTokenizerBase,
        record: MixtureRecord,
        *,
        reference_cache_dir: str | Path | None = None,
        autocast_dtype: torch.dtype | None = None,
    ):
        self.policies, self.tokenizer, self.record = policies, tokenizer, record
        self.reference_cache_dir, self.autocast_dtype = reference_cache_dir, autocast_dtype

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        model: Any = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "auto",
        trust_remote_code: bool = False,
        divided: bool = False,
    ) -> "MixturePolicy":
        """Read what `MixtureDPOTrainer.save_model` wrote.

        Args:
            folder: with mixture.json, responsibilities.parquet and type_0 …
            model: the base, if it is loaded already; else it is read from where mixture.json says.
            divided: the base in parts under ZeRO-3 (`palign.parallel.sharded.loading`).

        Raises:
            ValueError: a file or an adapter is missing, or the base is not a model folder.
        """
        folder = Path(folder).expanduser()
        with locked(folder, exclusive=False):  # people and weights of one save
            record = load_mixture(folder)
            name, load = record.base_model or str(folder / BASE), {"trust_remote_code": trust_remote_code}
            if model is None:
                model = load_base(name, dtype=dtype, divided=divided, **load)
            place = str(folder) if (folder / "tokenizer_config.json").is_file() else name
            with reading(place, "The tokenizer"):
                tokenizer = AutoTokenizer.from_pretrained(place, **load)
            require_fitting(tokenizer, model, place)
            policies = TypePolicies(load_type_adapters(model, folder, record.n_types))
        policies.to(device).eval()
        return cls(policies, tokenizer, record)

    @property
    def n_types(self) -> int:
        """K."""
        return self.record.n_types

    @property
    def mixing_weights(self) -> Tensor:
        """(n_types,) float64: the share of each type among the annotators."""
        return torch.from_numpy(self.record.mixing_weights)

    def responsibilities_for(self, annotator_ids: Sequence[object]) -> Tensor:
        """(n_ids, n_types) of people that were trained on; a stranger has the mixing weights."""
        rows = self.record.annotators.indices(annotator_ids, unknown=-1)
        known = np.concatenate([self.record.responsibilities, self.record.mixing_weights[None]])
        return torch.from_numpy(known[rows])

    def items_of(self, prefs: Preferences) -> TokenizedItems:
        """Rows as the types read them in training."""
        record = self.record
        return TokenizedItems.of(
            prefs, self.tokenizer, max_length=record.max_length, plain_prompts=record.plain_prompts
        )

    # judging

    def type_rewards(
        self, rows: Rows, *, batch_size: int = 32, together: bool = False, show_progress: bool = False
    ) -> Tensor:
        """(rows, max_items, n_types) float64: β·h_k of every item, 0 at padding.

        Args:
            show_progress: draw a progress bar.
            together: all processes call this with the same rows; each computes its share, all get the whole.
        """
        prefs = Preferences.of(rows)
        items = self.items_of(prefs)
        used = np.zeros(len(prefs.items), dtype=bool)
        used[prefs.item_indices[prefs.item_indices >= 0]] = True
        share = {"rank": PartialState().process_index, "n_ranks": PartialState().num_processes} if together else {}
        options = {"cache_dir": self.reference_cache_dir, "batch_size": batch_size, "show_progress": show_progress}
        device, wanted = self.policies.policy.device, np.repeat(used[:, None], self.n_types, axis=1)
        with torch.autocast(device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            reference = reference_pass(self.policies.policy, items, **options, **share)
            share |= {"show_progress": show_progress and PartialState().is_main_process, "label": "judging"}
            logps = type_logps(self.policies, items, wanted, batch_size=batch_size, **share)
        if together:
            logps = gathered(logps)
        return implicit_rewards(prefs, logps, np.asarray(reference.logps, dtype=np.float64), beta=self.record.beta)

    def scores(self, rows: Rows, *, batch_size: int = 32, together: bool = False) -> Tensor:
        """(rows, max_items) float64: Σ_k γ_ik β·h_k, the reward that the person of the row is expected to give.

        `together` as in `type_rewards`.
        """
        prefs = Preferences.of(rows)
        return self.expected_rewards(self.type_rewards(prefs, batch_size=batch_size, together=together), prefs)

    def expected_rewards(self, rewards: Tensor, rows: Preferences) -> Tensor:
        """(rows, max_items): the mean over types of rewards (rows, max_items, n_types), each row by its person."""
        return (rewards * self.responsibilities_for(rows.annotator_ids)[:, None]).sum(2)

    def posterior(self, rows: Rows, *, batch_size: int = 32) -> TypePosterior:
        """The types of people from their votes, mixing weights as the prior (Bayes; by stages, in log space).

        Args:
            rows: `Preferences`, or rows as `Preferences.from_rows` takes them; the people may be strangers.
        """
        prefs = Preferences.of(rows)
        people = prefs.annotators()
        index = torch.from_numpy(people.indices(prefs.annotator_ids))
        likelihoods = row_log_likelihoods(self.type_rewards(prefs, batch_size=batch_size), prefs.ranks)
        evidence = torch.from_numpy(evidence_of_rows(prefs.item_indices, prefs.ranks, index.numpy()))
        likelihoods = likelihoods * evidence[:, None]
        summed = sum_by_annotator(likelihoods, index, len(people))
        return TypePosterior(
            people, responsibilities(summed, self.mixing_weights), torch.bincount(index, minlength=len(people))
        )

    # speaking

    def generate(self, prompts: Sequence[Any], **options: Any) -> list[str]:
        """The texts of `answers`, which takes the same arguments."""
        return [answer.text for answer in self.answers(prompts, **options)]

    @torch.no_grad()
    def answers(
        self,
        prompts: Sequence[Any],
        *,
        annotator_ids: Sequence[object] | None = None,
        type: int | None = None,  # noqa: A002  (the field's word)
        weights: Any = None,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        batch_size: int = 32,
        seed: int = 0,
        show_progress: bool = False,
        **generation: Any,
    ) -> list[Answer]:
        """One completion for each prompt, written by one type.

        Args:
            prompts: (n_prompts,) texts or lists of messages.
            annotator_ids: (n_prompts,) who asks: their likeliest type answers; for a stranger one is drawn by the
                mixing weights.
            type: 0 … n_types − 1, for all prompts.
            weights: (n_types,) or (n_prompts, n_types): for each prompt one type is drawn, which then says the whole
                answer.
            max_new_tokens, temperature: of the draw; temperature 0 takes the likeliest token.
            seed: of both draws.
            show_progress: draw a progress bar.
            generation: further options of `generate`.

        Raises:
            TypeError: a single prompt in place of a list.
            ValueError: not exactly one of the three, or one that does not fit.
        """
        if isinstance(prompts, str) or any(isinstance(prompt, Mapping) for prompt in prompts):
            raise TypeError("prompts is a single prompt; a list of prompts is needed: give [prompt].")
        types = self._types_for(len(prompts), annotator_ids, type, weights, seed)
        ids = prompt_ids(prompts, self.tokenizer, plain_prompts=self.record.plain_prompts)
        answers = [Answer("", False)] * len(ids)
        self.policies.eval()
        bar = tqdm(total=len(ids), desc="answers", unit="text", disable=not show_progress)
        with torch.random.fork_rng(), bar:
            torch.manual_seed(seed)
            for k in range(self.n_types):
                rows = np.flatnonzero(types == k)
                with route(self.policies.policy, f"type_{k}"):
                    for start in range(0, len(rows), batch_size):
                        part = rows[start : start + batch_size]
                        drawn = self._sample([ids[i] for i in part], max_new_tokens, temperature, generation)
                        for i, answer in zip(part, drawn, strict=True):
                            answers[i] = answer
                        bar.update(len(part))
        return answers

    def _sample(
        self, ids: list[list[int]], max_new_tokens: int, temperature: float, generation: dict[str, Any]
    ) -> list[Answer]:
        tokenizer, policy = self.tokenizer, self.policies.policy
        stops = stop_ids(tokenizer, policy)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        longest = max(len(row) for row in ids)
        padded = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in ids])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        generation = {"synced_gpus": is_sharded(policy)} | generation
        sequences = policy.generate(
            input_ids=padded.to(policy.device),
            attention_mask=mask.to(policy.device),
            pad_token_id=pad,
            eos_token_id=stops,
            max_new_tokens=max_new_tokens,
            **(sampling if temperature > 0 else {"do_sample": False}),
            **generation,
        )
        written = sequences[:, longest:]
        is_cut = ~torch.isin(written, torch.tensor(stops, device=written.device)).any(1)
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        return [Answer(text.strip(), cut) for text, cut in zip(texts, is_cut.tolist(), strict=True)]

    def _types_for(
        self, n_prompts: int, annotator_ids: Sequence[object] | None, fixed: int | None, weights: Any, seed: int
    ) -> np.ndarray:
        """(n_prompts,) the type that answers each."""
        choices = {"annotator_ids": annotator_ids, "type": fixed, "weights": weights}
        given = [name for name, choice in choices.items() if choice is not None]
        if len(given) != 1:
            raise ValueError(
                f"generate was given {' and '.join(given) or 'none'} of annotator_ids, type and weights; give exactly "
                "one, to say which type answers."
            )
        if fixed is not None:
            if not 0 <= fixed < self.n_types:
                raise ValueError(f"type is {fixed}; this mixture has types 0 to {self.n_types - 1}.")
            return np.full(n_prompts, fixed)
        rng = np.random.default_rng(seed)
        if annotator_ids is not None:
            if len(annotator_ids) != n_prompts:
                raise ValueError(
                    f"{n_prompts} prompts came with {len(annotator_ids)} annotator ids; give one for each."
                )
            rows = self.record.annotators.indices(annotator_ids, unknown=-1)
            drawn = rng.choice(self.n_types, size=n_prompts, p=self.record.mixing_weights)
            return np.where(rows >= 0, self.record.responsibilities.argmax(1)[rows], drawn)
        return _drawn(np.asarray(weights, dtype=np.float64), n_prompts, self.n_types, rng)


def _drawn(weights: np.ndarray, n_prompts: int, n_types: int, rng: np.random.Generator) -> np.ndarray:
    if weights.shape not in ((n_types,), (n_prompts, n_types)):
        raise ValueError(f"weights have shape {weights.shape}; ({n_types},) or ({n_prompts}, {n_types}) is needed.")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights.sum(-1) > 0).all()):
        raise ValueError("weights must be finite, 0 or more, and not all 0.")
    shares = (weights / weights.sum(-1, keepdims=True)).cumsum(-1)
    return (rng.random(n_prompts)[:, None] > np.broadcast_to(shares, (n_prompts, n_types))[:, :-1]).sum(1)
