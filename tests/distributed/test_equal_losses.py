"""Each trainer takes the steps of one process on two, with DDP, ZeRO-2, ZeRO-3 and FSDP2, accumulating or not."""

import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palign import PALRewardModel
from palign.models.mixture_policy import MixturePolicy
from tests.distributed import equal_runs
from tests.distributed.equal_runs import DDP, FSDP_2, ZERO_2, ZERO_3, alike
from tests.distributed.ranks import run_ranks
from tests.worlds.colour import planted
from tests.worlds.planted import random_mixture

WRAPPERS = {DDP: "DistributedDataParallel", ZERO_2: "DeepSpeedEngine", ZERO_3: "DeepSpeedEngine"}
TYPES = {DDP: "MULTI_CPU", ZERO_2: "DEEPSPEED", ZERO_3: "DEEPSPEED", FSDP_2: "FSDP"}
QUICK = {
    ("mixture", ZERO_3, 4), ("reward", ZERO_2, 1), ("fair", DDP, 1), ("ppo", DDP, 4), ("ppo", ZERO_2, 1),
    ("grpo", ZERO_2, 4), ("rloo", ZERO_3, 1), ("mixture", FSDP_2, 1), ("ppo", FSDP_2, 4), ("grpo", FSDP_2, 1),
    ("mixture", ZERO_2, 1),
}  # fmt: skip
CASES = [
    pytest.param(
        trainer, stage, accumulation, marks=() if (trainer, stage, accumulation) in QUICK else pytest.mark.slow
    )
    for trainer in ("mixture", "reward", "fair", "ppo", "grpo", "rloo")
    for stage in (DDP, ZERO_2, ZERO_3, FSDP_2)
    for accumulation in (1, 4)
]
has_deepspeed = importlib.util.find_spec("deepspeed") is not None


class Runs:
    """Trainings by trainer, stage, ranks and accumulation; each is done once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, {}

    def of(self, trainer: str, stage: int, n_ranks: int, accumulation: int) -> tuple[Path, list[dict[str, Any]]]:
        key = (trainer, stage, n_ranks, accumulation)
        if key not in self.done:
            folder = self.folder / "_".join(map(str, key))
            work, *further = self.works()[trainer]
            if trainer == "fair" and not further[0].exists():
                random_mixture(further[0])
            found = run_ranks(work, folder, folder / "out", stage, n_ranks, accumulation, *further, n_ranks=n_ranks)
            self.done[key] = folder / "out", found
        return self.done[key]

    def works(self) -> dict[str, tuple[Any, ...]]:
        """The training of each name, and what it takes beside stage, ranks and accumulation."""
        return {
            "mixture": (equal_runs.train_mixture, "sampled"),
            "reward": (equal_runs.train_reward,),
            "fair": (equal_runs.train_fair, self.folder / "types"),
            "ppo": (equal_runs.train_ppo,),
            "grpo": (equal_runs.train_group, "grpo"),
            "rloo": (equal_runs.train_group, "rloo"),
        }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("trainer, stage, accumulation", CASES)
def test_two_processes_take_the_steps_of_one(runs: Runs, trainer: str, stage: int, accumulation: int) -> None:
    if stage > DDP and not has_deepspeed:
        pytest.skip("DeepSpeed is not installed")
    # route `dro` moves its weights at each forward pass, so that it is compared with as many of them
    of_one = accumulation if trainer == "fair" else 1
    _, (alone,) = runs.of(trainer, DDP, 1, of_one)
    assert alone["num_processes"] == 1 and len(alone["loss"]) >= 4
    folder, ranks = runs.of(trainer, stage, 2, accumulation)
    for rank in ranks:
        # none of the silent fall-backs
        assert (rank["num_processes"], rank["stage"], rank["distributed_type"]) == (2, max(stage, 0), TYPES[stage])
        assert rank["wrapper"] == WRAPPERS[stage] if stage != FSDP_2 else "LlamaDecoderLayer" in rank["units"]
        alike(alone, rank)
    if trainer == "mixture":
        scores = MixturePolicy.from_pretrained(folder).scores(planted(seed=2))
        np.testing.assert_allclose(scores, ranks[0]["scores"], atol=1e-5)
    elif trainer == "reward":
        rows = planted(seed=2)
        model = PALRewardModel.from_pretrained(folder).eval()
        data = model.row_tensors(rows)
        items, prompts = data.states(slice(None))
        scores = model.head(items, model.people(data.annotator_index), prompts).detach()
        np.testing.assert_allclose(scores, ranks[0]["scores"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not has_deepspeed, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", [ZERO_2, ZERO_3, FSDP_2])
def test_an_interrupted_mixture_goes_on_to_the_same_end(runs: Runs, tmp_path: Path, stage: int) -> None:
    """Interrupted in the second round: engine, adapters and responsibilities come back from the checkpoint."""
    _, (alone,) = runs.of("mixture", DDP, 1, 1)
    words = (tmp_path / "out", stage, 2, 1, "sampled")
    run_ranks(equal_runs.train_mixture, tmp_path / "first", *words, 8)
    assert len(list((tmp_path / "out").glob("checkpoint-*/complete.json"))) == 1
    for rank in run_ranks(equal_runs.train_mixture, tmp_path / "second", *words):
        assert rank["stage"] == max(stage, 0)
        alike(alone, rank)


def test_a_rank_that_fails_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="rank 1 has a reason"):
        run_ranks(_fail_on_the_second, tmp_path)


def _fail_on_the_second() -> dict[str, Any]:
    if os.environ["RANK"] == "1":
        raise RuntimeError("rank 1 has a reason")
    time.sleep(60)
    return {}
