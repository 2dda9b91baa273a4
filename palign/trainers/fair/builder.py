"""How each route makes one adapter of K; a finished route is kept on disk and not built again."""

import copy
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftModel
from torch import Tensor
from transformers import TrainingArguments, set_seed

from palign.data.preferences import Preferences
from palign.functional.regret import importance_of, regret_matrix
from palign.functional.regret_hedge import exponentiated_gradient
from palign.functional.regret_policies import kl_minmax
from palign.models.completions import TokenizedItems
from palign.models.mixture_policy import MixturePolicy
from palign.models.policy_draws import PolicyDraws, joined_items
from palign.models.reference_logps import base_fingerprint
from palign.models.single_adapter import (
    AdapterPolicies,
    adapter_fingerprint,
    add_adapter,
    merge_adapters,
    read_adapter,
    save_adapter,
    train_only,
)
from palign.models.type_scores import row_log_likelihoods
from palign.parallel.sharded import make_whole
from palign.parallel.shared_work import computed_once
from palign.trainers.checkpointing.finished import options_key
from palign.trainers.checkpointing.same_run import TRAINING_OPTIONS
from palign.trainers.fair.distill import DistillRows, SoftTargetPolicies
from palign.trainers.fair.dro import DroRows
from palign.trainers.fair.measure import SLACK, mixed_candidate
from palign.trainers.fair.regress import RegressRows
from palign.trainers.fair.route_trainer import RouteTrainer
from palign.trainers.fair.votes import cached_reference, vote_rewards
from palign.trainers.fair_policy_config import FairPolicyConfig, Route
from palign.trainers.mixture.collator import MixtureCollator
from palign.writing import saving, write_whole

__all__ = ["POOLED", "OwnRoute", "RouteBuilder"]

logger = logging.getLogger(__name__)
POOLED, ROUTE = "pooled", "route.json"
TRAINED_BY = (*TRAINING_OPTIONS, "learning_rate", "num_train_epochs", "per_device_train_batch_size")
ONLY_MEASURED_BY = ("routes", "n_eval_prompts", "n_eval_samples", "sure", "n_bootstrap", "draw_batch_size")


@dataclass(eq=False)
class RouteBuilder:
    """What all routes start from.

    Attributes:
        mixture: the K type policies; further adapters are put beside them.
        args: of the trainer.
        rows: judgements to train on.
        prompts: that the game was solved on.
        weights: (n_types,) of the game.
        type_draws, reference_draws: what types and reference answered to these prompts.
        draw: answers of any adapter to the same prompts.
        own_routes: by name, functions of a builder that put an adapter of that name on `model` (`add`, `fit`,
            `merge_adapters`) and return what is to be recorded.
        records: of finished routes, by name.
    """

    mixture: MixturePolicy
    args: FairPolicyConfig
    rows: Preferences
    prompts: list[Any]
    weights: Tensor
    type_draws: list[PolicyDraws]
    reference_draws: PolicyDraws
    draw: Callable[[str | None], PolicyDraws]
    own_routes: "Mapping[str, OwnRoute]" = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def model(self) -> PeftModel:
        """The base with all adapters."""
        return self.mixture.policies.policy

    @property
    def output_dir(self) -> Path:
        """Of the trainer."""
        return Path(self.args.output_dir)

    def build(self, name: str) -> None:
        """Read a finished route, or build it ('pooled': one DPO on all votes) and write it, whole or not at all.

        A route of the user's own is always built: nothing says whether its function is still the same. The main
        process says for all whether a route is finished: a late one must not take for old what is new.
        """
        folder, key = self.output_dir / "routes" / name, self._key(name)
        record = None if name in self.own_routes else computed_once(lambda: _finished(folder, key))
        if record is not None:
            read_adapter(self.model, name, folder)
        else:
            record = {"key": key, **self._built(name)}
            if PartialState().is_main_process:
                self._keep(name, record, folder)
        PartialState().wait_for_everyone()
        self.records[name] = record

    def _built(self, name: str) -> dict[str, Any]:
        own, start = self.own_routes.get(name), time.monotonic()
        set_seed(self.args.seed)
        found = getattr(self, f"_{name}")() if own is None else own(self)
        if name not in self.model.peft_config:
            raise RuntimeError(
                f"Route {name!r} put no adapter of that name on builder.model; builder.add({name!r}) does."
            )
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        return {"seconds": time.monotonic() - start, **found}

    def _keep(self, name: str, record: dict[str, Any], folder: Path) -> None:
        partial = folder.with_name(f".partial-{name}")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with saving(
                folder, f"Route {name}", "Routes that were finished before it are whole, and not built again."
            ):
                save_adapter(self.model, name, partial)
                write_whole(partial / ROUTE, json.dumps(record, indent=1) + "\n")
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _key(self, name: str) -> str:
        """Of everything that the adapter depends on."""
        own = {f.name for f in fields(FairPolicyConfig)} - {f.name for f in fields(TrainingArguments)}
        own = (own | set(TRAINED_BY)) - set(ONLY_MEASURED_BY)
        settings = {key: str(getattr(self.args, key)) for key in sorted(own)}
        record, gamma = self.mixture.record, self.mixture.responsibilities_for(self.rows.annotator_ids)
        words = [name, settings, self._models, record.beta, record.max_length, self.weights.tolist(), self.prompts]
        return options_key([*words, gamma.tolist()], self.rows)[:32]

    @cached_property
    def _models(self) -> list[str]:
        """Fingerprints of base and types as they were given; an engine may change their number type later."""
        types = [adapter_fingerprint(self.model, judge) for judge in self.mixture.policies.names]
        return [base_fingerprint(self.model), *types]

    def add(self, name: str) -> None:
        """Put a fresh adapter of that name on the model; until it is trained it changes nothing."""
        add_adapter(self.model, name, rank=self.args.adapter_rank, seed=self.args.seed)

    def fit(self, policies: AdapterPolicies, rows: Any, *, share: float = 1.0) -> None:
        """Train the adapter that `policies` runs, for a share of the epochs or steps.

        Args:
            policies: `AdapterPolicies(builder.model, [name])`.
            rows: a data set with `collate(numbers)` → a batch with input_ids, attention_mask and completion_mask, and
                `losses(logps (n_sequences,), batch, summed)` → losses, of which the mean is minimised.
        """
        args, (name,) = copy.copy(self.args), policies.names
        args.output_dir = str(self.output_dir / "routes" / f".training-{name}")
        args.num_train_epochs = self.args.num_train_epochs * share
        args.max_steps = max(1, round(self.args.max_steps * share)) if self.args.max_steps > 0 else -1
        args.ddp_find_unused_parameters = False  # the one adapter is in every forward pass
        train_only(self.model, name)
        trainer = RouteTrainer(policies, args, rows, tokenizer=self.mixture.tokenizer)
        trainer.train()
        make_whole(policies, trainer.model_wrapped)
        shutil.rmtree(args.output_dir, ignore_errors=True)

    def _distill(self) -> dict[str, Any]:
        self.add(Route.DISTILL)
        items = joined_items([draws.items for draws in self.type_draws])
        rows = DistillRows(items, self.weights.numpy(), group_size=self.args.group_size, seed=self.args.seed)
        if self.args.distill_targets == "soft":
            teachers = self.mixture.policies.names
            policies: AdapterPolicies = SoftTargetPolicies(self.model, Route.DISTILL, teachers, self.weights)
        else:
            policies = AdapterPolicies(self.model, [Route.DISTILL])
        self.fit(policies, rows)
        return {"n_rows": len(rows)}

    def _regress(self) -> dict[str, Any]:
        """Rounds of: fit to Σ_k w_k h_k, measure on the game's prompts, correct w and its length; keep the best."""
        self.add(Route.REGRESS)
        pool = [*self.type_draws, self.reference_draws]
        weights, scale, rounds = self._geometric_weights(pool), 1.0, []
        budget = self.args.max_kl or float(mixed_candidate("ensemble", self.type_draws, self.weights).kl.mean())
        best: tuple[Any, dict[str, Tensor]] | None = None
        for number in range(self.args.n_regress_rounds):
            rows = self._regress_rows(pool, scale * weights, number)
            self.fit(AdapterPolicies(self.model, [Route.REGRESS]), rows, share=1 / self.args.n_regress_rounds)
            draws = self.draw(Route.REGRESS)
            pool = [*pool, draws]
            regrets = self._weighted_regrets(draws)
            worst, kl = float(regrets.max()), float(draws.kl.mean())
            rounds.append({"weights": (scale * weights).tolist(), "max_regret": worst, "kl": kl})
            if best is None or (kl > SLACK * budget, worst) < best[0]:
                best = (kl > SLACK * budget, worst), self._state(Route.REGRESS)
            step = self.args.weight_step / max(float(regrets.abs().max()), 1e-9)
            weights = exponentiated_gradient(weights, regrets, step_size=step)
            share = max(budget, 0.0) / max(kl, 1e-9)  # estimates; KL grows as the square of the length
            scale *= float(np.clip(share**0.5, 0.7, 1.4))
        self._restore(best[1])
        return {"rounds": rounds}

    def _regress_rows(self, pool: Sequence[PolicyDraws], weights: Tensor, number: int) -> RegressRows:
        ratios = np.concatenate([draws.log_ratios.reshape(-1, self.mixture.n_types) for draws in pool])
        return RegressRows(
            joined_items([draws.items for draws in pool]), ratios @ weights.numpy(),
            np.concatenate([draws.reference_logps.reshape(-1) for draws in pool]), n_policies=len(pool),
            n_samples=self.args.n_samples, group_size=self.args.group_size, seed=self.args.seed + number,
        )  # fmt: skip

    def _geometric_weights(self, pool: Sequence[PolicyDraws]) -> Tensor:
        """(n_types,) q of min-max regret + β KL among π ∝ π_ref exp(Σ q_k h_k), on the cached completions.

        The ensemble's weights are another family's. Completions weigh by π / (mean of the policies that said them),
        so that the table of them stands for all; a little of the uniform keeps every type in play.
        """
        types = np.concatenate([draws.type_logps for draws in pool], 1)
        reference = np.concatenate([draws.reference_logps for draws in pool], 1)
        table = torch.from_numpy(np.concatenate([types, reference[..., None]], -1))
        table = (table - table.logsumexp(-1, keepdim=True)).log_softmax(1).movedim(-1, 0)
        beta = self.mixture.record.beta
        importance = self._importance()
        importance = importance / importance.max()
        found = kl_minmax(table[:-1], table[-1], kl_weight=beta, beta=beta, type_importance=importance).type_weights
        return 0.95 * found / found.sum() + 0.05 / len(found)

    def _dro(self) -> dict[str, Any]:
        gamma = self.mixture.responsibilities_for(self.rows.annotator_ids)
        items = self._vote_items()
        rewards = vote_rewards(self.mixture, self.rows, items, self.mixture.policies.names, self._reference(items))
        own, n_types = -row_log_likelihoods(rewards, self.rows.ranks), self.mixture.n_types
        weights = torch.full((n_types,), 1 / n_types, dtype=torch.float64)
        rows = self._fit_votes(Route.DRO, gamma, own.double(), weights, self._importance())
        return {"n_rows": len(rows), "type_weights": rows.type_weights.tolist()}

    def _pooled(self) -> dict[str, Any]:
        ones = torch.ones(len(self.rows), 1, dtype=torch.float64)
        rows = self._fit_votes(POOLED, ones, torch.zeros_like(ones), torch.ones(1, dtype=torch.float64), None)
        return {"n_rows": len(rows)}

    def _fit_votes(self, name: str, gamma: Tensor, own: Tensor, weights: Tensor, importance: Tensor | None) -> DroRows:
        self.add(name)
        items, record = self._vote_items(), self.mixture.record
        rows = DroRows(
            MixtureCollator(self.rows, items), torch.from_numpy(self._reference(items)), gamma, own, record.beta,
            self.args.dro_step / self.args.gradient_accumulation_steps, weights, importance=importance,
        )  # fmt: skip
        self.fit(AdapterPolicies(self.model, [name]), rows)
        return rows

    def _merge(self) -> dict[str, Any]:
        names, weights = self.mixture.policies.names, self.weights.tolist()
        merge_adapters(self.model, Route.MERGE, names, weights, merge_type=self.args.merge_type)
        return {"merge_type": self.args.merge_type}

    def _vote_items(self) -> TokenizedItems:
        return self.mixture.items_of(self.rows)

    def _reference(self, items: TokenizedItems) -> np.ndarray:
        return cached_reference(self.mixture, items, self.output_dir)

    def _importance(self) -> Tensor:
        return importance_of(self.args.type_importance, self.mixture.n_types)

    def _weighted_regrets(self, draws: PolicyDraws) -> Tensor:
        """(n_types,) of one policy on the game's prompts, times importance."""
        own = torch.tensor([own.values[:, i].mean() for i, own in enumerate(self.type_draws)])
        values = torch.from_numpy(draws.values).mean(0)[:, None]
        regrets = regret_matrix(values, own_values=own, beta=self.mixture.record.beta)[:, 0]
        return regrets * self._importance()

    def _state(self, name: str) -> dict[str, Tensor]:
        return {key: p.detach().clone() for key, p in self.model.named_parameters() if f".{name}." in key}

    def _restore(self, state: dict[str, Tensor]) -> None:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for key, tensor in state.items():
                own[key].copy_(tensor)


OwnRoute = Callable[[RouteBuilder], Mapping[str, Any]]


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """What is recorded of a route, or None where it is not finished or was built from something else."""
    if not (folder / ROUTE).is_file():
        return None
    record = json.loads((folder / ROUTE).read_text(encoding="utf-8"))
    if record["key"] == key:
        return record
    logger.warning("Route %s was built from other models, rows or settings; it is built again.", folder.name)
    return None
