"""A base that is loaded in parts on two processes is never whole on one of them, and gives what one process gives."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from palign import PALRewardModel
from palign.models.mixture_policy import MixturePolicy
from tests.distributed import divided_runs
from tests.distributed.divided_runs import MOST, ONE, save_base, save_judged, save_reward, save_types
from tests.distributed.equal_runs import FSDP_2, ZERO_3, alike
from tests.distributed.ranks import run_ranks

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
LAUNCHES = [
    pytest.param(ZERO_3, id="zero3", marks=pytest.mark.skipif(not HAS_DEEPSPEED, reason="DeepSpeed is not installed")),
    pytest.param(FSDP_2, id="fsdp2"),
]
RAN_AS = {ZERO_3: "DEEPSPEED", FSDP_2: "MULTI_GPU"}  # Accelerate has nothing to divide where FSDP2 did so before


@pytest.fixture(scope="module", params=LAUNCHES)
def stage(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, stage: int) -> str:
    return save_base(tmp_path_factory.mktemp("base"), stage=stage)


def on_one_and_on_two(
    work: Callable[..., dict[str, Any]],
    folder: Path,
    stage: int,
    *arguments: Any,
    stages: set[str],
    n_whole: int = 1,
) -> list[dict[str, Any]]:
    """What each of two processes tells, after it is compared with one process, and what of the base each held.

    `n_whole`: processes that have all of it, to compare with; two where they draw, each its share.
    """
    first = folder / "alone"
    alone = run_ranks(work, first, first / "out", ONE, n_whole, *arguments, n_ranks=n_whole)[0]
    ranks = run_ranks(work, folder / "two", folder / "two" / "out", stage, 2, *arguments)
    for rank in ranks:
        assert (rank["num_processes"], rank["distributed_type"]) == (2, RAN_AS[stage])
        assert rank["stage"] == (3 if stage == ZERO_3 else rank["stage"])
        assert rank["shares"].keys() >= stages
        # half of it lies here, and a gathered layer is seen: the hook measures
        assert 0.5 < max(rank["shares"].values()) <= MOST, rank["shares"]
        expected = dict(alone)
        if stage == FSDP_2 and "linear" in alone:
            # of a head on an untrained base of 40 layers: two processes that have all of it are as far from one
            linear = np.array(expected.pop("linear"))
            np.testing.assert_allclose(rank.pop("linear"), linear, atol=1e-4 * np.abs(linear).max())
        alike(expected, rank)
    return ranks


def test_what_is_gathered_is_seen(base: str, stage: int, tmp_path: Path) -> None:
    (alone,) = run_ranks(divided_runs.one_pass, tmp_path / "1", tmp_path, ONE, 1, base, n_ranks=1)
    for rank in run_ranks(divided_runs.one_pass, tmp_path / "2", tmp_path, stage, 2, base):
        assert 0.49 < rank["shares"]["loading"] <= MOST and 0.5 < rank["shares"]["pass"] <= MOST
        assert rank["shares"]["gathered"] > 1
        np.testing.assert_allclose(rank["logits"], alone["logits"], atol=1e-5)


@pytest.mark.slow
def test_em_mixture_dpo_stays_in_parts(base: str, stage: int, tmp_path: Path) -> None:
    stages = {"loading", "reference", "training", "saving", "evaluation", "answers"}
    first, _ = on_one_and_on_two(divided_runs.mixture, tmp_path, stage, base, stages=stages)
    scores = MixturePolicy.from_pretrained(tmp_path / "two" / "out").scores(divided_runs.LATER)
    np.testing.assert_allclose(scores, first["scores"], atol=1e-5)


@pytest.mark.slow
def test_pal_reward_stays_in_parts(base: str, stage: int, tmp_path: Path) -> None:
    stages = {"loading", "training", "saving", "evaluation"}
    first, _ = on_one_and_on_two(divided_runs.reward, tmp_path, stage, base, stages=stages)
    model = PALRewardModel.from_pretrained(tmp_path / "two" / "out").eval()
    data = model.row_tensors(divided_runs.LATER)
    scores = model.head(data.states(slice(None))[0], model.people(data.annotator_index), None).detach()
    np.testing.assert_allclose(scores, first["scores"], atol=1e-5)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory, stage: int) -> str:
    folder = tmp_path_factory.mktemp("reward")
    return save_reward(folder / "reward", save_base(folder / "base", seed=1, stage=stage))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["grpo", "rloo", "ppo"])
def test_policies_stay_in_parts(base: str, reward_model: str, stage: int, tmp_path: Path, recipe: str) -> None:
    stages = {"loading", "reference answers", "training", "answers", "judging"}
    arguments = (base, reward_model, recipe)
    on_one_and_on_two(divided_runs.policies, tmp_path, stage, *arguments, stages=stages, n_whole=2)
    policy = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "two" / "out" / "none")
    assert any(float(p.abs().sum()) > 0 for name, p in policy.named_parameters() if "lora_B" in name)


@pytest.mark.slow
def test_a_fair_policy_stays_in_parts(base: str, reward_model: str, stage: int, tmp_path: Path) -> None:
    mixture = save_types(tmp_path / "types", base)
    stages = {"loading", "estimation", "routes", "saving"}
    # two that have all of it: a route of two steps on them is 8e-4 nats from one process, by Adam's first step
    on_one_and_on_two(divided_runs.fair, tmp_path, stage, mixture, reward_model, stages=stages, n_whole=2)
    chosen = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "two" / "out")
    assert any(float(p.abs().sum()) > 0 for name, p in chosen.named_parameters() if "lora_B" in name)


@pytest.mark.slow
def test_models_are_judged_in_parts(base: str, reward_model: str, stage: int, tmp_path: Path) -> None:
    models = save_judged(tmp_path / "trl", base, save_types(tmp_path / "types", base), reward_model)
    (alone,) = run_ranks(divided_runs.evaluation, tmp_path / "1", tmp_path, ONE, 1, models, n_ranks=1)
    first, second = run_ranks(divided_runs.evaluation, tmp_path / "2", tmp_path, stage, 2, models)
    for rank in (first, second):
        assert rank["num_processes"] == 2 and 0.5 < rank["shares"]["loading"] <= MOST, rank["shares"]
    assert len(alone["accuracy"]) == len(models) * len(divided_runs.LATER)
    for name in ("accuracy", "log_likelihood"):  # on the main process alone
        np.testing.assert_allclose(first[name], alone[name], atol=1e-4)
        assert name not in second
