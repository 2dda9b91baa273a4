"""Flags over YAML over defaults; what cannot work is said before rows or a model are read."""

import dataclasses
from pathlib import Path

import pytest
import torch

from palign.pipelines.arguments import policy as policy_arguments
from palign.pipelines.arguments.mixture import EMBEDDED_DEFAULTS, MixtureArguments, parse_mixture_arguments
from palign.trainers.checkpointing.complete import mark_complete
from palign.trainers.mixture.state import MixtureState
from palign.trainers.mixture_dpo_config import MixtureDPOConfig

ROOT = Path(__file__).parents[3]
OWN = ["--dataset_name", "rows.jsonl", "--model_name_or_path", "owner/name", "--use_cpu", "true"]


def test_with_nothing_given_the_embedded_default_has_its_own_values() -> None:
    script, data, args, model = parse_mixture_arguments([])
    assert script.baselines == ["pooled", "cluster", "oracle"]
    for name, value in EMBEDDED_DEFAULTS.items():
        assert any(getattr(part, name, None) == value for part in (script, data, args, model)), name
    assert (args.output_dir, args.report_to, data.dataset_name) == ("outputs/em_dpo", [], None)


def test_with_rows_of_ones_own_the_values_are_those_of_the_config() -> None:
    script, data, args, model = parse_mixture_arguments(OWN)
    assert script.baselines == ["pooled"]
    for name in ("learning_rate", "beta", "num_train_epochs", "n_types", "n_rounds", "m_step"):
        default = next(f.default for f in dataclasses.fields(MixtureDPOConfig) if f.name == name)
        assert getattr(args, name) == default, name
    assert (args.n_types, model.lora_target_modules) == (None, "all-linear")
    assert data.dataset_name == "rows.jsonl"


def test_the_smoke_configuration_asks_rows_of_ones_own_for_no_declared_types() -> None:
    smoke = ["--config", str(ROOT / "recipes" / "configs" / "em_dpo" / "smoke.yaml")]
    assert parse_mixture_arguments([*smoke, *OWN])[0].baselines == ["pooled"]


def test_flags_stand_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("beta: 0.3\nn_types: 4\nbaselines: [oracle]\nlearning_rate: 1.0e-3\n", encoding="utf-8")
    script, _, args, _ = parse_mixture_arguments(["--config", str(config), "--beta", "0.7"])
    assert (args.beta, args.n_types, script.baselines) == (0.7, 4, ["oracle"])
    assert args.learning_rate == 1e-3 and args.num_train_epochs == EMBEDDED_DEFAULTS["num_train_epochs"]


@pytest.mark.parametrize("name", ["smoke", "own"])
def test_configs_in_the_house_are_read(name: str, tmp_path: Path) -> None:
    text = (ROOT / "recipes" / "configs" / "em_dpo" / f"{name}.yaml").read_text(encoding="utf-8")
    (tmp_path / "c.yaml").write_text(text.replace("bf16: true", "bf16: false"), encoding="utf-8")
    script, data, args, _ = parse_mixture_arguments(["--config", str(tmp_path / "c.yaml"), "--use_cpu", "true"])
    assert args.n_types == {"smoke": 2, "own": None}[name]
    assert (data.dataset_name is None) == (name == "smoke")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset_name", "x.jsonl"], "--model_name_or_path is missing"),
        (["--model_name_or_path", "owner/name"], "--dataset_name is missing"),
        ([*OWN, "--embeddings", "v.npy"], "policies are trained on text"),
        (["--eval_dataset_name", "x.jsonl"], "--eval_dataset_name is given without --dataset_name"),
        (["--group_columns", "country"], "--group_columns is given without --dataset_name"),
        (
            ["--baselines", "pooled", "plain"],
            "holds plain; choose from pooled, drawn_beta, cluster, oracle",
        ),
        (["--beta_spread", "1"], "add that to --baselines"),
        (["--baselines", "drawn_beta", "--beta_spread", "0"], "--beta_spread is 0.0; it must be positive"),
        (["--baselines", "drawn_beta", "--beta_spread", "nan"], "--beta_spread is nan"),
        (["--load_in_4bit", "true"], "--load_in_4bit was given without --model_name_or_path"),
        (["--types_from", "given"], "--baselines oracle"),
        (["--eval_fraction", "1"], "--eval_fraction is 1.0"),
        (["--n_sample_prompts", "0"], "--n_sample_prompts is 0"),
        (["--max_new_tokens", "0"], "--max_new_tokens is 0"),
        (["--n_annotators", "0"], "--n_annotators is 0"),
        (["--n_items", "1"], "at least 2 completions"),
        (["--n_types", "many"], "n_types is 'many'"),
        (["--n_types", "1.5"], "n_types is '1.5'"),
        (["--beta", "nan"], "beta is nan"),
        (["--max_length", "0"], "max_length is 0"),
        (["--temper_start", "2"], "temper_start is 2.0"),
        (["--min_responsibility", "1"], "min_responsibility is 1.0"),
    ],
)
def test_what_cannot_work_is_said_first(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mixture_arguments(flags)


def test_an_unknown_key_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("n_type: 3\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        parse_mixture_arguments(["--config", str(config)])
    with pytest.raises(SystemExit):
        parse_mixture_arguments(["--n_typ", "3"])  # no abbreviations
    assert capsys.readouterr().err.count("did you mean") == 2


def test_defaults_of_one_call_do_not_reach_the_next() -> None:
    parse_mixture_arguments([])[0].baselines.append("changed")
    assert "changed" not in parse_mixture_arguments([])[0].baselines
    assert MixtureArguments().baselines == ["pooled"]


# going on from a checkpoint


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    MixtureState(one, one[0].clone(), one.clone(), one.clone()).save(path)
    mark_complete(path)
    return path


@pytest.mark.parametrize("base", [[], OWN])
@pytest.mark.parametrize("word", ["true", "True"])
def test_true_is_the_last_checkpoint(tmp_path: Path, base: list[str], word: str) -> None:
    for step in (9, 10):
        checkpoint(tmp_path, step)
    flags = [*base, "--output_dir", str(tmp_path), "--resume_from_checkpoint", word]
    assert parse_mixture_arguments(flags)[2].resume_from_checkpoint == str(tmp_path / "checkpoint-10")
    config = tmp_path / "c.yaml"
    config.write_text("resume_from_checkpoint: true\n", encoding="utf-8")
    again = parse_mixture_arguments([*base, "--output_dir", str(tmp_path), "--config", str(config)])[2]
    assert again.resume_from_checkpoint == str(tmp_path / "checkpoint-10")


def test_false_and_nothing_begin_anew(tmp_path: Path) -> None:
    assert parse_mixture_arguments(["--resume_from_checkpoint", "false"])[2].resume_from_checkpoint is None
    assert parse_mixture_arguments([])[2].resume_from_checkpoint is None
    path = str(checkpoint(tmp_path, 3))
    assert parse_mixture_arguments(["--resume_from_checkpoint", path])[2].resume_from_checkpoint == path


@pytest.mark.parametrize("exists", [True, False])
def test_true_begins_where_there_is_no_checkpoint(
    tmp_path: Path, exists: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path if exists else tmp_path / "nowhere"
    flags = ["--output_dir", str(folder), "--resume_from_checkpoint", "true"]
    assert parse_mixture_arguments(flags)[2].resume_from_checkpoint == "true"  # finished baselines are read back
    assert "begins at the beginning" in caplog.text


def test_a_folder_that_is_no_checkpoint_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a complete checkpoint: it has no complete.json"):
        parse_mixture_arguments(["--resume_from_checkpoint", str(tmp_path)])
    (tmp_path / "weights").write_text("of something else")
    mark_complete(tmp_path)
    with pytest.raises(ValueError, match="not a checkpoint of MixtureDPOTrainer"):
        parse_mixture_arguments(["--resume_from_checkpoint", str(tmp_path)])


def test_a_quantized_base_needs_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_arguments, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="--load_in_4bit needs the package bitsandbytes"):
        parse_mixture_arguments([*OWN, "--load_in_4bit", "true"])
    monkeypatch.setattr(policy_arguments, "find_spec", lambda name: object())
    assert parse_mixture_arguments([*OWN, "--load_in_4bit", "true"])[3].load_in_4bit
