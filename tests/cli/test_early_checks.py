"""What is said of a command line before anything heavy is imported."""

import dataclasses
from typing import Any

import pytest
import trl
from transformers import TrainingArguments

from palign.cli import command, early_checks
from palign.cli.early_checks import (
    inherited_names,
    refuse_missing_trackers,
    refuse_unknown,
    refuse_without_others,
    values_of,
)
from palign.cli.option_file import OptionError


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("transformers.TrainingArguments", TrainingArguments),
        ("trl.ModelConfig", trl.ModelConfig),
        ("trl.GRPOConfig", trl.GRPOConfig),
        ("trl.RLOOConfig", trl.RLOOConfig),
    ],
)
def test_the_names_that_are_read_are_those_of_the_class(name: str, kind: Any) -> None:
    assert {item.name for item in dataclasses.fields(kind) if item.init} <= inherited_names(name)


def test_where_a_package_is_not_as_it_was_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(early_checks.SOURCES, "trl.ModelConfig", (("trl", "nowhere.py", "ModelConfig"),))
    assert inherited_names("trl.ModelConfig") is None
    assert command.known_options(command.COMMANDS["em-dpo"]) is None


@pytest.mark.parametrize("name", list(command.COMMANDS))
def test_every_option_of_a_smoke_configuration_is_known(name: str) -> None:
    from palign.cli.option_file import read_options
    from tests.worlds.recipes import RECIPES

    known = command.known_options(command.COMMANDS[name])
    folder = RECIPES / "configs" / command.COMMANDS[name].recipe
    for path in folder.glob("*.yaml"):
        flags = ["--use_cpu"] if "use_cpu" in known else []  # recipes that train nothing by gradient steps lack it
        refuse_unknown([*flags, "--seed=3", "--config", str(path)], str(path), read_options(str(path)), known)


def test_a_typo_is_told_with_the_nearest_name() -> None:
    for flags, config in ((["--n_tpyes", "2"], {}), (["--n-tpyes=2"], {}), ([], {"n_tpyes": 2})):
        with pytest.raises(OptionError, match="n_tpyes is no option|n-tpyes is no option"):
            refuse_unknown(flags, "c.yaml", config, {"n_types", "seed"})
    refuse_unknown(["--no_seed", "--n-types", "--config", "x", "--", "-1"], None, {"env": {}}, {"n_types", "seed"})


@pytest.mark.parametrize(
    ("name", "flags", "missing"),
    [
        ("em-dpo", ["--dataset_name", "r"], "--model_name_or_path"),
        ("em-dpo", ["--model-name-or-path=m"], "--dataset_name"),
        ("reward", ["--dataset_name", "r"], "--model_name_or_path or --embeddings"),
        ("ppo", ["--model_name_or_path", "m", "--dataset_name", "r"], "--reward_model_path"),
        ("evaluate", ["--dataset_name", "r"], "--model_path"),
    ],
)
def test_rows_without_a_model_and_the_like(name: str, flags: list[str], missing: str) -> None:
    with pytest.raises(OptionError, match=f"is given without {missing}: "):
        refuse_without_others(name, flags, {})


def test_rows_with_a_model_are_let_through() -> None:
    refuse_without_others("em-dpo", ["--dataset_name", "r"], {"model_name_or_path": "m"})
    refuse_without_others("reward", ["--dataset_name", "r", "--embeddings", "v.npy"], {})
    refuse_without_others("guard", ["--dataset_name", "r"], {})


def test_trackers_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_checks, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="--report_to wandb needs the package wandb, which is not installed"):
        refuse_missing_trackers(["none", "wandb"])
    monkeypatch.setattr(early_checks, "find_spec", lambda name: name == "tensorboardX")
    refuse_missing_trackers(["none", "all", "tensorboard", "something"])
    assert values_of("report_to", ["--report_to", "a", "b", "--seed", "1"], {}) == ["a", "b"]
    assert values_of("report_to", ["--report_to=a"], {"report_to": "b"}) == ["a"]
    assert values_of("report_to", [], {"report_to": ["a", "b"]}) == ["a", "b"]
