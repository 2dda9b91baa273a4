"""What ZeRO-3 trains whole lies in parts, too: policies, their references, critics that are copies, backbones."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from palign import PALRewardModel
from tests.distributed import divided_runs
from tests.distributed.divided_runs import MOST, save_base, save_reward
from tests.distributed.equal_runs import ZERO_3, alike
from tests.distributed.ranks import run_ranks
from tests.distributed.test_divided import on_one_and_on_two
from tests.distributed.test_divided_loading import SAVING, changed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward")
    return save_reward(folder / "reward", save_base(folder / "base", seed=1))


@pytest.mark.parametrize(
    ("recipe", "critic"), [("grpo", None), ("rloo", None), ("ppo", "head"), ("ppo", "full"), ("ppo", "layers:7")]
)
def test_policies_trained_whole_stay_in_parts(
    base: str, reward_model: str, tmp_path: Path, recipe: str, critic: str | None
) -> None:
    stages = {"loading", "reference answers", "training", "answers", "judging"}
    arguments = (base, reward_model, recipe, critic, False)
    first, second = on_one_and_on_two(divided_runs.policies, tmp_path, ZERO_3, *arguments, stages=stages, n_whole=2)
    assert first["in_file"] >= 1 and not second["in_file"]  # put together for the file, and nowhere else
    with torch.no_grad():
        before, after = (
            AutoModelForCausalLM.from_pretrained(folder)(torch.arange(6)[None]).logits
            for folder in (base, tmp_path / "two" / "out" / "none")
        )
    assert after.isfinite().all() and not torch.equal(before, after)


def test_a_critic_that_is_a_copy_lies_in_parts_beside_adapters(base: str, reward_model: str, tmp_path: Path) -> None:
    arguments = (base, reward_model, "ppo", "full")
    ranks = on_one_and_on_two(
        divided_runs.policies, tmp_path, ZERO_3, *arguments, stages={"loading", "training"}, n_whole=2
    )
    assert not any(rank["in_file"] for rank in ranks)


@pytest.mark.parametrize("run", ["policies", "reward"])
def test_checkpoints_of_what_is_trained_whole_are_gone_on_with(
    run: str, base: str, reward_model: str, tmp_path: Path
) -> None:
    """By PPO with a critic that is a copy, and by a reward model."""
    further = [ZERO_3, base, *([reward_model, "ppo", "full"] if run == "policies" else []), False]
    (alone, _) = run_ranks(changed, tmp_path / "w", run, SAVING, None, tmp_path / "whole", *further)
    words = (tmp_path / "parts", *further)
    assert run_ranks(changed, tmp_path / "a", run, SAVING, 1, *words) == [{"interrupted": True}] * 2
    (rank, _) = run_ranks(changed, tmp_path / "b", run, SAVING, None, *words)
    assert max(alone["shares"].values()) <= MOST and max(rank["shares"].values()) <= MOST
    alike(alone, rank, 1e-5)


def test_a_backbone_trained_whole_stays_in_parts(base: str, tmp_path: Path) -> None:
    stages = {"loading", "training", "saving", "evaluation"}
    first, _ = on_one_and_on_two(divided_runs.reward, tmp_path, ZERO_3, base, False, stages=stages, n_whole=2)
    saved = tmp_path / "two" / "out"
    model = PALRewardModel.from_pretrained(saved).eval()
    data = model.row_tensors(divided_runs.LATER)
    scores = model.head(data.states(slice(None))[0], model.people(data.annotator_index), None).detach()
    np.testing.assert_allclose(scores, first["scores"], rtol=1e-5, atol=1e-4)
    parts, whole = (load_file(tmp_path / run / "out" / "backbone" / "model.safetensors") for run in ("two", "alone"))
    assert parts.keys() == whole.keys()
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-4, err_msg=name)
