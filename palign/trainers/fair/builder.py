"""What every route starts from and trains with; a finished route is kept on disk and not built again."""

import copy
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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
from palign.functional.regret import importance_of
from palign.models.mixture_policy import MixturePolicy
from palign.models.policy_draws import PolicyDraws
from palign.models.reference_logps import base_fingerprint
from palign.models.single_adapter import (
    AdapterPolicies,
    adapter_fingerprint,
    add_adapter,
    read_adapter,
    save_adapter,
    train_only,
)
from palign.parallel.sharded import divided_parameters, forwards, make_whole
from palign.parallel.shared_work import computed_once
from palign.reading import read_json
from palign.trainers.checkpointing.finished import options_key
from palign.trainers.checkpointing.same_run import TRAINING_OPTIONS
from palign.trainers.fair.pal_judge import PALJudge
from palign.trainers.fair.route_trainer import RouteTrainer
from palign.trainers.fair.routes import ROUTES, RouteFunction
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.writing import move_into, saving, write_whole

__all__ = ["RouteBuilder"]

logger = logging.getLogger(__name__)
ROUTE = "route.json"
TRAINED_BY = (*TRAINING_OPTIONS, "learning_rate", "num_train_epochs", "per_device_train_batch_size")
ONLY_MEASURED_BY = (
    "routes", "n_eval_prompts", "n_eval_samples", "sure", "n_bootstrap", "draw_batch_size", "judges",
)  # fmt: skip


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
        pal: rewards of the types by a PAL model, for `rl_reward="pal"`.
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
    own_routes: Mapping[str, RouteFunction] = field(default_factory=dict)
    pal: PALJudge | None = None
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def model(self) -> PeftModel:
        """The base with all adapters."""
        return self.mixture.policies.policy

    @property
    def output_dir(self) -> Path:
        """Of the trainer."""
        return Path(self.args.output_dir)

    @property
    def importance(self) -> Tensor:
        """(n_types,) what a type's regret counts for."""
        return importance_of(self.args.type_importance, self.mixture.n_types)

    def build(self, name: str) -> None:
        """Read a finished route, or build it ('pooled': one DPO on all votes) and write it, whole or not at all.

        A user's route is always built: nothing says whether its function is still the same. The main
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
        start, cpu_start = time.monotonic(), time.process_time()
        set_seed(self.args.seed)
        entries = {**ROUTES, **self.own_routes}[name](self)
        if name not in self.model.peft_config:
            raise RuntimeError(
                f"Route {name!r} put no adapter of that name on builder.model; builder.add({name!r}) does."
            )
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        spent = {"seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu_start}
        return {**spent, **entries}

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
        names = {f.name for f in fields(FairPolicyConfig)} - {f.name for f in fields(TrainingArguments)}
        names = (names | set(TRAINED_BY)) - set(ONLY_MEASURED_BY)
        settings = {key: str(getattr(self.args, key)) for key in sorted(names)}
        record, gamma = self.mixture.record, self.mixture.responsibilities_for(self.rows.annotator_ids)
        content = [name, settings, self._models, record.beta, record.max_length, self.weights.tolist(), self.prompts]
        content += [self.pal.fingerprint] if self.pal is not None and self.args.rl_reward == "pal" else []
        return options_key([*content, gamma.tolist()], self.rows)[:32]

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
        args.run_name = f"{self.args.run_name}-{name}" if self.args.run_name else None
        args.ddp_find_unused_parameters = False  # the one adapter is in every forward pass
        train_only(self.model, name)
        divided = divided_parameters(self.model)
        trainer = RouteTrainer(policies, args, rows, tokenizer=self.mixture.tokenizer)
        trainer.train()
        make_whole(policies, trainer.model_wrapped, keep=divided)
        self.clear(args.output_dir, name)

    def clear(self, folder: str, name: str) -> None:
        """Remove a route's training folder, once no process reads it; the curves that tensorboard shows are kept.

        Every process calls it.
        """
        PartialState().wait_for_everyone()  # at its end a transformers trainer lists the checkpoints there
        if PartialState().is_main_process:
            if (curves := Path(folder) / "runs").is_dir():
                move_into(curves, self.output_dir / "runs" / name)
            shutil.rmtree(folder, ignore_errors=True)
        PartialState().wait_for_everyone()  # a next route of that name begins in a folder that is gone

    def type_rewards(self, rows: list[int], completions: Sequence[Any], log_ratios: Tensor) -> Tensor:
        """(n, n_types) what routes by reinforcement are trained on: β h of the types, or a PAL model's rewards.

        Args:
            rows: (n,) numbers of the prompts.
            completions: (n,) texts, or lists with one message.
            log_ratios: (n, n_types) h, nats.
        """
        if self.args.rl_reward == "types":
            return self.mixture.record.beta * log_ratios
        return self._pal().scores([self.prompts[i] for i in rows], completions)

    def reward_values(self) -> tuple[Tensor, Tensor]:
        """(n_prompts, n_types) that reward under each type's own policy, and under the reference."""
        if self.args.rl_reward == "types":
            own = np.stack([draws.values[:, i] for i, draws in enumerate(self.type_draws)], 1)
            values = torch.from_numpy(own), torch.from_numpy(self.reference_draws.values)
            return tuple(self.mixture.record.beta * value for value in values)
        pal, tokenizer = self._pal(), self.mixture.tokenizer
        by_type = [pal.values(self.prompts, draws.texts(tokenizer))[:, i] for i, draws in enumerate(self.type_draws)]
        return torch.stack(by_type, 1), pal.values(self.prompts, self.reference_draws.texts(tokenizer))

    def rewarding(self) -> AbstractContextManager:
        """Around calls of `reward_values` and `type_rewards`: one engine of ZeRO-3 for all that a PAL model reads."""
        if self.args.rl_reward == "types":
            return nullcontext()
        return forwards(self._pal().model.backbone.model)

    def _pal(self) -> PALJudge:
        if self.pal is None:
            raise ValueError("rl_reward is 'pal', and no PAL reward model is there; give --pal_path.")
        return self.pal


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """What is recorded of a route, or None where it is not finished or was built from something else."""
    if not (folder / ROUTE).is_file():
        return None
    record = read_json(folder / ROUTE, dict, allows_nan=True)
    if record.get("key") == key and "seconds" in record:
        return record
    logger.warning("Route %s was built from other models, rows or settings; it is built again.", folder.name)
    return None
