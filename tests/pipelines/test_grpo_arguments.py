"""Arguments of the GRPO recipe: which algorithm's options, the embedded defaults, what must be installed."""

from pathlib import Path

import pytest
import yaml

from palign.conditioning import PolicyConditioning
from palign.pipelines.arguments import policy as policy_arguments
from palign.pipelines.arguments.reward import parse_reward_arguments
from palign.pipelines.grpo import EMBEDDED_DEFAULTS, parse_grpo_arguments
from palign.trainers.pal_grpo_config import GroupAlgorithm, PALGRPOConfig, PALRLOOConfig

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs" / "grpo_pal"
OWN = ["--model_name_or_path", "m", "--reward_model_path", "r", "--dataset_name", "d"]


@pytest.mark.parametrize(("flags", "kind"), [([], PALGRPOConfig), (["--algorithm", "rloo"], PALRLOOConfig)])
def test_no_arguments_are_the_embedded_default(flags: list[str], kind: type) -> None:
    script, args, model_args = parse_grpo_arguments(flags)
    assert type(args) is kind
    found = {**vars(script), **vars(args), **vars(model_args)}
    for name, value in EMBEDDED_DEFAULTS[GroupAlgorithm(script.algorithm)].items():
        assert found[name] == ("all-linear" if name == "lora_target_modules" else value), name
    assert args.policy_conditioning is PolicyConditioning.PROMPT
    assert not args.gradient_checkpointing and args.report_to == []


def test_the_algorithm_decides_what_may_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("algorithm: rloo\nnormalize_advantages: true\nbeta: 0.3\n", encoding="utf-8")
    script, args, _ = parse_grpo_arguments(["--config", str(config), "--beta", "0.7"])
    assert (script.algorithm, args.normalize_advantages, args.beta) == ("rloo", True, 0.7)
    with pytest.raises(SystemExit):
        parse_grpo_arguments(["--config", str(config), "--algorithm", "grpo"])
    _, args, _ = parse_grpo_arguments(["--loss_type", "dr_grpo", "--scale_rewards", "none"])
    assert (args.loss_type, args.scale_rewards) == ("dr_grpo", "none")
    with pytest.raises(SystemExit):
        parse_grpo_arguments(["--algorithm", "rloo", "--loss_type", "dr_grpo"])
    said = capsys.readouterr().err
    assert "normalize_advantages is no option" in said and "--loss_type is no option" in said
    with pytest.raises(ValueError, match="'ppo' is not a valid"):
        parse_grpo_arguments(["--algorithm", "ppo"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_read(path: Path) -> None:
    script, args, model_args = parse_grpo_arguments(["--config", str(path)])
    found = {**vars(script), **vars(args), **vars(model_args)}
    for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if name != "lora_target_modules":
            assert found[name] == value, name


def test_model_reward_model_and_rows_belong_together() -> None:
    with pytest.raises(ValueError, match="without --reward_model_path"):
        parse_grpo_arguments(["--model_name_or_path", "m", "--dataset_name", "d"])
    with pytest.raises(ValueError, match="--dataset_name was given without --model_name_or_path"):
        parse_grpo_arguments(["--dataset_name", "d"])
    with pytest.raises(ValueError, match="--earlier_dataset_name was given without --model_name_or_path"):
        parse_grpo_arguments(["--earlier_dataset_name", "d"])
    with pytest.raises(ValueError, match="n_shown=0 must be at least 1"):
        parse_grpo_arguments(["--n_shown", "0"])


def test_vllm_flags_pass_through_and_a_missing_vllm_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_arguments, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="--use_vllm needs the package vllm"):
        parse_grpo_arguments([*OWN, "--use_vllm"])
    monkeypatch.setattr(policy_arguments, "find_spec", lambda name: object())
    _, args, _ = parse_grpo_arguments([*OWN, "--use_vllm", "--vllm_mode", "server", "--vllm_server_port", "9000"])
    assert (args.use_vllm, args.vllm_mode, args.vllm_server_port) == (True, "server", 9000)
    with pytest.raises(ValueError, match="vLLM reads the model from its folder"):
        parse_grpo_arguments(["--use_vllm"])


def test_a_quantized_model_needs_an_adapter_and_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--load_in_4bit was given without --use_peft"):
        parse_grpo_arguments([*OWN, "--load_in_4bit"])
    with pytest.raises(ValueError, match="--load_in_8bit was given without --model_name_or_path"):
        parse_grpo_arguments(["--load_in_8bit"])
    monkeypatch.setattr(policy_arguments, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="--load_in_4bit needs the package bitsandbytes"):
        parse_grpo_arguments([*OWN, "--load_in_4bit", "--use_peft"])
    monkeypatch.setattr(policy_arguments, "find_spec", lambda name: object())
    assert parse_grpo_arguments([*OWN, "--load_in_4bit", "--use_peft"])[2].load_in_4bit


@pytest.mark.parametrize("flag", ["load_in_4bit", "load_in_8bit"])
def test_a_reward_model_does_not_take_a_quantized_backbone_for_granted(flag: str, tmp_path: Path) -> None:
    given = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", str(tmp_path), f"--{flag}", "true"]
    with pytest.raises(ValueError, match=f"--{flag} is for policies"):
        parse_reward_arguments(given)


def test_one_checkpoint_is_not_named_for_several_policies() -> None:
    assert parse_grpo_arguments(["--resume_from_checkpoint", "true"])[1].resume_from_checkpoint == "true"
    with pytest.raises(ValueError, match="here it is true or false: every policy"):
        parse_grpo_arguments(["--resume_from_checkpoint", "outputs/grpo_pal/prompt/checkpoint-7"])
