"""K type policies in, one fair LoRA policy out: min-max regret aggregation (arXiv 2405.15065 and 2510.15716).

1. Every type's policy and the reference answer the same prompts; `L_ij` is what type i thinks of type j's answers.
2. The game on regrets is solved exactly: how often each type's policy should answer.
3. Routes turn that into one adapter; a finished route is kept on disk and not trained again.
4. All policies are measured by one protocol on fresh prompts, and the route of the least worst regret within the KL
   budget is chosen.

Where we differ from the papers: regrets are expectations over the full vocabulary at sampled prefixes, not sampled
log-ratios; the game is a linear programme; and one adapter is delivered where they deliver an ensemble of K.
"""

import copy
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from transformers import TrainingArguments, set_seed

from palign.data.preferences import Preferences
from palign.functional.hedge import exponentiated_gradient
from palign.functional.policy_mixtures import kl_minmax
from palign.functional.regret import kl_regret_matrix, regret_matrix, relative_regret_matrix, value_bounds
from palign.functional.regret_estimates import GameIntervals, Interval, bootstrap_game
from palign.models.completions import TokenizedItems
from palign.models.fair_files import save_game
from palign.models.mixture_policy import MixturePolicy
from palign.models.policy_values import PolicyDraws, PolicyReader, joined_items
from palign.models.reference_logps import reference_pass
from palign.models.single_adapter import (
    AdapterPolicies,
    adapter_fingerprint,
    add_adapter,
    merge_adapters,
    read_adapter,
    save_adapter,
    train_only,
)
from palign.models.type_scores import implicit_rewards, row_log_likelihoods, type_logps
from palign.trainers.fair_measure import (
    Candidate,
    Kind,
    measure_candidates,
    mixed_candidate,
    single_candidate,
    vote_outcomes,
)
from palign.trainers.fair_policy_config import MIN_PROMPTS, FairPolicyConfig, Route
from palign.trainers.fair_routes import DistillRows, DroRows, RegressRows, RouteTrainer
from palign.trainers.mixture_collator import MixtureCollator
from palign.trainers.mixture_dpo_trainer import pair_order

__all__ = ["FairPolicyTrainer", "prompts_of"]

logger = logging.getLogger(__name__)
Rows = Preferences | Iterable[Mapping[str, Any]]
POOLED = "pooled"


class FairPolicyTrainer:
    """Regrets → weights → one LoRA.

    Args:
        mixture: the K type policies on their base.
        args: `FairPolicyConfig`.
        train_dataset: judgements; their prompts are what the game is solved on, and route `dro` trains on the votes.
        eval_dataset: judgements on other prompts, on which everything is measured.
        pooled_path: folder of an adapter that one DPO on all votes gave, to compare with; trained here if None.
        type_names: for the report.

    Raises:
        ValueError: one type, too few prompts, or prompts that are both trained and measured on.
    """

    def __init__(
        self,
        mixture: MixturePolicy,
        args: FairPolicyConfig,
        train_dataset: Rows,
        eval_dataset: Rows,
        *,
        pooled_path: str | Path | None = None,
        type_names: Sequence[str] | None = None,
    ):
        self.mixture, self.args, self.pooled_path = mixture, args, pooled_path
        self.train_rows, self.eval_rows = (
            d if isinstance(d, Preferences) else Preferences.from_rows(d) for d in (train_dataset, eval_dataset)
        )
        require_several_types(mixture.n_types, args)
        self.n_types = mixture.n_types
        self.type_names = list(type_names or mixture.policies.names)
        self.train_prompts = prompts_of(self.train_rows, args.n_prompts, seed=args.seed)
        self.eval_prompts = prompts_of(
            self.eval_rows, args.n_eval_prompts, seed=args.seed, without=self.train_rows.prompts, what="fresh"
        )
        self.output_dir = Path(args.output_dir)
        self.model = mixture.policies.policy.to(args.device)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.reader = PolicyReader(
            self.model, mixture.tokenizer, mixture.policies.names, self.output_dir / "samples",
            show_progress=not args.disable_tqdm and PartialState().is_main_process,
        )  # fmt: skip
        self.seconds: dict[str, float] = {}
        self.route_records: dict[str, dict[str, Any]] = {}
        self.eval_draws: dict[str, PolicyDraws] = {}
        self.record: dict[str, Any] = {}

    # all of it

    def train(self) -> dict[str, Any]:
        """Estimate, solve, build every route, measure, choose; returns what game.json holds."""
        self.estimate()
        if self.pooled_path is not None:
            read_adapter(self.model, POOLED, self.pooled_path)
        else:
            self._finished_or(POOLED, lambda: self._train_votes(POOLED))
        for route in self.args.routes:
            self._finished_or(route, lambda route=route: getattr(self, f"_{route}")())
        return self.measure()

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """One plain PEFT adapter, the tokenizer, game.json and the model card."""
        folder = Path(output_dir or self.output_dir)
        if not self.record:
            raise RuntimeError("There is nothing to save yet; call train() first.")
        if not PartialState().is_main_process:
            return
        if self.record["chosen"] is not None:
            save_adapter(self.model, self.record["chosen"], folder)
        self.mixture.tokenizer.save_pretrained(folder)
        save_game(self.record, folder)

    # 1 and 2: the game

    def estimate(self) -> GameIntervals:
        """Draws of types and reference on the training prompts, and the game on them."""
        start = time.monotonic()
        judges = self.mixture.policies.names
        self.type_draws = [self._draws(name) for name in judges]
        self.reference_draws = self._draws(None)
        values = torch.stack([torch.from_numpy(draws.values) for draws in self.type_draws], -1)
        self.game = bootstrap_game(
            values, beta=self.beta, type_importance=self.args.type_importance, n_draws=self.args.n_bootstrap,
            seed=self.args.seed,
        )  # fmt: skip
        self.own_values = values.mean(0).diagonal()
        self.weights = self.game.game.policy_weights
        self.seconds["estimate"] = time.monotonic() - start
        return self.game

    @property
    def beta(self) -> float:
        """Reward per nat, of the mixture's DPO."""
        return self.mixture.record.beta

    def _draws(self, name: str | None, *, is_eval: bool = False) -> PolicyDraws:
        prompts = self.eval_prompts if is_eval else self.train_prompts
        with PartialState().main_process_first():  # the others read what it wrote
            return self.reader.draws(name, prompts, self.args.draw_settings(is_eval=is_eval))

    def _game_record(self) -> dict[str, Any]:
        game, values = self.game.game, torch.stack([torch.from_numpy(d.values) for d in self.type_draws], -1).mean(0)
        kl = torch.tensor([draws.kl.mean() for draws in self.type_draws])
        reference = torch.from_numpy(self.reference_draws.values).mean(0)
        bounds = value_bounds(self.game.regrets.estimate)
        relative = relative_regret_matrix(values, reference)
        return {
            "values": values.tolist(), "reference_values": reference.tolist(), "regrets": _bounds(self.game.regrets),
            "relative_regrets": [[v if np.isfinite(v) else None for v in row] for row in relative.tolist()],
            "kl_regrets": kl_regret_matrix(values, kl, beta=self.beta).tolist(), "kl_to_reference": kl.tolist(),
            "policy_weights": _bounds(self.game.policy_weights), "type_weights": game.type_weights.tolist(),
            "value": _bounds(self.game.value), "gap": game.gap, "best_policy_bound": bounds.best_policy,
        }  # fmt: skip

    # 3: routes

    def _finished_or(self, name: str, build: Any) -> None:
        """Read a finished route; else build it, and write it so that it is finished or not there."""
        folder, key = self.output_dir / "routes" / name, self._route_key(name)
        if (folder / "route.json").is_file():
            record = json.loads((folder / "route.json").read_text(encoding="utf-8"))
            if record["key"] == key:
                read_adapter(self.model, name, folder)
                self.route_records[name] = record
                return
            logger.warning("Route %s was built from other policies, rows or settings; it is built again.", name)
        start = time.monotonic()
        set_seed(self.args.seed)
        found = build() or {}
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        record = {"key": key, "seconds": time.monotonic() - start, **found}
        if PartialState().is_main_process:
            partial = folder.with_name(f".partial-{name}")
            shutil.rmtree(partial, ignore_errors=True)
            save_adapter(self.model, name, partial)
            (partial / "route.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        PartialState().wait_for_everyone()
        self.route_records[name] = record

    def _route_key(self, name: str) -> str:
        own = {f.name for f in fields(FairPolicyConfig)} - {f.name for f in fields(TrainingArguments)}
        own |= {"learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "seed",
                "gradient_accumulation_steps", "weight_decay", "max_grad_norm", "lr_scheduler_type"}  # fmt: skip
        own -= {"routes", "n_eval_prompts", "n_eval_samples", "max_kl", "sure", "n_bootstrap", "draw_batch_size"}
        settings = {key: str(getattr(self.args, key)) for key in sorted(own)}
        types = [adapter_fingerprint(self.model, judge) for judge in self.mixture.policies.names]
        words = [name, settings, types, self.weights.tolist(), self.train_prompts, len(self.train_rows)]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]

    def _fit(self, name: str, rows: Any) -> None:
        args = copy.copy(self.args)
        args.output_dir = str(self.output_dir / "routes" / f".training-{name}")
        train_only(self.model, name)
        trainer = RouteTrainer(AdapterPolicies(self.model, [name]), args, rows, tokenizer=self.mixture.tokenizer)
        trainer.train()
        shutil.rmtree(args.output_dir, ignore_errors=True)

    def _distill(self) -> dict[str, Any]:
        add_adapter(self.model, Route.DISTILL, rank=self.args.adapter_rank, seed=self.args.seed)
        items = joined_items([draws.items for draws in self.type_draws])
        rows = DistillRows(items, self.weights.numpy(), group_size=self.args.group_size, seed=self.args.seed)
        self._fit(Route.DISTILL, rows)
        return {"n_rows": len(rows)}

    def _regress(self) -> dict[str, Any]:
        """Rounds of: fit to Σ_k w_k h_k, measure on the game's prompts, correct w and its length; keep the best."""
        add_adapter(self.model, Route.REGRESS, rank=self.args.adapter_rank, seed=self.args.seed)
        pool = [*self.type_draws, self.reference_draws]
        weights, scale = self._geometric_weights(pool), 1.0
        ensemble = mixed_candidate("ensemble", self.type_draws, self.weights)
        budget = self.args.max_kl or float(ensemble.kl.mean())
        importance = torch.ones(self.n_types) if self.args.type_importance is None else self.args.type_importance
        importance, rounds, best = torch.as_tensor(importance).double(), [], None
        for number in range(self.args.n_regress_rounds):
            self._fit(Route.REGRESS, self._regress_rows(pool, scale * weights, number))
            draws = self._draws(Route.REGRESS)
            pool = [*pool, draws]
            regrets = self._regrets(draws) * importance
            worst, kl = float(regrets.max()), float(draws.kl.mean())
            rounds.append({"weights": (scale * weights).tolist(), "max_regret": worst, "kl": kl})
            if best is None or (kl > 1.1 * budget, worst) < best[0]:
                best = (kl > 1.1 * budget, worst), {k: v.clone() for k, v in self._adapter(Route.REGRESS).items()}
            step = self.args.weight_step / max(float(regrets.abs().max()), 1e-9)
            weights = exponentiated_gradient(weights, regrets, step_size=step)
            scale *= float(np.clip((budget / max(kl, 1e-9)) ** 0.5, 0.7, 1.5))  # KL grows as the square of the length
        self._restore(best[1])
        return {"rounds": rounds}

    def _regress_rows(self, pool: Sequence[PolicyDraws], weights: Tensor, number: int) -> RegressRows:
        ratios = np.concatenate([draws.log_ratios.reshape(-1, self.n_types) for draws in pool])
        reference = np.concatenate([draws.reference_logps.reshape(-1) for draws in pool])
        return RegressRows(
            joined_items([draws.items for draws in pool]), ratios @ weights.numpy(), reference,
            n_policies=len(pool), n_samples=self.args.n_samples, group_size=self.args.group_size,
            seed=self.args.seed + number,
        )  # fmt: skip

    def _geometric_weights(self, pool: Sequence[PolicyDraws]) -> Tensor:
        """(n_types,) q of min-max regret + β KL among π ∝ π_ref exp(Σ q_k h_k), on the cached completions.

        These weigh by π / (mean of the policies that said them), so that the table of completions stands for all.
        """
        types = np.concatenate([draws.type_logps for draws in pool], 1)
        reference = np.concatenate([draws.reference_logps for draws in pool], 1)
        table = torch.from_numpy(np.concatenate([types, reference[..., None]], -1))
        table = (table - table.logsumexp(-1, keepdim=True)).log_softmax(1).movedim(-1, 0)
        return kl_minmax(table[:-1], table[-1], kl_weight=self.beta, beta=self.beta).type_weights

    def _dro(self) -> dict[str, Any]:
        return self._train_votes(Route.DRO)

    def _train_votes(self, name: str) -> dict[str, Any]:
        """DPO on the votes: `dro` under moving weights of types, `pooled` under none."""
        add_adapter(self.model, name, rank=self.args.adapter_rank, seed=self.args.seed)
        rows, record = self.train_rows, self.mixture.record
        items = TokenizedItems.of(rows, self.mixture.tokenizer, max_length=record.max_length)
        reference = self._reference_logps(items)
        if name == POOLED:
            gamma, own = torch.ones(len(rows), 1), torch.zeros(len(rows), 1)
            weights, importance = torch.ones(1, dtype=torch.float64), None
        else:
            gamma = self.mixture.responsibilities_for(rows.annotator_ids)
            own = -row_log_likelihoods(self._rewards(rows, items, self.mixture.policies.names), rows.ranks)
            weights = torch.full((self.n_types,), 1 / self.n_types, dtype=torch.float64)
            importance = self.args.type_importance
        votes = DroRows(
            MixtureCollator(rows, items), reference, gamma, own.double(), self.beta, self.args.dro_step, weights,
            importance=None if importance is None else torch.as_tensor(importance, dtype=torch.float64),
        )  # fmt: skip
        self._fit(name, votes)
        return {"n_rows": len(votes), "type_weights": votes.type_weights.tolist()}

    def _merge(self) -> dict[str, Any]:
        merge_adapters(
            self.model, Route.MERGE, self.mixture.policies.names, self.weights.tolist(),
            merge_type=self.args.merge_type,
        )  # fmt: skip
        return {"merge_type": self.args.merge_type}

    def _regrets(self, draws: PolicyDraws) -> Tensor:
        """(n_types,) of one policy on the game's prompts."""
        values = torch.from_numpy(draws.values).mean(0)[:, None]
        return regret_matrix(values, own_values=self.own_values, beta=self.beta)[:, 0]

    def _adapter(self, name: str) -> dict[str, Tensor]:
        return {key: p.detach() for key, p in self.model.named_parameters() if f".{name}." in key}

    def _restore(self, state: dict[str, Tensor]) -> None:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for key, tensor in state.items():
                own[key].copy_(tensor)

    def _reference_logps(self, items: TokenizedItems) -> Tensor:
        with PartialState().main_process_first():
            found = reference_pass(
                self.model, items, cache_dir=self.output_dir / "reference_logps", show_progress=False
            )
        return torch.from_numpy(found.logps.astype(np.float32))

    def _rewards(self, rows: Preferences, items: TokenizedItems, names: Sequence[str | None]) -> Tensor:
        """(rows, max_items, n_names) β·h of votes' completions under any adapters."""
        policies = AdapterPolicies(self.model, names)
        logps = type_logps(policies, items, np.ones((len(items), len(names)), dtype=bool))
        return implicit_rewards(rows, logps, self._reference_logps(items).double().numpy(), beta=self.beta)

    # 4: measuring

    def measure(self) -> dict[str, Any]:
        """All policies on fresh prompts, by one protocol; returns what game.json holds."""
        start, judges = time.monotonic(), self.mixture.policies.names
        routes = [name for name in (*self.args.routes,) if name in self.route_records]
        speakers = [*judges, None, POOLED, *routes]
        self.eval_draws = {name or "reference": self._draws(name, is_eval=True) for name in speakers}
        of_types = [self.eval_draws[name] for name in judges]
        kinds = dict.fromkeys(judges, Kind.TYPE) | dict.fromkeys(routes, Kind.ROUTE)
        uniform = torch.full((self.n_types,), 1 / self.n_types, dtype=torch.float64)
        candidates = [mixed_candidate("ensemble", of_types, self.weights)]
        candidates += [
            single_candidate(name, kinds.get(name, Kind.BASELINE), draws) for name, draws in self.eval_draws.items()
        ]
        candidates += [mixed_candidate("uniform", of_types, uniform)]
        candidates += [mixed_candidate("prior", of_types, self.mixture.mixing_weights)]
        own_values = torch.stack([candidates_value(of_types, i) for i in range(self.n_types)], 1)
        rows, chosen, budget = measure_candidates(
            candidates, own_values, beta=self.beta, n_bootstrap=self.args.n_bootstrap, seed=self.args.seed,
            max_kl=self.args.max_kl, type_importance=self.args.type_importance, votes=self._votes(candidates),
        )  # fmt: skip
        self.seconds["measure"] = time.monotonic() - start
        self.seconds |= {name: record["seconds"] for name, record in self.route_records.items()}
        self.record = {
            "format": 1, "types": self.type_names, "mixing_weights": self.mixture.record.mixing_weights.tolist(),
            "beta": self.beta, "base_model": self.model.peft_config["type_0"].base_model_name_or_path,
            "game": self._game_record(), "table": rows, "chosen": chosen, "kl_budget": budget,
            "n_prompts": len(self.train_prompts), "n_eval_prompts": len(self.eval_prompts),
            "settings": {key: getattr(self.args, key) for key in sorted(
                {f.name for f in fields(FairPolicyConfig)} - {f.name for f in fields(TrainingArguments)}
                | {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed"})},
            "routes": {n: {k: v for k, v in r.items() if k != "key"} for n, r in self.route_records.items()},
            "seconds": self.seconds, "notes": [],
        }  # fmt: skip
        self.record["notes"] = notes_of(self.record)
        return self.record

    def _votes(self, candidates: Sequence[Candidate]) -> dict[str, dict[str, Any]]:
        """Held-out votes of confidently typed annotators on every policy's own implicit reward."""
        rows = self.eval_rows
        items = TokenizedItems.of(rows, self.mixture.tokenizer, max_length=self.mixture.record.max_length)
        gamma = self.mixture.responsibilities_for(rows.annotator_ids).numpy()
        types = np.where(gamma.max(1) >= self.args.sure, gamma.argmax(1), -1)
        names = [c.name for c in candidates if c.weights is None and c.name != "reference"]
        rewards = self._rewards(rows, items, names)
        n_judges, found = len(self.mixture.policies.names), {}
        ranks = torch.from_numpy(rows.ranks.astype(np.int64))
        for candidate in candidates:
            if candidate.weights is not None:  # log of a weighted mean of π_k / π_ref
                own = self.beta * (rewards[..., :n_judges] / self.beta + candidate.weights.log()).logsumexp(-1)
            elif candidate.name == "reference":
                own = torch.zeros_like(rewards[..., 0])
            else:
                own = rewards[..., names.index(candidate.name)]
            right, n_pairs = pair_order(own, ranks)
            likelihoods = row_log_likelihoods(own[..., None], rows.ranks)[:, 0]
            found[candidate.name] = vote_outcomes(right, n_pairs, likelihoods, types, self.n_types)
        return found


def candidates_value(type_draws: Sequence[PolicyDraws], i: int) -> Tensor:
    """(n_prompts,) what type i thinks of its own answers."""
    return torch.from_numpy(type_draws[i].values[:, i])


def require_several_types(n_types: int, args: FairPolicyConfig) -> None:
    """ValueError where there is nothing to aggregate, or importances do not fit."""
    if n_types < 2:
        raise ValueError(
            "The mixture has one type: there is nothing to aggregate, its policy type_0 is the one policy. Give a "
            "mixture of two or more types."
        )
    importance = args.type_importance
    if importance is not None and (len(importance) != n_types or min(importance) < 0 or max(importance) <= 0):
        raise ValueError(
            f"type_importance is {importance}; give {n_types} numbers from 0 on, one for each type, one of them "
            "above 0."
        )


def prompts_of(
    rows: Preferences, at_most: int, *, seed: int, without: Sequence[Any] = (), what: str = "training"
) -> list[Any]:
    """Different prompts of judgements in an order drawn by `seed`, `at_most` of them and none of `without`.

    Raises:
        ValueError: fewer than 8 are left.
    """
    if rows.prompts is None:
        raise ValueError("These rows name vectors; policies answer prompts: give rows of texts.")
    used = np.unique(rows.prompt_indices[rows.prompt_indices >= 0])
    taken = {json.dumps(prompt) for prompt in without}
    left = [rows.prompts[i] for i in used if json.dumps(rows.prompts[i]) not in taken]
    if len(left) < MIN_PROMPTS:
        trained = f" ({len(used) - len(left)} others are trained on)" if len(used) > len(left) else ""
        raise ValueError(
            f"There are {len(left)} different {what} prompts{trained}; regret is a mean over prompts, and at least "
            f"{MIN_PROMPTS} are needed, some hundreds for narrow intervals. Give more rows, or rows on other prompts "
            "to measure on (--eval_dataset_name)."
        )
    order = np.random.default_rng(seed).permutation(len(left))[:at_most]
    return [left[i] for i in order]


def notes_of(record: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must not miss."""
    rows = {row["name"]: row for row in record["table"]}
    notes = [
        f"{name} has a worst regret of {row['max_regret']['value']:.3f} at a KL of {row['kl']['value']:.2f} nats, "
        f"beyond the budget of {record['kl_budget']:.2f}: low regret bought by drifting from the reference."
        for name, row in rows.items()
        if not row["is_within_budget"] and row["kind"] == Kind.ROUTE
    ]
    chosen = rows.get(record["chosen"])
    if chosen is None:
        return notes
    if not chosen["is_within_budget"]:
        notes.append(f"No route is within the KL budget; {chosen['name']} is the nearest to the reference.")
    others = [
        row for row in rows.values()
        if row["kind"] in (Kind.TYPE, Kind.BASELINE) and row["max_regret"]["value"] < chosen["max_regret"]["value"]
    ]  # fmt: skip
    if others:
        best = min(others, key=lambda row: row["max_regret"]["value"])
        notes.append(
            f"{best['name']} has a lower worst regret ({best['max_regret']['value']:.3f}) than the chosen "
            f"{chosen['name']} ({chosen['max_regret']['value']:.3f}): on these prompts no route pays."
        )
    return notes


def _bounds(found: Interval) -> dict[str, Any]:
    return {"value": found.estimate.tolist(), "low": found.low.tolist(), "high": found.high.tolist()}
