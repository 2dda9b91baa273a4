"""What FSDP2 trains whole, and GRPO or RLOO trains it, lies in parts from loading to the end, its reference, too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM

from palign.models.files.base_files import load_base, plain_state
from palign.parallel.resident import resident_share
from palign.parallel.sharded import copied, whole_tensor
from palign.trainers.checkpointing.parts import load_optimizer_parts, load_weight_parts, save_parts
from tests.distributed import divided_runs
from tests.distributed.divided_runs import MOST, save_base, save_reward
from tests.distributed.equal_runs import DDP, FSDP_2, alike, launched
from tests.distributed.ranks import run_ranks
from tests.distributed.test_divided import on_one_and_on_two
from tests.distributed.test_divided_loading import MODELS, SAVING, changed
from tests.worlds.colour import colour_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base(tmp_path_factory.mktemp("base"), stage=FSDP_2)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reward")
    return save_reward(folder / "reward", save_base(folder / "base", seed=1, stage=FSDP_2))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["grpo", "rloo"])
def test_policies_trained_whole_stay_in_parts(base: str, reward_model: str, tmp_path: Path, recipe: str) -> None:
    stages = {"loading", "reference answers", "training", "answers", "judging"}
    arguments = (base, reward_model, recipe, None, False)
    first, second = on_one_and_on_two(divided_runs.policies, tmp_path, FSDP_2, *arguments, stages=stages, n_whole=2)
    assert first["in_file"] >= 1 and second["in_file"] < 0.1  # put together for the file, one tensor at a time
    with torch.no_grad():
        before, after = (
            AutoModelForCausalLM.from_pretrained(folder)(torch.arange(6)[None]).logits
            for folder in (base, tmp_path / "two" / "out" / "none")
        )
    assert after.isfinite().all() and not torch.equal(before, after)


@pytest.mark.slow
def test_checkpoints_of_what_is_trained_whole_are_gone_on_with(base: str, reward_model: str, tmp_path: Path) -> None:
    further = [FSDP_2, base, reward_model, "grpo", None, False]
    (alone, _) = run_ranks(changed, tmp_path / "w", "policies", SAVING, None, tmp_path / "whole", *further)
    words = (tmp_path / "parts", *further)
    assert run_ranks(changed, tmp_path / "a", "policies", SAVING, 1, *words) == [{"interrupted": True}] * 2
    names = {path.name for path in (tmp_path / "parts").rglob("checkpoint-1/**/*")}
    assert {
        "complete.json",
        "weights_0.safetensors",
        "optimizer_1.safetensors",
    } <= names and "model.safetensors" not in names
    (rank, _) = run_ranks(changed, tmp_path / "b", "policies", SAVING, None, *words)
    assert max(alone["shares"].values()) <= MOST and max(rank["shares"].values()) <= MOST
    alike(alone, rank, 1e-6)


def steps(folder: Path, stage: int, base: str) -> dict[str, Any]:
    """A copy of a base takes a step, is written, takes another one, and that again from what was written."""
    launched(stage)
    PartialState(cpu=True)
    source = load_base(base, divided=True).eval()
    model = copied(source)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer)
    rows = torch.arange(12).view(2, 6)
    own = rows if stage == DDP else rows[torch.distributed.get_rank()][None]

    def step() -> list[float]:
        optimizer.zero_grad()
        model(own, labels=own).loss.backward()
        gradients = [whole_tensor(held.grad).norm().item() for held in model.parameters()]
        optimizer.step()
        schedule.step()
        return gradients

    shares = [resident_share(model)] if stage == FSDP_2 else []
    first = step()
    if stage == FSDP_2:
        save_parts(folder, model, optimizer, schedule)
    second = step()
    if stage == FSDP_2:
        load_weight_parts(folder, model)
        load_optimizer_parts(folder, model, optimizer, schedule)
        assert step() == second
    state = plain_state(model)
    with torch.no_grad():
        logits = [each(rows).logits[0, -1, :20].tolist() for each in (source, model)]
    shares += [resident_share(model)] if stage == FSDP_2 else []
    total = {name: values.double().abs().sum().item() for name, values in state.items()}
    return {"gradients": [first, second], "logits": logits, "shares": shares, "total": total}


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_a_copy_in_parts_takes_the_steps_of_a_whole_model(kind: str, tmp_path: Path) -> None:
    """Embeddings and head are one weight, or two; the copied model stays as it is."""
    torch.manual_seed(0)
    MODELS[kind]().save_pretrained(tmp_path / "base")
    colour_tokenizer().save_pretrained(tmp_path / "base")
    (alone,) = run_ranks(steps, tmp_path / "1", tmp_path / "p", DDP, str(tmp_path / "base"), n_ranks=1)
    ranks = run_ranks(steps, tmp_path / "2", tmp_path / "p", FSDP_2, str(tmp_path / "base"))
    for rank in ranks:
        np.testing.assert_allclose(rank["gradients"], alone["gradients"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(rank["logits"], alone["logits"], atol=1e-4)
        assert max(rank["shares"]) < 0.51
    assert ranks[0]["total"].keys() == alone["total"].keys() and not ranks[1]["total"]
    np.testing.assert_allclose([*ranks[0]["total"].values()], [*alone["total"].values()], rtol=1e-4)
