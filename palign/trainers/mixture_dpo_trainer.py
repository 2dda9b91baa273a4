"""EM mixture-DPO: latent annotator types and one LoRA adapter for each (Chidambaram et al., arXiv 2405.15065).

Annotator i has a latent type z_i with prior η; type k prefers by Plackett–Luce on β·h_k, h_k = log π_k − log π_ref.
E-step: γ_ik ∝ η_k Π_rows p_k(row). M-step: every adapter is trained by DPO with each row's loss multiplied by γ.

Where we differ from the paper, and why:

1. EM is first run to the end on a linear reward over frozen embeddings (seconds); K and the first responsibilities
   come from there. The paper starts the language models from a random or clustered assignment.
2. M-steps go on from the adapters of the round before; the paper starts each again from the reference.
3. Reference log-probabilities are computed once for each different completion, and kept on disk.
4. A row trains one type drawn by its responsibilities (`m_step="sampled"`): an unbiased gradient at the price of one
   DPO run for all types together. `"weighted"` is the sum over types.
5. E-steps are tempered in all rounds but the last.
6. Where asked, the reference is warmed up on the answers first (`sft_epochs`), and the likelihood of the best answer
   joins the loss (`rpo_alpha`).
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, set_seed

from palign.data.preferences import Preferences
from palign.data.trained_rows import save_trained_rows
from palign.data.turns import reads_plain
from palign.data.vote_counts import VoteCounts, count_votes
from palign.functional.evidence.components import evidence_of_rows
from palign.functional.losses import implicit_reward, nll_of_best, pair_order, plackett_luce
from palign.functional.mixture import log_evidence, mixing_weights, temper_schedule
from palign.functional.mixture_checks import row_margins
from palign.models.adapters import (
    TypePolicies,
    adapter_state,
    disable_dropout,
    read_type_adapters,
    remove_types_from,
    require_grad,
    restore_adapter_state,
    save_type_adapters,
)
from palign.models.completions import TokenizedItems
from palign.models.files.mixture import (
    BASE,
    RECORD_FILE,
    MixtureRecord,
    mixture_card,
    named_base,
    packed_prompts,
    save_mixture,
)
from palign.models.mixture_policy import MixturePolicy
from palign.models.reference_logps import ReferencePass, reference_pass
from palign.models.type_scores import gathered, row_log_likelihoods
from palign.parallel.deepspeed_launch import leave_accelerator
from palign.parallel.divided_training import refuse_copies
from palign.parallel.fsdp import divide_again, outside_fsdp
from palign.parallel.fsdp_launch import plan_fsdp
from palign.parallel.half_precision import plan_half_precision
from palign.parallel.sharded import divided_parameters, trained_state
from palign.trainers.checkpointing.complete import CompleteCheckpoints
from palign.trainers.length_windows import LengthWindows
from palign.trainers.mixture.collator import MixtureCollator
from palign.trainers.mixture.e_step import (
    checks_of_round,
    likelihoods_of_rows,
    posterior_of_round,
    reference_likelihoods,
    words_beside,
)
from palign.trainers.mixture.metrics import TrainingSums
from palign.trainers.mixture.rounds import DivergenceError, RoundCallback, decides_rounds, refuse_divergence
from palign.trainers.mixture.row_betas import check_row_betas, row_betas_key, row_betas_record
from palign.trainers.mixture.start import LinearHead, LinearStart, given_start, linear_start
from palign.trainers.mixture.state import MixtureState, round_ends
from palign.trainers.mixture.warm_start import nats_per_token, unlikely_answers, warm_start
from palign.trainers.mixture.waves import Evidence, RowSums, read_in_waves
from palign.trainers.mixture_dpo_config import MixtureDPOConfig, MStep, TypesFrom
from palign.trainers.progress import show_named_progress
from palign.trainers.reward.collator import PairDataset
from palign.writing import saving, whole_files, write_whole

__all__ = ["MixtureDPOTrainer"]

logger = logging.getLogger(__name__)
Rows = Preferences | Iterable[Mapping[str, Any]]


class MixtureDPOTrainer(CompleteCheckpoints, Trainer):
    """A `transformers.Trainer` that finds types of annotators and trains one LoRA for each.

    Args:
        model: a causal language model without adapters, which is also the reference.
        args: `MixtureDPOConfig`.
        train_dataset, eval_dataset: `Preferences`, or rows as `Preferences.from_rows` takes them.
        processing_class: the tokenizer.
        peft_config: a `peft.LoraConfig` for each type.
        responsibilities: (n_annotators, n_types) in the order of `Preferences.annotators()`, for types_from='given'.
        row_betas: (n_rows,) DPO's beta of each row of `train_dataset`, in place of `args.beta`; for one type.
        linear_head: finds the types that EM starts from, instead of the one in `linear_start`.
        cheap_head: former name of it, taken for one version.

    Raises:
        ValueError: rows and options do not fit. The model is not run here, but in `prepare`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: MixtureDPOConfig,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        peft_config: PeftConfig,
        responsibilities: np.ndarray | Tensor | None = None,
        row_betas: np.ndarray | Tensor | None = None,
        linear_head: LinearHead | None = None,
        cheap_head: LinearHead | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        refuse_copies(model, peft_config)
        self.train_rows = Preferences.of(train_dataset)
        self.eval_rows = None if eval_dataset is None else Preferences.of(eval_dataset)
        given = given_start(responsibilities, self.train_rows, args)
        self.row_betas = check_row_betas(row_betas, len(self.train_rows), args)
        self.votes: VoteCounts = count_votes(self.train_rows, args.n_types if given is None else given.n_types)
        for warning in self.votes.warnings:
            logger.warning(warning)
        self.annotators = self.train_rows.annotators()
        self.annotator_index = torch.from_numpy(self.annotators.indices(self.train_rows.annotator_ids))
        rows = self.train_rows
        self.row_weights = torch.from_numpy(
            evidence_of_rows(rows.item_indices, rows.ranks, self.annotator_index.numpy())
        )
        args.plain_prompts = reads_plain(processing_class, args.plain_prompts)
        self.items = TokenizedItems.of(
            self.train_rows, processing_class, max_length=args.max_length, plain_prompts=args.plain_prompts
        )
        if cheap_head is not None:
            logger.warning("cheap_head is a former name, taken for this version only; it now is linear_head.")
            linear_head = linear_head or cheap_head
        self._given, self._linear_head, self._peft_config = given, linear_head, peft_config
        self._reference_dir = args.reference_cache_dir or str(Path(args.output_dir) / "reference_logps")
        self._autocast_dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        self._policies = TypePolicies.of_base(model)
        args.remove_unused_columns, args.label_names = False, []
        args.ddp_find_unused_parameters = False  # every forward pass runs every adapter
        leave_accelerator()
        super().__init__(
            model=self._policies,
            args=args,
            train_dataset=PairDataset(self.train_rows),
            eval_dataset=None if self.eval_rows is None else PairDataset(self.eval_rows),
            data_collator=MixtureCollator(self.train_rows, self.items),
            processing_class=processing_class,
            callbacks=[*(callbacks or []), RoundCallback(self)],
        )
        show_named_progress(self)
        self.model_accepts_loss_kwargs = False  # our loss is a mean: the trainer divides it by the accumulation steps
        self._of_reference: dict[str, Any] = {}
        self._weights: tuple[tuple[int, int], Tensor] | None = None
        self._snapshot: tuple[dict[str, Tensor], MixtureState] | None = None
        self._sums = TrainingSums()

    # what training begins with

    def prepare(self) -> None:
        """The reference pass, the start of EM, and the adapters on the model: once, before training.

        `train` does it, and whatever reads `start`, `reference_logps`, `mixture` or `policies`. All processes call the
        first of these. Random numbers begin at the trainer's seed afterwards, whatever came in between.
        """
        if self._is_prepared:
            return
        args, model = self.args, self._policies.policy
        if not getattr(model, "is_quantized", False):  # a base in four bits lies where it was loaded
            model.to(args.device)
        if args.sft_epochs:
            warm = warm_start(model, self.processing_class, self.train_rows, self.items, args, self._peft_config)
            model = self._policies.policy = warm.model
            self._of_reference["warm_start"] = warm.record
        reference = self._reference_pass(model.eval(), self.items)
        self._reference_logps = reference.logps
        self._of_reference["nats_per_token"] = nats_per_token(self.train_rows, self.items, reference.logps)
        advice = unlikely_answers(self._of_reference["nats_per_token"], args)
        if advice and args.process_index == 0:
            logger.warning(advice)
        self._reference_on_device = torch.from_numpy(reference.logps.astype(np.float32)).to(args.device)
        self._start = self._given or linear_start(
            self.train_rows, reference.states, self.annotator_index, len(self.annotators), args, self.items,
            head=self._linear_head,
        )  # fmt: skip
        gamma = self._start.responsibilities.double()
        self._mixture = MixtureState(
            gamma, mixing_weights(gamma), torch.zeros_like(gamma), self._nothing_recorded(gamma.shape[1])
        )
        self._base_model = named_base(model, self.processing_class, Path(args.output_dir))
        self._policies.add(self._peft_config, gamma.shape[1], seed=args.seed)
        if args.disable_dropout:
            disable_dropout(self._policies)
        plan_fsdp(self.accelerator, self._policies)
        plan_half_precision(self.accelerator, self._policies)
        set_seed(args.seed)
        self._is_prepared = True

    _is_prepared = False

    @property
    def start(self) -> LinearStart:
        """Where EM begins."""
        self.prepare()
        return self._start

    @property
    def reference_logps(self) -> np.ndarray:
        """(n_items,) nats: of every completion under the reference."""
        self.prepare()
        return self._reference_logps

    @property
    def policies(self) -> TypePolicies:
        """The model with an adapter for each type."""
        self.prepare()
        return self._policies

    @property
    def mixture(self) -> MixtureState:
        """What EM knows so far."""
        self.prepare()
        return self._mixture

    @mixture.setter
    def mixture(self, state: MixtureState) -> None:
        self._mixture = state

    @property
    def n_types(self) -> int:
        """K."""
        return self.mixture.n_types

    def linear_scores(self, rows: Rows) -> Tensor | None:
        """(rows, max_items) float64: rewards under the linear head that EM starts from, each row by its person.

        What the adapters must better to be worth their hours. None where no linear head was fitted: one type, or
        types that were given. All processes call it, before `train`.
        """
        if self.start.rewards is None:
            return None
        prefs = Preferences.of(rows)
        items = TokenizedItems.of(
            prefs, self.processing_class, max_length=self.args.max_length, plain_prompts=self.args.plain_prompts
        )
        states = self._reference_pass(self.policies.policy, items).states
        gamma = self.start.responsibilities.double()
        index = torch.from_numpy(self.annotators.indices(prefs.annotator_ids, unknown=-1))
        weights = torch.cat([gamma, mixing_weights(gamma)[None]])[index]  # −1, a stranger, is the last
        rewards = self.start.rewards(states, items)[torch.from_numpy(prefs.filled_item_indices)]
        return (rewards * weights[:, None]).sum(2)

    def _reference_pass(self, model: nn.Module, items: TokenizedItems) -> ReferencePass:
        args = self.args
        with torch.autocast(args.device.type, self._autocast_dtype, enabled=self._autocast_dtype is not None):
            return reference_pass(
                model, items, cache_dir=self._reference_dir, batch_size=args.e_step_batch_size,
                rank=args.process_index, n_ranks=args.world_size, show_progress=not args.disable_tqdm,
            )  # fmt: skip

    # training

    writes_own_weights = True

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """All rounds, from the start or from a checkpoint; returns `TrainOutput`.

        Args:
            resume_from_checkpoint: True: go on from the last complete checkpoint, or begin where there is none; or
                its folder.

        Raises:
            ValueError: the checkpoint is not complete, or of another run (`CompleteCheckpoints.train`); its length
                counts where EM runs.
            RuntimeError: the loss of a type is not finite. The adapters and responsibilities are then as they were
                when the round began, and so is what lies in `output_dir`.
        """
        self.prepare()
        require_grad(self.policies.policy)
        point = self.agreed_resume_point(resume_from_checkpoint)
        if point is not None and self.is_deepspeed_enabled:
            self.mixture = self.mixture.loaded(point, self.args.process_index)  # it reads the adapters by itself
        try:
            output = super().train(point, **kwargs)
        except DivergenceError as error:  # of all processes together
            self.leave_fsdp2()
            self._undo_round()
            raise RuntimeError(
                f"{error} Round {self.mixture.round + 1} is undone: adapters and responsibilities are those after "
                f"{self.mixture.round} rounds, and {self.args.output_dir} holds what was saved then. Lower "
                f"learning_rate ({self.args.learning_rate}) or max_grad_norm ({self.args.max_grad_norm}), look at the "
                "rows of that type's annotators, or train in float32, and begin again without resume_from_checkpoint."
            ) from error
        self.leave_fsdp2()
        return output

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Σ_k of the mean over the rows of w_k · (−log p_k), in nats: as many DPO losses as there are types; with
        `rpo_alpha` also of the best items' negative log-likelihood, by tokens.
        """
        ranks, slots, items = inputs["ranks"], inputs["slots"], inputs["items"]
        weights = self._row_type_weights()[inputs["rows"]]
        trains = weights > 0
        present = ranks >= 0
        cells = torch.zeros(len(items), self.n_types, dtype=torch.int, device=ranks.device)
        row_of, _ = present.nonzero(as_tuple=True)
        cells.index_add_(0, slots[present], trains[row_of].int())
        logps = model(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"], needs_grad=cells > 0)
        beta = self.args.beta if self.row_betas is None else self.row_betas[inputs["rows"]][:, None, None]
        rewards = implicit_reward(logps[slots], self._reference_on_device[items][slots][..., None], beta)
        scores = rewards.movedim(-1, 0)
        losses = plackett_luce(scores, ranks).T
        refuse_divergence(logps, self.accelerator, self.state.global_step + 1)
        losses = losses.where(trains, 0.0)
        loss = (weights * losses).mean(0).sum()
        if self.args.rpo_alpha:
            lengths = inputs["completion_mask"].sum(1)[slots]
            nll = self._weighted_nll(logps[slots].movedim(-1, 0), lengths, ranks, weights)
            loss = loss + self.args.rpo_alpha * nll
        self._note(scores.detach().movedim(0, -1), losses.detach(), weights, ranks, inputs["rows"])
        return (loss, {"losses": losses}) if return_outputs else loss

    def _weighted_nll(self, logps: Tensor, lengths: Tensor, ranks: Tensor, weights: Tensor) -> Tensor:
        """Σ_k of the mean over tokens of −log π_k of the best items, nats, each type by its share of the batch.

        Args:
            logps: (n_types, rows, max_items) nats.
            lengths, ranks: (rows, max_items).
            weights: (rows, n_types).
        """
        nll, tokens = nll_of_best(logps, lengths, ranks)
        by_type = (weights * nll.T).sum(0) / (weights * tokens[:, None]).sum(0).clamp_min(1e-12)
        if self.model.training:
            self._sums.add_nll(by_type.detach(), weights)
        return (weights.mean(0) * by_type).sum()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As of `Trainer`; "group_by_length" is `LengthWindows`, by the tokens of a row's prompt and completions."""
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        items = self.train_rows.item_indices
        answers = np.where(items >= 0, (self.items.lengths - self.items.prompt_lengths)[items], 0).sum(1)
        n_rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthWindows(answers + self.items.prompt_lengths[items[:, 0]], n_rows, seed)

    def _row_type_weights(self) -> Tensor:
        """(rows, n_types): fixed within an epoch of a round, whatever was interrupted in between."""
        key = (self.mixture.round, int(self.state.epoch or 0))
        if self._weights is None or self._weights[0] != key:
            seed = (self.args.seed * 1009 + key[0]) * 10007 + key[1]
            weights = self.mixture.row_type_weights(
                self.annotator_index,
                MStep(self.args.m_step),
                min_responsibility=self.args.min_responsibility,
                seed=seed,
            )
            self._weights = key, weights.to(self.args.device)
        return self._weights[1]

    # rounds

    def begin(self) -> None:
        """Called when training begins: which steps end a round."""
        n_rounds = self.args.n_rounds if self._runs_em else 1
        self._ends = round_ends(self.state.max_steps, n_rounds)
        self._tempers = temper_schedule(len(self._ends), self.args.temper_start)
        self._take_snapshot()

    @property
    def _runs_em(self) -> bool:
        return self.args.types_from == TypesFrom.EM and self.n_types > 1

    def end_step(self) -> bool:
        """Called after each optimizer step; True when a round ended and a checkpoint should be written."""
        if self.state.global_step not in self._ends[self.mixture.round :]:
            return False
        if self._runs_em:
            self._e_step(self._tempers[self.mixture.round])
        else:  # types are given: nothing to compute
            self.mixture.history.append({"round": 1, "step": self.state.global_step, "checks": []})
        self.mixture.round += 1
        self._take_snapshot()
        with saving(self.args.output_dir, "The adapters and mixture.json"):
            self.save_model()
        return self.mixture.round < len(self._ends)

    def _e_step(self, temper: float) -> None:
        """Likelihoods under the adapters as they are, where no forward pass of this round gave them; γ and η."""
        state = self.mixture
        share = (state.round + 1) / len(self._ends)
        by_row, margins, sums = self._read_rows(share, temper)
        state.log_likelihoods = sums.totals
        before = state.responsibilities
        state.responsibilities, placed = posterior_of_round(state, self.start, share=share, temper=temper)
        state.mixing_weights = mixing_weights(state.responsibilities)
        evidence = log_evidence(state.log_likelihoods, state.mixing_weights)
        largest = state.responsibilities.max(1)
        measured = {
            "mixture/evidence": float(evidence.sum() / len(self.annotator_index)),
            "mixture/moved": float((before.argmax(1) != largest.indices).double().mean()),
            "mixture/mean_max_responsibility": float(largest.values.mean()),
            "mixture/temper": temper,
            "mixture/rows_read": float((~torch.isnan(by_row)).double().mean()),
        } | {f"mixture/weight_type_{k}": float(w) for k, w in enumerate(state.mixing_weights)}
        checks = [placed, *checks_of_round(state, self.start, margins)]
        state.history.append({"round": state.round + 1, "step": self.state.global_step, **measured, "checks": checks})
        state.recorded = self._nothing_recorded(self.n_types)
        self.log(dict(measured))

    def _read_rows(self, share: float, temper: float) -> tuple[Tensor, Tensor, RowSums]:
        """(rows, n_types) log-likelihoods and margins under the adapters, NaN where unread, and people's sums."""
        args, state, baseline = self.args, self.mixture, reference_likelihoods(self.train_rows)
        before = state.mixing_weights.log() + words_beside(self.start, share)
        evidence = Evidence(before.expand_as(state.responsibilities), share * temper, args.e_step_tolerance)
        recorded = torch.from_numpy(gathered(state.recorded.numpy()))
        # one type of a row alone, seen before it was trained on, is no evidence beside the others as they are now
        known = recorded if args.m_step == MStep.WEIGHTED else torch.full_like(recorded, torch.nan)
        known = read_in_waves(
            self._row_log_likelihoods, known, baseline, self.annotator_index, self.row_weights, evidence,
            seen=recorded[:, 0], n_most=args.e_step_rows if share < 1 else 0, seed=args.seed + state.round,
        )  # fmt: skip
        by_row, margins = known.unbind(1)
        return by_row, margins, RowSums.of(
            by_row, baseline, self.annotator_index, len(self.annotators), self.row_weights
        )  # fmt: skip

    def _row_log_likelihoods(self, asked: Tensor | None = None) -> Tensor:
        asked = torch.ones(len(self.train_rows), self.n_types, dtype=torch.bool) if asked is None else asked
        return likelihoods_of_rows(
            self.policies, self.items, self.train_rows, self.reference_logps, asked,
            beta=self.args.beta, batch_size=self.args.e_step_batch_size, show_progress=not self.args.disable_tqdm,
        )  # fmt: skip

    def _nothing_recorded(self, n_types: int) -> Tensor:
        return torch.full((len(self.train_rows), 2, n_types), float("nan"), dtype=torch.float64)

    # what was learned so far

    def _take_snapshot(self) -> None:
        divide_again(self.policies)  # as the optimizer holds them
        self._snapshot = adapter_state(self.policies.policy), self.mixture.clone()

    def _undo_round(self) -> None:
        adapters, state = self._snapshot
        restore_adapter_state(self.policies.policy, adapters)
        self.mixture = state

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As of `Trainer`; all processes call it."""
        self.prepare()  # of an untrained mixture, on all processes: the main one alone writes
        if not divided_parameters(self.policies):
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir, trained_state(self.policies))  # transformers would put the frozen base together, too
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Adapters, tokenizer, mixture.json, responsibilities.parquet and the state to resume from."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        output_dir = Path(self.args.output_dir)
        if not divided_parameters(self.policies):  # where its folder was removed meanwhile, the base is written again
            named_base(self.policies.policy.get_base_model(), self.processing_class, output_dir)
        record = self.record()
        record.base_model = record.base_model or str(output_dir / BASE)
        with whole_files(folder, last=RECORD_FILE) as beside:
            save_type_adapters(self.policies.policy, beside, state_dict, lies_at=folder)
            for place in (beside, *(beside / name for name in self.policies.names)):
                self.processing_class.save_pretrained(place)
            save_mixture(record, beside, lies_at=folder)
            save_trained_rows(beside, self.train_rows)
            self.mixture.save(beside)
        remove_types_from(folder, self.n_types)

    def read_weights(self, folder: Path) -> None:
        """Adapters and responsibilities of a checkpoint of these rows."""
        self.mixture = self.mixture.loaded(folder, self.args.process_index)
        read_type_adapters(self.policies.policy, folder)
        require_grad(self.policies.policy)

    def save_beside(self, folder: Path) -> None:
        """Every process has recorded the rows of its batches; the state holds those of the main one."""
        if self.args.process_index and self._runs_em:
            self.mixture.save_recorded(folder, self.args.process_index)

    def deciding(self) -> dict[str, Any]:
        """Length, given types, and the betas of rows."""
        return decides_rounds(self.args, self.start) | {"row_betas": row_betas_key(self.row_betas)}

    def write_card(self, folder: Path) -> None:
        """README.md of the mixture."""
        write_whole(folder / "README.md", mixture_card(self.record()))

    def record(self) -> MixtureRecord:
        """Everything but the adapters, as mixture.json and responsibilities.parquet hold it."""
        state, n_people = self.mixture, len(self.annotators)
        return MixtureRecord(
            self.annotators, state.responsibilities.numpy(),
            torch.bincount(self.annotator_index, minlength=n_people).numpy(), state.mixing_weights.numpy(),
            self.args.beta, self.args.max_length, self._base_model, state.history,
            {
                "plain_prompts": self.args.plain_prompts,
                "seed": self.args.seed, "types_from": self.args.types_from, "m_step": self.args.m_step,
                "trained_prompts": packed_prompts(self.train_rows.prompts, self.train_rows.prompt_indices),
                "votes": asdict(self.votes), "configuration": self.args.recorded_options(),
                "choice_of_k": self.start.choice, "reference": self._of_reference,
                "checks": [*self.start.checks, *(state.history[-1]["checks"] if state.history else [])],
            } | row_betas_record(self.row_betas),
        )  # fmt: skip

    def mixture_policy(self) -> MixturePolicy:
        """What was learned, as `MixturePolicy.from_pretrained` would give it; shares the adapters with the trainer."""
        return MixturePolicy(
            self.policies, self.processing_class, self.record(), reference_cache_dir=self._reference_dir,
            autocast_dtype=self._autocast_dtype,
        )  # fmt: skip

    # judging and logging

    def evaluate(
        self, eval_dataset: Rows | None = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Held-out rows: accuracy of the expected reward over strictly ordered pairs, and log-likelihood (nats a row)
        of the mixture; a stranger has the mixing weights for responsibilities.
        """
        rows = self.eval_rows if eval_dataset is None else Preferences.of(eval_dataset)
        if rows is None:
            raise ValueError("There is nothing to evaluate on: give eval_dataset, here or to the trainer.")
        policy = self.mixture_policy()
        with outside_fsdp(self.policies):  # the reference runs below the module that FSDP2 puts together
            rewards = policy.type_rewards(
                rows, batch_size=self.args.e_step_batch_size, together=True, show_progress=not self.args.disable_tqdm
            )
        gamma = policy.responsibilities_for(rows.annotator_ids)
        right, n_pairs = pair_order((rewards * gamma[:, None]).sum(2), torch.from_numpy(rows.ranks.astype(np.int64)))
        likelihoods = row_log_likelihoods(rewards, rows.ranks)
        metrics = {
            f"{metric_key_prefix}_accuracy": float(right.sum() / n_pairs.sum()),
            f"{metric_key_prefix}_log_likelihood": float((gamma.log() + likelihoods).logsumexp(1).mean()),
        }
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _note(self, scores: Tensor, losses: Tensor, weights: Tensor, ranks: Tensor, rows: Tensor) -> None:
        """Sums for the next log, and likelihoods and margins for the next E-step of the types that saw the row."""
        if not self.model.training:
            return
        self._sums.add(scores, losses, weights, ranks)
        if not self._runs_em:  # nobody asks for records, and to fetch them from a GPU holds up the step
            return
        rows = rows.cpu()
        records = torch.stack([-losses.double(), row_margins(scores, ranks)], 1).cpu()
        self.mixture.recorded[rows] = records.where((weights > 0).cpu()[:, None], self.mixture.recorded[rows])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to the training loss its parts by type, and TRL's `rewards/…` under the types that were trained."""
        if "loss" in logs:
            logs |= self._sums.take()
        super().log(logs, start_time)
