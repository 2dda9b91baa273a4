"""Arguments of the policy recipes: the embedded default, YAML under flags, strictness, and what belongs together."""

from pathlib import Path

import pytest
import yaml

from palign.conditioning import PolicyConditioning
from palign.pipelines.ppo import EMBEDDED_DEFAULTS, parse_policy_arguments

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs" / "ppo_pal"


def test_no_arguments_are_the_embedded_default() -> None:
    script, args, model_args = parse_policy_arguments([])
    found = {**vars(script), **vars(args), **vars(model_args)}
    for name, value in EMBEDDED_DEFAULTS.items():
        expected = "all-linear" if name == "lora_target_modules" else value
        assert found[name] == expected, name
    assert args.policy_conditioning is PolicyConditioning.PROMPT
    assert not args.bf16 and not args.gradient_checkpointing and args.report_to == []


def test_flags_over_yaml_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("max_completion_length: 7\nkl_coef: 0.3\npolicy_conditioning: adapter\n", encoding="utf-8")
    _, args, _ = parse_policy_arguments(["--config", str(config), "--kl_coef", "0.7"])
    assert (args.max_completion_length, args.kl_coef, args.policy_conditioning) == (7, 0.7, PolicyConditioning.ADAPTER)
    assert args.learning_rate == EMBEDDED_DEFAULTS["learning_rate"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_read(path: Path) -> None:
    script, args, model_args = parse_policy_arguments(["--config", str(path)])
    found = {**vars(script), **vars(args), **vars(model_args)}
    for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        if name != "lora_target_modules":
            assert found[name] == value, name


def test_defaults_of_a_model_of_ones_own(tmp_path: Path) -> None:
    own = ["--model_name_or_path", "m", "--reward_model_path", "r", "--dataset_name", "d", "--use_cpu", "true"]
    own += ["--output_dir", str(tmp_path)]
    script, args, model_args = parse_policy_arguments([*own, "--use_peft", "true"])
    assert (model_args.lora_target_modules, model_args.lora_dropout) == ("all-linear", 0.0)
    assert (args.learning_rate, script.ending_share) == (1e-5, 0.95)
    _, whole, _ = parse_policy_arguments([*own, "--critic", "head"])
    assert whole.learning_rate == 1e-6  # TRL's
    given = ["--use_peft", "true", "--learning_rate", "3e-4", "--lora_target_modules", "q_proj", "v_proj"]
    script, args, model_args = parse_policy_arguments([*own, *given, "--max_completion_length=40"])
    assert (args.learning_rate, model_args.lora_target_modules) == (3e-4, ["q_proj", "v_proj"])
    assert (script.ending_share, args.max_completion_length) == (0.0, 40)  # nobody asks the reference
    config = tmp_path / "c.yaml"
    config.write_text("max_completion_length: 24\n", encoding="utf-8")
    script, args, _ = parse_policy_arguments([*own, "--use_peft", "true", "--config", str(config)])
    assert (script.ending_share, args.max_completion_length) == (0.0, 24)
    with pytest.raises(ValueError, match="--ending_share is 1.5; it must be 0 or more, and below 1"):
        parse_policy_arguments([*own, "--ending_share", "1.5"])


def test_unknown_keys_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("learning_rat: 1\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        parse_policy_arguments(["--config", str(config)])
    with pytest.raises(SystemExit):
        parse_policy_arguments(["--learning_rat", "1"])
    assert capsys.readouterr().err.count("did you mean") == 2


def test_model_reward_model_and_rows_belong_together() -> None:
    with pytest.raises(ValueError, match="without --reward_model_path"):
        parse_policy_arguments(["--model_name_or_path", "m", "--dataset_name", "d"])
    with pytest.raises(ValueError, match="without --dataset_name"):
        parse_policy_arguments(["--model_name_or_path", "m", "--reward_model_path", "r"])
    with pytest.raises(ValueError, match="--dataset_name was given without --model_name_or_path"):
        parse_policy_arguments(["--dataset_name", "d"])
    with pytest.raises(ValueError, match="--earlier_dataset_name was given without --model_name_or_path"):
        parse_policy_arguments(["--earlier_dataset_name", "d"])
    with pytest.raises(ValueError, match="n_shown=0 must be at least 1"):
        parse_policy_arguments(["--n_shown", "0"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--compare_with", "everything"], "everything"), (["--n_eval_rows", "0"], "n_eval_rows=0 must be at least 1")],
)
def test_bad_values(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_policy_arguments(flags)
