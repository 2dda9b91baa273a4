"""The routes `rl` and `maxmin` on two processes, whose answers end at different lengths and fill unlike batches."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig
from trl import GRPOTrainer

from palign import PALRewardModel
from palign.models import type_scores
from palign.models.mixture_policy import MixturePolicy
from palign.parallel.sharded import divided_parameters
from palign.trainers.fair.builder import RouteBuilder
from palign.trainers.fair.rl import GameReward, GameTrainer
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.trainers.fair_policy_trainer import FairPolicyTrainer
from tests.distributed.divided_runs import looked_at, options, save_types
from tests.distributed.equal_runs import ZERO, ZERO_2
from tests.worlds.colour import colour_tokenizer
from tests.worlds.planted import PROMPTS, colour_rows

LENGTH = 5  # tokens of an answer at most
TOKENS_AT_ONCE = 40  # two or three answers with their prompts


def save_players(folder: Path, base: str) -> str:
    """A mixture of two random types on a base of which every other token ends an answer; its folder."""
    GenerationConfig(eos_token_id=list(range(0, len(colour_tokenizer()), 2))).save_pretrained(base)
    return save_types(folder, base, spread=1.0)


def playing(
    folder: Path, stage: int, n_ranks: int, mixture: str, reward_model: str | None, routes: Sequence[str]
) -> dict[str, Any]:
    """Routes in turn, by the types' rewards or by those of a PAL reward model, measured and saved.

    Completions are the same however weights are divided: each generation is seeded.
    """
    with looked_at(stage) as seen, _told() as told:
        found = options(folder, stage, n_ranks) | {"learning_rate": 2.0, "optim": "sgd"}  # Adam's first step is a sign
        if stage == ZERO_2:
            found["deepspeed"] = ZERO | {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": 4}
        args = FairPolicyConfig(
            routes=routes, rl_reward="types" if reward_model is None else "pal", n_prompts=8, n_eval_prompts=8,
            n_samples=1, n_eval_samples=1, max_new_tokens=LENGTH, n_bootstrap=10, group_size=2, max_steps=2,
            draw_batch_size=8, **found,
        )  # fmt: skip
        policy = MixturePolicy.from_pretrained(mixture, divided=True)
        trainer = FairPolicyTrainer(
            policy, args, colour_rows(PROMPTS[:8]), colour_rows(PROMPTS[8:16], n_rows=3),
            pooled_path=Path(mixture) / "type_0",
            pal=None if reward_model is None else PALRewardModel.from_pretrained(reward_model, divided=True),
        )  # fmt: skip
        seen.at("estimation")
        trainer.estimate()
        seen.at("routes")
        record = trainer.train()
        seen.at("saving")
        trainer.save_model()
        PartialState().wait_for_everyone()
        seen.at("end")
        state = PartialState()
        return {
            "num_processes": state.num_processes, "distributed_type": state.distributed_type.value, "stage": stage,
            "shares": seen.shares, **_gathered(told), "chosen": record["chosen"],
            "regrets": [row["max_regret"]["value"] for row in record["table"]],
            **{f"{name}/{key}": value for name in routes for key, value in _of_route(record["routes"][name])},
            **{f"{name}/adapter": _as_trained(folder / "routes" / name, record["routes"][name]) for name in routes},
            "units": len(divided_parameters(trainer.model)),
        }  # fmt: skip


def _of_route(record: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is recorded of a route, but for the time it took."""
    yield from ((name, record[name]) for name in ("length", "type_weights", "kl_price", "last_kl", "n_completions"))
    yield from ((name, [entry[name] for entry in record["rounds"]]) for name in ("weights", "max_regret", "kl"))


def _as_trained(folder: Path, record: dict[str, Any]) -> list[float]:
    """The half of a saved adapter that is shortened, as it was before; the cut is told by itself."""
    tensors = load_file(folder / "adapter_model.safetensors")
    names = sorted(name for name in tensors if "lora_B" in name)
    return (np.concatenate([tensors[name].numpy().ravel() for name in names]) / record["length"]).tolist()


def _gathered(told: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Of both processes, by name; the log is the main one's."""
    everybody = gather_object([told])
    return {"log": everybody[0]["log"]} | {n: [of[n] for of in everybody] for n in ("lengths", "batches")}


@contextmanager
def _told() -> Iterator[dict[str, list[Any]]]:
    """Inside this context a process notes the longest answer and the number of batches of each reward, and the log."""
    told: dict[str, list[Any]] = {"lengths": [], "batches": [], "log": []}
    reward, log, turns = GameReward.__call__, GameTrainer.log, type_scores.turns
    answer, values = GRPOTrainer._generate_single_turn, RouteBuilder.reward_values

    def rewarded(self: GameReward, prompts: Any, completions: Any, completion_ids: Any, **rest: Any) -> list[float]:
        told["lengths"].append(max(len(ids) for ids in completion_ids))
        with mock.patch.object(type_scores, "turns", counted):
            return reward(self, prompts, completions, completion_ids, **rest)

    def counted(batches: Any, *rest: Any) -> Any:
        told["batches"].append(len(batches))
        return turns(batches, *rest)

    def logged(self: GameTrainer, logs: dict[str, float], *rest: Any) -> None:
        log(self, logs, *rest)
        if "loss" in logs:
            told["log"].append([logs[name] for name in ("loss", "grad_norm", "reward")])

    def seeded(self: GRPOTrainer, *rest: Any) -> Any:
        torch.manual_seed(1000 * self.state.global_step + PartialState().process_index)
        return answer(self, *rest)

    def gaining(self: RouteBuilder) -> tuple[Tensor, Tensor]:
        """An untrained reward model need not like the types' answers."""
        own, of_reference = values(self)
        return (own if self.args.rl_reward == "types" else of_reference + 1), of_reference

    with ExitStack() as patches:
        for where, name, method in (
            (GameReward, "__call__", rewarded), (GameTrainer, "log", logged), (RouteBuilder, "reward_values", gaining),
            (GRPOTrainer, "_generate_single_turn", seeded), (type_scores, "tokens_at_once", lambda _: TOKENS_AT_ONCE),
        ):  # fmt: skip
            patches.enter_context(mock.patch.object(where, name, method))
        yield told
