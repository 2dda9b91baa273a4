"""The launcher's file against the flags of a run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from palign.parallel.launch_checks import check_launch
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.pal_grpo_config import PALGRPOConfig
from palign.trainers.pal_reward_config import PALRewardConfig


def flags(**given: Any) -> SimpleNamespace:
    unset = {
        "bf16": False, "fp16": False, "deepspeed": None, "gradient_accumulation_steps": 1, "max_grad_norm": 1.0,
        "per_device_train_batch_size": 8, "resume_from_checkpoint": None, "save_only_model": False,
        "ignore_data_skip": False,
    }  # fmt: skip
    return SimpleNamespace(**unset | given)


@pytest.mark.parametrize(
    ("launched", "given"), [("no", {}), ("no", {"bf16": True}), ("bf16", {"bf16": True}), ("fp16", {"fp16": True})]
)
def test_number_types_that_agree_pass(monkeypatch: pytest.MonkeyPatch, launched: str, given: dict[str, bool]) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    check_launch(flags(**given))


@pytest.mark.parametrize(
    ("launched", "given", "words"),
    [
        ("bf16", {"fp16": True}, "mixed_precision: bf16, and --fp16 true was given"),
        ("fp16", {"bf16": True}, "mixed_precision: fp16, and --bf16 true was given"),
        ("bf16", {}, "mixed_precision: bf16, and --bf16 was not given"),
        ("fp8", {"bf16": True}, "mixed_precision: fp8, which no trainer here has"),
    ],
)
def test_number_types_that_contradict_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, launched: str, given: dict[str, bool], words: str
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    with pytest.raises(ValueError, match=words):
        check_launch(flags(**given))


def deepspeed_launch(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    for name, value in variables.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)


def test_accumulation_of_the_launcher_must_be_that_of_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed_launch(monkeypatch, GRADIENT_ACCUMULATION_STEPS="4")
    check_launch(flags(gradient_accumulation_steps=4))
    with pytest.raises(ValueError, match="gradient_accumulation_steps: 4, and the run has --gradient_accumulation_st"):
        check_launch(flags(gradient_accumulation_steps=2))


def test_without_deepspeed_its_variables_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    check_launch(flags())


def test_clipping_of_the_launcher_must_be_that_of_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed_launch(monkeypatch, GRADIENT_CLIPPING="0.5")
    with pytest.raises(ValueError, match="gradient_clipping: 0.5, and the run has --max_grad_norm 1.0"):
        check_launch(flags())


@pytest.mark.parametrize(
    ("content", "given", "words"),
    [
        ({"gradient_accumulation_steps": 8}, {}, "gradient_accumulation_steps: 8"),
        ({"train_micro_batch_size_per_gpu": 2}, {}, "has --per_device_train_batch_size 8"),
        ({"bf16": {"enabled": True}}, {}, "bf16: enabled: true, and the run has --bf16 false"),
        ({"bf16": {"enabled": False}}, {"bf16": True}, "bf16: enabled: false, and the run has --bf16 true"),
        ({"fp16": {"enabled": True}}, {"bf16": True}, "fp16: enabled: true, and the run has --fp16 false"),
    ],
)
def test_deepspeeds_own_file_must_agree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: dict, given: dict, words: str
) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    deepspeed_launch(monkeypatch, DEEPSPEED_CONFIG_FILE=str(path))
    with pytest.raises(ValueError, match=words):
        check_launch(flags(**given))


def test_auto_is_whatever_the_flag_says(monkeypatch: pytest.MonkeyPatch) -> None:
    content = {name: "auto" for name in ("gradient_accumulation_steps", "train_micro_batch_size_per_gpu")}
    check_launch(flags(deepspeed=content | {"bf16": {"enabled": "auto"}}, gradient_accumulation_steps=3, bf16=True))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="'nowhere.json' is no file"):
        check_launch(flags(deepspeed="nowhere.json"))


@pytest.mark.parametrize("name", ["save_only_model", "ignore_data_skip"])
def test_what_cannot_be_resumed_is_said_before(name: str) -> None:
    check_launch(flags(**{name: True}))
    with pytest.raises(ValueError, match=f"resume_from_checkpoint was given with --{name} true"):
        check_launch(flags(resume_from_checkpoint="true", **{name: True}))


@pytest.mark.parametrize("kind", [MixtureDPOConfig, PALRewardConfig, PALGRPOConfig])
def test_every_configuration_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="mixed_precision: fp16, and --bf16 true was given"):
        kind(output_dir=str(tmp_path), use_cpu=True, bf16=True)
