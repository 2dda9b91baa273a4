"""Routes that answer by themselves take the steps of whole processes, and no process ever holds the base."""

from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from palign.models.mixture_policy import MixturePolicy
from palign.models.single_adapter import adapter_fingerprint
from palign.parallel.sharded import forwards
from palign.trainers.fair_policy_config import FairPolicyConfig
from tests.distributed.divided_runs import ONE, looked_at, options, save_base, save_reward, save_untrained
from tests.distributed.equal_runs import FSDP_2, ZERO_2, ZERO_3, alike
from tests.distributed.playing_runs import playing, save_players
from tests.distributed.ranks import run_ranks
from tests.distributed.test_divided import HAS_DEEPSPEED, LAUNCHES, on_one_and_on_two

has_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="DeepSpeed is not installed")


@pytest.fixture(scope="module")
def players(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("players")
    return save_players(folder / "types", save_untrained(folder / "base", 2))


@pytest.fixture(scope="module")
def whole(players: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of two processes that hold all of a small base."""
    folder = tmp_path_factory.mktemp("whole")
    return run_ranks(playing, folder, folder / "out", ONE, 2, players, None, ["rl"])[0]


@pytest.mark.parametrize(
    "stage",
    [pytest.param(FSDP_2, id="fsdp2"), pytest.param(ZERO_2, id="zero2", marks=[has_deepspeed, pytest.mark.slow])],
)
def test_a_small_base_is_played_on_as_by_whole_processes(
    players: str, whole: dict[str, Any], stage: int, tmp_path: Path
) -> None:
    """Where answers end, and how many batches there are to judge, differs between the processes."""
    assert whole["lengths"][0] != whole["lengths"][1] and whole["batches"][0] != whole["batches"][1]
    for rank in run_ranks(playing, tmp_path, tmp_path / "out", stage, 2, players, None, ["rl"]):
        assert rank["distributed_type"] == {FSDP_2: "MULTI_GPU", ZERO_2: "DEEPSPEED"}[stage]
        assert bool(rank["units"]) == (stage == FSDP_2) and not whole["units"]
        alike(whole, rank)


@pytest.mark.slow
@pytest.mark.parametrize("stage", LAUNCHES)
@pytest.mark.parametrize("rewarded_by", ["types", "pal"])
def test_routes_that_answer_stay_in_parts(stage: int, tmp_path: Path, rewarded_by: str) -> None:
    base = save_base(tmp_path / "base", stage=stage)
    reward_model = None
    if rewarded_by == "pal":
        reward_model = save_reward(tmp_path / "reward", save_base(tmp_path / "judge", seed=1, stage=stage))
    mixture, routes = save_players(tmp_path / "types", base), ["rl", "maxmin"] if rewarded_by == "types" else ["rl"]
    stages = {"loading", "estimation", "routes", "saving"}
    words = (mixture, reward_model, routes)
    on_one_and_on_two(playing, tmp_path, stage, *words, stages=stages, n_whole=2)
    for name in routes:
        policy = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), tmp_path / "two" / "out" / "routes" / name
        )
        assert any(float(p.abs().sum()) > 0 for at, p in policy.named_parameters() if "lora_B" in at)


def keys(folder: Path, mixture: str) -> dict[str, Any]:
    """Of two adapters, as they lie beside a base in parts and as an engine has divided them."""
    with looked_at(ZERO_3):
        args = FairPolicyConfig(**options(folder, ZERO_3, 2))  # says how models are loaded, as long as it lives
        model, names = MixturePolicy.from_pretrained(mixture, divided=True).policies.policy, ["type_0", "type_1"]
        before = [adapter_fingerprint(model, name) for name in names]
        with forwards(model):
            return {"before": before, "divided": [adapter_fingerprint(model, n) for n in names], "n": args.world_size}


@has_deepspeed
def test_an_adapter_has_the_same_key_however_it_lies(players: str, tmp_path: Path) -> None:
    """By it answers are found again; what is empty on a process would have one key whatever was trained."""
    policy = MixturePolicy.from_pretrained(players).policies.policy
    expected = [adapter_fingerprint(policy, name) for name in ("type_0", "type_1")]
    for rank in run_ranks(keys, tmp_path, tmp_path / "out", players):
        assert rank == {"before": expected, "divided": expected, "n": 2} and expected[0] != expected[1]
