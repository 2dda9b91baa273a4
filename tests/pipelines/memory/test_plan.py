"""Plans by hand, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from palign.pipelines.memory.plan import plan_memory
from palign.pipelines.memory.room import check_weights, refuse_without_room, room_sentence
from palign.pipelines.memory.run import RECIPES, PlannedRun
from palign.pipelines.memory.shape import read_shape
from tests.worlds.scripts import load_script

SIZES = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
# two embeddings, a last norm, and two layers of four maps 64 × 64, three 64 × 128 and two norms
N_PARAMETERS = 2 * 64_000 + 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 128)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LlamaConfig(**SIZES).save_pretrained(tmp_path)
    return tmp_path


def stages(folder: Path, **asked: Any) -> dict[str, dict[str, float]]:
    run = PlannedRun(**{"prompt_length": 8, "max_length": 24, "max_new_tokens": 16} | asked)
    return plan_memory(run, read_shape(folder)).stages


@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_are_whole_on_one_process(folder: Path, recipe: str) -> None:
    held = stages(folder, recipe=recipe, reward_model=False)["loading"]["weights"]
    head = 64_000 if recipe == "pal_reward" else 0
    assert held == 4 * (N_PARAMETERS - head)


def test_an_adapter_its_gradient_and_its_two_moments(folder: Path) -> None:
    # rank 2: each of four maps 2 · 128 numbers, each of three 2 · 192, in two layers; three types
    n = 3 * 2 * (4 * 256 + 3 * 384)
    training = stages(folder, n_types=3, lora_r=2)["training"]
    assert (training["adapters"], training["gradients"], training["optimizer"]) == (4 * n, 4 * n, 8 * n)


def test_a_policy_trained_whole_has_a_reference(folder: Path) -> None:
    asked = {"recipe": "grpo_pal", "use_peft": False, "reward_model": False}
    assert stages(folder, **asked)["training"]["weights"] == 2 * 4 * N_PARAMETERS
    assert stages(folder, **asked, beta=0.0)["training"]["weights"] == 4 * N_PARAMETERS
    assert stages(folder, **asked)["training"]["optimizer"] == 2 * 4 * N_PARAMETERS


def test_zero3_holds_the_policy_as_it_was_given_in_parts_too(folder: Path) -> None:
    asked = {"recipe": "grpo_pal", "use_peft": False, "reward_model": False, "launcher": "zero3", "num_processes": 4}
    assert stages(folder, **asked)["training"]["weights"] == 3 * 4 * N_PARAMETERS / 4
    assert stages(folder, **asked, beta=0.0)["training"]["weights"] == 2 * 4 * N_PARAMETERS / 4


def test_zero3_divides_weights_and_zero2_their_training_alone(folder: Path) -> None:
    two, three = (stages(folder, launcher=name, num_processes=4, dtype="bfloat16") for name in ("zero2", "zero3"))
    assert two["training"]["weights"] == 2 * N_PARAMETERS
    assert three["training"]["weights"] == 2 * N_PARAMETERS / 4
    assert two["training"]["gradients"] == three["training"]["gradients"]
    one = stages(folder, dtype="bfloat16")["training"]["gradients"]
    assert two["training"]["gradients"] == one / 4


def test_fsdp2_divides_a_frozen_base_from_loading_on_and_no_adapter(folder: Path) -> None:
    asked = {"recipe": "grpo_pal", "dtype": "bfloat16", "reward_model": False}
    one, parts = stages(folder, **asked), stages(folder, **asked, launcher="fsdp2", num_processes=4)
    for stage in ("loading", "training", "generation"):
        assert parts[stage]["weights"] == 2 * N_PARAMETERS / 4
    assert parts["training"]["gradients"] == one["training"]["gradients"]
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 128
    assert parts["generation"]["buffers"] - 4 * _n_trained(one) == 2 * max(2 * layer, 2 * 64_000)


def test_fsdp2_loads_whole_what_it_trains_whole(folder: Path) -> None:
    asked = {"recipe": "ppo_pal", "launcher": "fsdp2", "num_processes": 4, "reward_model": False}
    whole, copied = stages(folder, **asked, use_peft=False), stages(folder, **asked, critic="full")
    assert whole["loading"]["weights"] == 2 * 4 * N_PARAMETERS  # and the reference
    assert whole["training"]["weights"] == 2 * 4 * N_PARAMETERS / 4
    assert copied["loading"]["weights"] == 4 * N_PARAMETERS


def test_fsdp2_divides_from_loading_on_what_grpo_trains_whole(folder: Path) -> None:
    asked = {"recipe": "grpo_pal", "use_peft": False, "reward_model": False}
    one, parts = stages(folder, **asked), stages(folder, **asked, launcher="fsdp2", num_processes=4)
    for stage in ("loading", "training", "generation"):
        assert one[stage]["weights"] == 2 * 4 * N_PARAMETERS  # it and its reference
        assert parts[stage]["weights"] == 3 * 4 * N_PARAMETERS / 4  # and the policy as it was given
    for part in ("gradients", "optimizer"):
        assert parts["training"][part] == one["training"][part] / 4
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 128
    assert parts["generation"]["buffers"] == 4 * (2 * layer + 4 * 64_000)


def _n_trained(held: dict[str, dict[str, float]]) -> float:
    """Numbers of an adapter, of which one process has all gradients, in float32."""
    return held["training"]["gradients"] / 4


def test_keys_and_values_of_a_rollout(folder: Path) -> None:
    held = stages(folder, recipe="ppo_pal", per_device_train_batch_size=2, steps_per_generation=3)["generation"]
    assert held["cache"] == 6 * 24 * 2 * 2 * 64 * 4  # answers, tokens, layers, keys and values, width, bytes


def test_checkpointing_keeps_one_layer(folder: Path) -> None:
    asked = {"per_device_train_batch_size": 8, "max_length": 256}
    plain, saved = (stages(folder, **asked, gradient_checkpointing=on)["training"] for on in (False, True))
    assert saved["activations"] < plain["activations"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"recipe": "sft"}, "--recipe is 'sft'; choose from em_dpo"),
        ({"lora_r": 0}, "--lora_r is 0; it must be at least 1"),
        ({"num_processes": 2}, "--launcher single runs one process"),
        ({"prompt_length": 64, "max_length": 64}, "a prompt must leave room"),
        ({"lora_target_modules": ["wq"]}, "--lora_target_modules holds 'wq'"),
    ],
)
def test_options_that_cannot_be_planned_are_said(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PlannedRun(**asked)


def test_too_large_a_plan_is_one_sentence(folder: Path) -> None:
    plan = plan_memory(PlannedRun(), read_shape(folder))
    assert room_sentence(plan, plan.peak) is None
    sentence = room_sentence(plan, plan.peak - 1)
    assert sentence.startswith("em_dpo under single would hold") and "gradient_checkpointing" in sentence
    assert "zero3" in room_sentence(plan, 1)


def test_weights_beyond_a_card_are_refused_with_the_plans_figure(folder: Path) -> None:
    weights = 4 * N_PARAMETERS
    check_weights("em_dpo", str(folder), "float32", weights)
    check_weights("em_dpo", str(folder), "bfloat16", weights / 2)
    with pytest.raises(ValueError, match=r"in float32, and they lie whole on each card .* all of em_dpo would take"):
        check_weights("em_dpo", str(folder), "float32", weights - 1)


def test_a_card_is_asked_where_there_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        total_memory = 1000

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refuse_without_room("em_dpo", str(folder), "float32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    with pytest.raises(ValueError, match="lie whole on each card"):
        refuse_without_room("em_dpo", str(folder), "float32")
    refuse_without_room("em_dpo", "owner/model", "float32")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    refuse_without_room("em_dpo", str(folder), "float32")


def test_the_script_prints_a_table_and_says_what_does_not_fit(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load_script("plan_memory")
    assert script.main([str(folder), "--recipe", "ppo_pal", "--memory_gib", "80"]) == 0
    assert "| generation |" in capsys.readouterr().out
    assert script.main([str(folder), "--memory_gib", "0.0001"]) == 1
    assert "a card has 0.0 GiB" in capsys.readouterr().out
    assert script.main([str(folder / "nowhere")]) == 2
    assert "holds no config.json" in capsys.readouterr().err
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 1000
