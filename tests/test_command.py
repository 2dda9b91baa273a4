"""The `palign` command: help at once, every option in it, and the recipes behind it."""

import dataclasses
import importlib
import os
import subprocess
import sys
import time
import typing
from pathlib import Path
from types import ModuleType

import pytest

from palign import command, option_help

ROOT = Path(__file__).parents[1]
PARSERS = {
    "reward": ("pal_reward_arguments", "parse_reward_arguments"),
    "ppo": ("pal_ppo_arguments", "parse_policy_arguments"),
    "em-dpo": ("mixture_dpo_arguments", "parse_mixture_arguments"),
    "fair": ("fair_policy_arguments", "parse_fair_arguments"),
}


def dataclass_of(source: str) -> type:
    file, kind = source.split(":")
    return getattr(importlib.import_module("palign." + file.removesuffix(".py").replace("/", ".")), kind)


def test_recipes_and_sub_commands_are_the_same() -> None:
    assert {item.recipe for item in command.COMMANDS.values()} == {p.stem for p in (ROOT / "recipes").glob("*.py")}
    assert command.recipe_folder() == ROOT / "recipes"


@pytest.mark.parametrize("name", PARSERS)
def test_help_tells_every_option_as_the_dataclasses_have_it(name: str) -> None:
    """Own fields from the source; the rest belongs to classes that the help names."""
    module, parser = PARSERS[name]
    function = getattr(importlib.import_module(f"palign.trainers.{module}"), parser)
    parsed = typing.get_args(typing.get_type_hints(function)["return"])
    ours = [dataclass_of(source) for source in command.COMMANDS[name].options]
    said = {kind.__module__.split(".")[0] + "." + kind.__name__ for kind in parsed}
    told = {kind.__module__.split(".")[0] + "." + kind.__name__ for kind in ours}
    told |= {path.split(".")[0] + "." + path.split(".")[-1] for path in command.COMMANDS[name].inherited}
    assert said <= told
    for source, kind in zip(command.COMMANDS[name].options, ours, strict=True):
        own = [field for field in dataclasses.fields(kind) if field.name in vars(kind).get("__annotations__", {})]
        found = option_help.options_of(command.HERE / source.split(":")[0], kind.__name__)
        defaults = {field.name: field.default for field in own}
        assert {o.name: o.text for o in found} == {field.name: field.metadata["help"] for field in own}
        for option in found:
            if option.default is not None and defaults[option.name] is not dataclasses.MISSING:
                assert option.default == str(defaults[option.name]), option.name
    known = {field.name for kind in parsed for field in dataclasses.fields(kind)}
    assert set(command.COMMANDS[name].shown.split()) <= known


def test_every_field_is_in_help_or_inherited_from_what_help_names() -> None:
    from transformers import TrainingArguments
    from trl import ModelConfig

    elsewhere = {field.name for kind in (TrainingArguments, ModelConfig) for field in dataclasses.fields(kind)}
    for name in ("reward", "em-dpo", "fair"):
        text = command.command_help(name)
        module, parser = PARSERS[name]
        function = getattr(importlib.import_module(f"palign.trainers.{module}"), parser)
        for kind in typing.get_args(typing.get_type_hints(function)["return"]):
            for field in dataclasses.fields(kind):
                assert f"--{field.name} " in text or field.name in elsewhere, (name, field.name)


@pytest.mark.parametrize("flags", [["--help"], *([name, "--help"] for name in command.COMMANDS)])
def test_help_takes_less_than_a_second_and_loads_nothing_heavy(flags: list[str]) -> None:
    code = f"import sys; from palign.command import main; main({flags!r}); print('torch' in sys.modules)"
    took = []
    for _ in range(2):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
        took.append(time.perf_counter() - start)
        assert done.returncode == 0 and done.stdout.splitlines()[-1] == "False", done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 140
    assert min(took) < 1


def test_an_unknown_sub_command_is_named(capsys) -> None:
    assert command.main(["rewards", "--seed", "1"]) == 2
    said = capsys.readouterr().err
    assert "'rewards'" in said and "reward, ppo, em-dpo, fair" in said
    assert command.main(["--version"]) == 0 and capsys.readouterr().out.startswith("palign ")


def test_flags_and_config_reach_the_recipe(tmp_path: Path, monkeypatch) -> None:
    seen = []
    recipe = ModuleType("recipe")
    recipe.main = seen.append
    monkeypatch.setattr(command, "load_recipe", lambda name: seen.append(name) or recipe)
    assert command.main(["em-dpo", "--config", "a.yaml", "--n_types", "auto"]) == 0
    assert command.main(["ppo", "--help-all"]) == 0
    assert seen == ["em_dpo", ["--config", "a.yaml", "--n_types", "auto"], "ppo_pal", ["--help"]]


def test_an_installation_without_recipes_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(command, "HERE", tmp_path / "palign")
    with pytest.raises(RuntimeError, match="not whole"):
        command.recipe_folder()


@pytest.mark.slow
def test_a_sub_command_runs_its_recipe_in_two_processes(tmp_path: Path) -> None:
    smoke = ROOT / "recipes" / "configs" / "pal_reward" / "smoke.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launch += [str(ROOT / "accelerate_configs" / "cpu_2proc.yaml"), "-m", "palign", "reward"]
    done = subprocess.run(
        [*launch, "--config", str(smoke), "--output_dir", str(tmp_path), "--disable_tqdm", "true"],
        capture_output=True, text=True, cwd=ROOT, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "summary.json").is_file() and done.stdout.count("report: ") == 1
