"""Routes of a fair policy on two processes, one of them late: both build, or both read."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import PartialState

from palign.models.mixture_policy import MixturePolicy
from palign.trainers.fair.builder import RouteBuilder
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.trainers.fair_policy_trainer import FairPolicyTrainer
from tests.distributed import ranks
from tests.worlds.planted import FRESH, TRAIN, colour_rows, random_mixture


def merged_twice(folder: Path) -> dict[str, Any]:
    """A merge, which needs no other process, and the same again; the second process comes late to each route."""
    own, read = RouteBuilder._key, []

    def late(self: RouteBuilder, name: str) -> str:
        if os.environ["RANK"] == "1":
            time.sleep(1.0)
        return own(self, name)

    RouteBuilder._key = late  # this is a process of its own
    args = FairPolicyConfig(
        output_dir=str(folder / "out"), routes=["merge"], n_prompts=8, n_samples=2, n_eval_prompts=8, n_eval_samples=2,
        max_new_tokens=6, n_bootstrap=20, max_kl=1e6, use_cpu=True, disable_tqdm=True, report_to="none",
    )  # fmt: skip
    for _ in range(2):
        trainer = FairPolicyTrainer(
            MixturePolicy.from_pretrained(folder / "mixture"), args, colour_rows(TRAIN), colour_rows(FRESH, seed=1),
            pooled_path=folder / "mixture" / "type_0",
        )  # fmt: skip
        trainer.train()
        read.append([trainer.record["chosen"], trainer.builder.records["merge"]["seconds"]])
    return {"read": read}


def test_a_late_process_builds_what_the_main_one_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "TIMEOUT", 90)
    random_mixture(tmp_path / "mixture")
    first, second = ranks.run_ranks(merged_twice, tmp_path / "logs", tmp_path)
    built, found = first["read"]
    assert built[0] == "merge" and found == built == second["read"][1]
    assert second["read"][0][1] != built[1]  # it took seconds of its own to build it
    assert [path.name for path in (tmp_path / "out" / "routes").iterdir()] == ["merge"]


def cleared_late(folder: Path) -> dict[str, Any]:
    """Whether the training folder was there when the second process, later than the main one, came to its end."""
    PartialState(cpu=True)
    training, builder = folder / "routes" / ".training-dro", SimpleNamespace(output_dir=folder)
    if PartialState().is_main_process:
        (training / "runs").mkdir(parents=True)
        (training / "runs" / "events").write_text("a curve")
    PartialState().wait_for_everyone()
    time.sleep(0.5 * PartialState().process_index)
    was_there = training.is_dir()
    RouteBuilder.clear(builder, str(training), "dro")
    return {"was_there": was_there, "is_there": training.is_dir()}


def test_a_training_folder_stays_until_the_last_process_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transformers trainer lists its checkpoints as the last thing it does."""
    monkeypatch.setattr(ranks, "TIMEOUT", 60)
    for of_rank in ranks.run_ranks(cleared_late, tmp_path / "logs", tmp_path):
        assert of_rank == {"was_there": True, "is_there": False}
    assert (tmp_path / "runs" / "dro" / "events").read_text() == "a curve"
