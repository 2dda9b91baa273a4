"""K type policies in, one fair LoRA policy out: min-max regret aggregation (arXiv 2405.15065 and 2510.15716).

1. Every type's policy and the reference answer the same prompts; `L_ij` is what type i thinks of type j's answers.
2. The game on regrets is solved exactly: how often each type's policy should answer.
3. Routes turn that into one adapter; a finished route is kept on disk and not trained again.
4. All policies are measured by one protocol on fresh prompts, and the route of the least worst regret within the KL
   budget is chosen.

Where we differ from the papers: regrets are expectations over the full vocabulary at sampled prefixes, not sampled
log-ratios; the game is a linear programme; and one adapter is delivered where they deliver an ensemble of K.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from transformers import TrainingArguments

from palign.data.preferences import Preferences
from palign.data.trained_rows import save_trained_rows
from palign.data.turns import as_turns
from palign.functional.losses import pair_order
from palign.functional.regret import kl_regret_matrix, relative_regret_matrix, value_bounds
from palign.functional.regret_estimates import GameIntervals, Interval, bootstrap_game
from palign.models.files.card import decimals
from palign.models.files.game import GAME, save_game
from palign.models.files.game_keys import (
    Ends,
    GameRecord,
    GameTable,
    JudgeRecord,
    MatrixEnds,
    PolicyRow,
    VectorEnds,
    VotesRecord,
)
from palign.models.mixture_policy import MixturePolicy
from palign.models.pal import PALRewardModel
from palign.models.policy_draws import DrawSettings, PolicyDraws, PolicyReader
from palign.models.single_adapter import read_adapter, save_adapter
from palign.models.type_scores import row_log_likelihoods
from palign.parallel.sharded import forwards, is_sharded
from palign.trainers.fair.builder import RouteBuilder
from palign.trainers.fair.dro import POOLED
from palign.trainers.fair.judges import by_answers, by_votes, judge_notes
from palign.trainers.fair.measure import (
    Candidate,
    Kind,
    measure_candidates,
    mixed_candidate,
    single_candidate,
    vote_outcomes,
)
from palign.trainers.fair.pal_judge import PALJudge
from palign.trainers.fair.room import room_record
from palign.trainers.fair.routes import RouteFunction
from palign.trainers.fair.vote_gap import VoteAccuracies, worst_gap
from palign.trainers.fair.vote_judge import vote_shares
from palign.trainers.fair.votes import cached_reference, vote_rewards
from palign.trainers.fair_policy_config import MIN_PROMPTS, FairPolicyConfig, Route
from palign.writing import saving, sweep_partials, whole_files

__all__ = ["FairPolicyTrainer", "prompts_of", "require_several_types", "used_prompts"]

Rows = Preferences | Iterable[Mapping[str, Any]]


class FairPolicyTrainer:
    """Regrets → weights → one LoRA.

    Args:
        mixture: the K type policies on their base.
        args: `FairPolicyConfig`.
        train_dataset: judgements; their prompts are what the game is solved on, and route `dro` trains on the votes.
        eval_dataset: judgements on other prompts, on which everything is measured.
        prompts, eval_prompts: what the game is solved on and what is measured on, where votes have too few different
            prompts of their own; of the rows if None. Votes are read from the rows in any case.
        pooled_path: folder of an adapter that one DPO on all votes gave, to compare with; trained here if None.
        type_names: for the report.
        own_routes: further routes, name → function of a `RouteBuilder`, built after those of `args.routes` and
            measured beside them.
        pal: a reward model of the same people, which routes may be trained on and policies judged by.

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
        prompts: Sequence[Any] | None = None,
        eval_prompts: Sequence[Any] | None = None,
        pooled_path: str | Path | None = None,
        type_names: Sequence[str] | None = None,
        own_routes: Mapping[str, RouteFunction] | None = None,
        pal: PALRewardModel | None = None,
    ):
        self.mixture, self.args, self.pooled_path = mixture, args, pooled_path
        self.train_rows, self.eval_rows = Preferences.of(train_dataset), Preferences.of(eval_dataset)
        require_several_types(mixture.n_types, args)
        self.n_types = mixture.n_types
        self.type_names = list(type_names or mixture.policies.names)
        self.own_routes = dict(own_routes or {})
        if pal is None and ("pal" in args.judges or args.rl_reward == "pal"):
            raise ValueError(
                "judges or rl_reward name 'pal', and no PAL reward model is there; give --pal_path (pal= of the "
                "trainer), or leave 'pal' out."
            )
        self.pal = None if pal is None else PALJudge(pal.to(args.device), mixture.record)
        _check_own_routes(self.own_routes, mixture.policies.names)
        self.routes = [*args.routes, *self.own_routes]
        train = used_prompts(self.train_rows) if prompts is None else prompts
        fresh = used_prompts(self.eval_rows) if eval_prompts is None else eval_prompts
        self.train_prompts = prompts_of(train, args.n_prompts, seed=args.seed)
        self.eval_prompts = prompts_of(fresh, args.n_eval_prompts, seed=args.seed, without=train, what="fresh")
        if not mixture.record.plain_prompts:
            self.train_prompts, self.eval_prompts = as_turns(self.train_prompts), as_turns(self.eval_prompts)
        self.output_dir = Path(args.output_dir)
        self.model = mixture.policies.policy.to(args.device)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.reader = PolicyReader(
            self.model, mixture.tokenizer, mixture.policies.names, self.output_dir / "samples",
            show_progress=not args.disable_tqdm and PartialState().is_main_process,
        )  # fmt: skip
        self.seconds: dict[str, float] = {}
        self.builder: RouteBuilder | None = None
        self.eval_draws: dict[str, PolicyDraws] = {}
        self.vote_scores: dict[str, np.ndarray] = {}
        self.record: GameRecord | None = None

    # all of it

    def train(self) -> GameRecord:
        """Estimate, solve, build every route, measure, choose; returns what game.json holds."""
        self.estimate()
        self.builder = RouteBuilder(
            self.mixture, self.args, self.train_rows, self.train_prompts, self.weights, self.type_draws,
            self.reference_draws, self._draws, self.own_routes, self.pal,
        )  # fmt: skip
        if self.pooled_path is not None:
            read_adapter(self.model, POOLED, self.pooled_path)
        for name in (*([POOLED] if self.pooled_path is None else []), *self.routes):
            self.builder.build(name)
        return self.measure()

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """One plain PEFT adapter, the tokenizer, game.json and the model card."""
        folder = Path(output_dir or self.output_dir)
        if self.record is None:
            raise RuntimeError("There is nothing to save yet; call train() first.")
        if not PartialState().is_main_process:
            return
        with saving(folder, "The fair policy"), whole_files(folder, last=GAME) as beside:
            if self.record["chosen"] is not None:
                save_adapter(self.model, self.record["chosen"], beside, lies_at=folder)
            self.mixture.tokenizer.save_pretrained(beside)
            save_trained_rows(beside, self.train_rows)
            save_game(self.record, beside, lies_at=folder)

    # 1 and 2: the game

    def estimate(self) -> GameIntervals:
        """Draws of types and reference on the training prompts, and the game on them."""
        start = time.monotonic()
        judges = self.mixture.policies.names
        self._sweep()
        *self.type_draws, self.reference_draws = self._shared_draws([*judges, None])
        values = torch.stack([torch.from_numpy(draws.values) for draws in self.type_draws], -1)
        self.game = bootstrap_game(
            values, beta=self.beta, type_importance=self.args.type_importance, n_draws=self.args.n_bootstrap,
            seed=self.args.seed,
        )  # fmt: skip
        self.weights = self.game.game.policy_weights
        self.seconds["estimate"] = time.monotonic() - start
        return self.game

    @property
    def beta(self) -> float:
        """Reward per nat, of the mixture's DPO."""
        return self.mixture.record.beta

    def _sweep(self) -> None:
        """Remove what a killed run left half-written, before the processes write."""
        if PartialState().is_main_process:
            for folder in (self.output_dir / "samples", self.output_dir / "routes"):
                sweep_partials(folder)
        PartialState().wait_for_everyone()

    def _draws(self, name: str | None) -> PolicyDraws:
        if is_sharded(self.model):  # all answer together
            return self.reader.draws(name, *self._draw_options(is_eval=False))
        with PartialState().main_process_first():  # the others read what it wrote
            return self.reader.draws(name, *self._draw_options(is_eval=False))

    def _shared_draws(self, names: Sequence[str | None], *, is_eval: bool = False) -> list[PolicyDraws]:
        """Of several policies: each process computes some of them, and reads those of the others; where the base is
        divided, all compute each of them together.
        """
        state = PartialState()
        prompts, settings = self._draw_options(is_eval=is_eval)
        if is_sharded(self.model):
            with forwards(self.model):
                return [self.reader.draws(name, prompts, settings) for name in names]
        share = names[state.process_index :: state.num_processes]
        draws = {name: self.reader.draws(name, prompts, settings) for name in share}
        state.wait_for_everyone()
        return [draws.get(name) or self.reader.draws(name, prompts, settings) for name in names]

    def _draw_options(self, *, is_eval: bool) -> tuple[list[Any], DrawSettings]:
        return self.eval_prompts if is_eval else self.train_prompts, self.args.draw_settings(is_eval=is_eval)

    def _game_record(self) -> GameTable:
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

    # 4: measuring

    def measure(self) -> GameRecord:
        """All policies on fresh prompts, by one protocol; returns what game.json holds."""
        start, judges = time.monotonic(), self.mixture.policies.names
        routes, records = self.routes, self.builder.records
        speakers = [*judges, None, POOLED, *routes]
        draws = self._shared_draws(speakers, is_eval=True)
        self.eval_draws = {name or "reference": of_one for name, of_one in zip(speakers, draws, strict=True)}
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
        tables, by_whom = self._judges(candidates, rows), "types"
        if "votes" in tables and tables["votes"]["is_enough"]:
            chosen, by_whom = tables["votes"]["best_route"] or chosen, "votes"
        self.seconds["measure"] = time.monotonic() - start
        self.seconds |= {name: record["seconds"] for name, record in records.items()}
        self.record = {
            "format": 1, "types": self.type_names, "mixing_weights": self.mixture.record.mixing_weights.tolist(),
            "beta": self.beta, "base_model": self.model.peft_config["type_0"].base_model_name_or_path,
            "game": self._game_record(), "table": rows, "chosen": chosen, "kl_budget": budget,
            "judges": tables, "chosen_by": by_whom,
            "room": room_record(candidates, own_values, rows, self.mixture.policies.names),
            "plain_prompts": self.mixture.record.plain_prompts,
            "n_prompts": len(self.train_prompts), "n_eval_prompts": len(self.eval_prompts),
            "settings": {key: getattr(self.args, key) for key in sorted(
                {f.name for f in fields(FairPolicyConfig)} - {f.name for f in fields(TrainingArguments)}
                | {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "seed"})},
            "routes": {n: {k: v for k, v in r.items() if k != "key"} for n, r in records.items()},
            "seconds": self.seconds, "notes": [],
        }  # fmt: skip
        self.record["notes"] = [
            *judge_notes(tables, chosen, by_whom), *notes_of(self.record), *self._notes_of_votes()
        ]  # fmt: skip
        return self.record

    def _judges(self, candidates: Sequence[Candidate], rows: Sequence[PolicyRow]) -> dict[str, JudgeRecord]:
        """The table under every judge that was asked for; votes only where every type has a voter."""
        args, types = self.args, self.mixture.policies.names
        shared = {"importance": args.type_importance}
        sampled = shared | {"n_draws": args.n_bootstrap, "seed": args.seed}
        judges: dict[str, JudgeRecord] = {}
        singles = [candidate for candidate in candidates if candidate.weights is None]
        if "types" in args.judges:
            values = {candidate.name: self.beta * candidate.values for candidate in singles}
            judges["types"] = by_answers("types", values, candidates, rows, types, **sampled)
        if "pal" in args.judges:
            texts = {c.name: self.eval_draws[c.name].texts(self.mixture.tokenizer) for c in singles}
            with forwards(self.pal.model.backbone.model):
                values = {name: self.pal.values(self.eval_prompts, answers) for name, answers in texts.items()}
            judges["pal"] = by_answers("pal", values, candidates, rows, types, **sampled)
        if "votes" in args.judges:
            shares = {
                name: vote_shares(scores / self.beta, self.eval_rows.ranks, **self._voters())
                for name, scores in self.vote_scores.items()
            }
            record = by_votes(shares, candidates, rows, types, **shared)
            judges |= {} if record is None else {"votes": record}
        return judges

    def _voters(self) -> dict[str, Any]:
        """Who voted in each held-out row and of which type, and how often people are drawn again."""
        people = np.unique(self.eval_rows.annotator_ids.astype(str), return_inverse=True)[1]
        drawn = {"n_types": self.n_types, "n_draws": self.args.n_bootstrap, "seed": self.args.seed}
        return {"people": people, "types": self._voter_types(), **drawn}

    def _voter_types(self) -> np.ndarray:
        """(n_rows,) type of the voter of each held-out row, −1 where it is not sure."""
        gamma = self.mixture.responsibilities_for(self.eval_rows.annotator_ids).numpy()
        return np.where(gamma.max(1) >= self.args.sure, gamma.argmax(1), -1)

    def _notes_of_votes(self) -> list[str]:
        """Whether votes are held out: they are not where types were trained on their prompts."""
        was_seen = self.mixture.record.was_trained_on(self.eval_rows.prompts)
        n_seen = 0 if was_seen is None else int(was_seen[self.eval_rows.prompt_indices].sum())
        if not n_seen:
            return []
        return [
            f"{n_seen} of the {len(self.eval_rows)} votes that policies are judged by are on prompts that the types "
            "were trained on: they are not held out, and accuracy on them is too high. Give rows on other prompts "
            "(--eval_dataset_name)."
        ]

    def _votes(self, candidates: Sequence[Candidate]) -> dict[str, VotesRecord]:
        """Held-out votes of confidently typed annotators on every policy's implicit reward."""
        rows = self.eval_rows
        items = self.mixture.items_of(rows)
        types = self._voter_types()
        names = [c.name for c in candidates if c.weights is None and c.name != "reference"]
        reference = cached_reference(self.mixture, items, self.output_dir)
        rewards = vote_rewards(self.mixture, rows, items, names, reference)
        n_judges, outcomes, accuracies = len(self.mixture.policies.names), {}, {}
        ranks = torch.from_numpy(rows.ranks.astype(np.int64))
        for candidate in candidates:
            if candidate.weights is not None:  # log of a weighted mean of π_k / π_ref
                scores = self.beta * (rewards[..., :n_judges] / self.beta + candidate.weights.log()).logsumexp(-1)
            elif candidate.name == "reference":
                scores = torch.zeros_like(rewards[..., 0])
            else:
                scores = rewards[..., names.index(candidate.name)]
            self.vote_scores[candidate.name] = scores.numpy()
            right, n_pairs = pair_order(scores, ranks)
            likelihoods = row_log_likelihoods(scores[..., None], rows.ranks)[:, 0]
            outcomes[candidate.name] = vote_outcomes(right, n_pairs, likelihoods, types, self.n_types)
            accuracies[candidate.name] = VoteAccuracies(right.numpy(), n_pairs.numpy(), **self._voters())
        for name, outcome in outcomes.items():
            outcome["more_than_pooled"] = worst_gap(accuracies[name], accuracies[POOLED])
        return outcomes


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


def _check_own_routes(own_routes: Mapping[str, RouteFunction], type_names: Sequence[str]) -> None:
    taken = {*Route, *type_names, POOLED, "ensemble", "reference", "uniform", "prior"}
    for name in own_routes:
        if name in taken or not name.isidentifier():
            raise ValueError(
                f"own_routes names a route {name!r}; a name is letters, digits and _, and none of "
                f"{', '.join(sorted(taken))}."
            )


def used_prompts(rows: Preferences) -> list[Any]:
    """The different prompts of judgements, in their order.

    Raises:
        ValueError: the rows hold vectors.
    """
    if rows.prompts is None:
        raise ValueError("These rows name vectors; policies answer prompts: give rows of texts.")
    return [rows.prompts[i] for i in np.unique(rows.prompt_indices[rows.prompt_indices >= 0])]


def prompts_of(
    prompts: Sequence[Any], at_most: int, *, seed: int, without: Sequence[Any] = (), what: str = "training"
) -> list[Any]:
    """Different prompts in an order drawn by `seed`, `at_most` of them and none of `without`.

    Raises:
        ValueError: fewer than 8 are left.
    """
    different = list({json.dumps(prompt): prompt for prompt in prompts}.values())
    taken = {json.dumps(prompt) for prompt in without}
    left = [prompt for prompt in different if json.dumps(prompt) not in taken]
    if len(left) < MIN_PROMPTS:
        n_taken = len(different) - len(left)
        trained = f" ({n_taken} others are trained on)" if n_taken else ""
        raise ValueError(
            f"There are {len(left)} different {what} prompts{trained}; regret is a mean over prompts, and at least "
            f"{MIN_PROMPTS} are needed, some hundreds for narrow intervals. Give more rows, rows on other prompts to "
            "measure on (--eval_dataset_name), or prompts that nobody judged (--prompts_name)."
        )
    order = np.random.default_rng(seed).permutation(len(left))[:at_most]
    return [left[i] for i in order]


def notes_of(record: GameRecord) -> list[str]:
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
    worst = chosen["max_regret"]["value"]
    places = decimals(max(row["max_regret"]["value"] for row in rows.values()), 3)
    better = sorted((row for row in rows.values() if row["max_regret"]["value"] < worst),
                    key=lambda row: row["max_regret"]["value"])  # fmt: skip
    for kinds, meaning in (
        ((Kind.TYPE, Kind.BASELINE), "on these prompts no route pays"),
        ((Kind.MIXTURE,), "by a type drawn for each request, which takes every type's adapter"),
    ):
        named = [
            f"{row['name']} ({row['max_regret']['value']:.{places}f})"
            for row in better if row["kind"] in kinds and row["name"] != "ensemble"
        ]  # fmt: skip
        if named:
            notes.append(
                f"A lower worst regret than the chosen {chosen['name']} ({worst:.{places}f}): {', '.join(named)}; "
                f"{meaning}."
            )
    return notes


def _bounds(interval: Interval) -> Ends | VectorEnds | MatrixEnds:
    return {"value": interval.estimate.tolist(), "low": interval.low.tolist(), "high": interval.high.tolist()}
