"""Gradient checkpointing and half precision on a base in parts: one layer more is whole, gradients are the same."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from palign.models import completions, reference_logps
from tests.distributed import divided_runs, recomputed_runs
from tests.distributed.divided_runs import MOST, ONE, options, save_reward
from tests.distributed.equal_runs import ZERO_3
from tests.distributed.ranks import run_ranks
from tests.distributed.recomputed_runs import save_deep_base
from tests.distributed.test_divided import on_one_and_on_two

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_deep_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def computing_again() -> Iterator[None]:
    """Every recipe runs with gradient checkpointing."""

    def asked(*given: Any) -> dict[str, Any]:
        return options(*given) | {"gradient_checkpointing": True}

    with mock.patch.object(divided_runs, "options", asked):
        yield


def half_policy_options(*given: Any) -> dict[str, Any]:
    """With gradient checkpointing and `--bf16`."""
    found = options(*given) | {"gradient_checkpointing": True, "bf16": True}
    if found["deepspeed"]:
        found["deepspeed"] = found["deepspeed"] | {"bf16": {"enabled": "auto"}}
    return found


@pytest.mark.parametrize("reentrant", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_computed_again_is_let_go_of(base: str, tmp_path: Path, reentrant: bool) -> None:
    work = recomputed_runs.one_backward
    (alone,) = run_ranks(work, tmp_path / "1", tmp_path, ONE, 1, base, reentrant, n_ranks=1)
    for rank in run_ranks(work, tmp_path / "2", tmp_path, ZERO_3, 2, base, reentrant):
        # half of it, and a layer: more than any pass without recomputation gathers, so that it is seen
        assert rank["shares"]["loading"] < rank["shares"]["training"] <= MOST, rank["shares"]
        np.testing.assert_allclose(rank["weights"], alone["weights"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("computing_again")
@pytest.mark.parametrize("recipe", ["reward", "mixture"])
def test_recipes_that_compute_again_stay_in_parts(base: str, tmp_path: Path, recipe: str) -> None:
    work = getattr(divided_runs, recipe)
    on_one_and_on_two(work, tmp_path, ZERO_3, base, stages={"loading", "training", "evaluation"}, n_whole=2)


@pytest.mark.slow
@pytest.mark.usefixtures("computing_again")
@pytest.mark.parametrize("recipe", ["ppo", "grpo"])
def test_policies_that_compute_again_stay_in_parts(base: str, tmp_path: Path, recipe: str) -> None:
    arguments = (base, save_reward(tmp_path / "reward", base), recipe)
    on_one_and_on_two(divided_runs.policies, tmp_path, ZERO_3, *arguments, stages={"training", "answers"}, n_whole=2)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["half_reward", "half_mixture"])
def test_gradients_in_bfloat16_are_those_of_whole_processes(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (completions, reference_logps):  # a whole base reads texts in another way, which rounds otherwise
        monkeypatch.setattr(module, "has_plain_head", lambda _: False)
    base, work = save_deep_base(tmp_path / "base", torch.bfloat16), getattr(recomputed_runs, recipe)
    whole = run_ranks(work, tmp_path / "whole", tmp_path / "whole", ONE, 2, base)[0]
    parts = run_ranks(work, tmp_path / "parts", tmp_path / "parts", ZERO_3, 2, base)[0]
    assert (whole["distributed_type"], parts["distributed_type"]) == ("MULTI_CPU", "DEEPSPEED")
    assert 0.5 < max(parts["shares"].values()) <= MOST, parts["shares"]
    np.testing.assert_allclose(parts["loss"], whole["loss"], rtol=1e-6)
    apart = np.linalg.norm(np.subtract(parts["weights"], whole["weights"])) / np.linalg.norm(whole["weights"])
    assert apart < 1e-5  # as DeepSpeed sums and rounds by itself: .056 of a reward, .0034 of EM


@pytest.mark.slow
def test_ppo_runs_in_bfloat16_on_parts(tmp_path: Path) -> None:
    base = save_deep_base(tmp_path / "base", torch.bfloat16)
    arguments = (base, save_reward(tmp_path / "reward", base), "ppo")
    with mock.patch.object(divided_runs, "options", half_policy_options):
        whole = run_ranks(divided_runs.policies, tmp_path / "1", tmp_path / "1", ONE, 2, *arguments)[0]
        parts = run_ranks(divided_runs.policies, tmp_path / "2", tmp_path / "2", ZERO_3, 2, *arguments)[0]
    assert 0.5 < max(parts["shares"].values()) <= MOST, parts["shares"]
    for recipe in ("none", "prompt"):
        assert parts[f"{recipe}/kl"][0] == pytest.approx(0, abs=1e-6)  # the policy begins as the reference
        np.testing.assert_allclose(parts[f"{recipe}/reward"], whole[f"{recipe}/reward"], atol=0.05)
