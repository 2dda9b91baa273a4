"""The `palign` command: help at once, every option in it, and the recipes behind it."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import typing
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from palign.cli import command, option_help
from palign.data.loading import load_preferences

ROOT = Path(__file__).parents[2]
PARSERS = {
    "reward": ("arguments.reward", "parse_reward_arguments"),
    "ppo": ("ppo", "parse_policy_arguments"),
    "grpo": ("grpo", "parse_grpo_arguments"),
    "em-dpo": ("arguments.mixture", "parse_mixture_arguments"),
    "fair": ("arguments.fair", "parse_fair_arguments"),
    "metric": ("arguments.metric", "parse_metric_arguments"),
    "population": ("arguments.population", "parse_population_arguments"),
    "evaluate": ("arguments.evaluation", "parse_evaluation_arguments"),
    "export": ("arguments.export", "parse_export_arguments"),
    "serve": ("arguments.serving", "parse_serving_arguments"),
}


def parsed_by(name: str) -> tuple[type, ...]:
    """The dataclasses that the parser of a sub-command fills."""
    module, parser = PARSERS[name]
    function = getattr(importlib.import_module(f"palign.pipelines.{module}"), parser)
    kinds = typing.get_args(typing.get_type_hints(function)["return"])
    return tuple(one for kind in kinds for one in typing.get_args(kind) or (kind,))


def dataclass_of(source: str) -> type:
    file, kind = source.split(":")
    return getattr(importlib.import_module("palign." + file.removesuffix(".py").replace("/", ".")), kind)


def test_recipes_and_sub_commands_are_the_same() -> None:
    assert {item.recipe for item in command.COMMANDS.values()} == {p.stem for p in (ROOT / "recipes").glob("*.py")}
    assert command.recipe_folder() == ROOT / "recipes"


@pytest.mark.parametrize("name", PARSERS)
def test_help_tells_every_option_as_the_dataclasses_have_it(name: str) -> None:
    """Own fields from the source; the rest belongs to classes that the help names."""
    parsed = parsed_by(name)
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
    assert not command.COMMANDS[name].inherited or set(command.COMMANDS[name].shown.split()) <= known


def test_every_field_is_in_help_or_inherited_from_what_help_names() -> None:
    from transformers import TrainingArguments
    from trl import ModelConfig

    elsewhere = {field.name for kind in (TrainingArguments, ModelConfig) for field in dataclasses.fields(kind)}
    for name in ("reward", "em-dpo", "fair", "evaluate"):
        text = command.command_help(name)
        for kind in parsed_by(name):
            for field in dataclasses.fields(kind):
                assert f"--{field.name} " in text or field.name in elsewhere, (name, field.name)


@pytest.mark.parametrize("flags", [["--help"], *([name, "--help"] for name in [*command.COMMANDS, "guard"])])
def test_help_takes_less_than_a_second_and_loads_nothing_heavy(flags: list[str]) -> None:
    """Processor time, for other work on the machine says nothing of the command."""
    code = "import atexit, sys, time\natexit.register(lambda: print('torch' in sys.modules, time.process_time()))\n"
    code += f"from palign.cli.command import main; main({flags!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0 and last.startswith("False "), done.stderr
    assert max(map(len, lines)) <= 140 and float(last.split()[1]) < 1


def test_an_unknown_sub_command_is_named(capsys) -> None:
    assert command.main(["rewards", "--seed", "1"]) == 2
    said = capsys.readouterr().err
    allowed = "reward, ppo, grpo, em-dpo, fair, metric, population, evaluate, ask, export, serve, guard"
    assert "'rewards'" in said and allowed in said
    assert command.main(["--version"]) == 0 and capsys.readouterr().out.startswith("palign ")


def test_flags_and_config_reach_the_recipe(tmp_path: Path, monkeypatch) -> None:
    seen = []
    recipe = ModuleType("recipe")
    recipe.main = seen.append
    monkeypatch.setattr(command, "load_recipe", lambda name: seen.append(name) or recipe)
    config = tmp_path / "a.yaml"
    config.write_text("seed: 1")
    assert command.main(["em-dpo", "--config", str(config), "--n_types", "auto"]) == 0
    assert command.main(["ppo", "--help-all"]) == 0
    assert seen == ["em_dpo", ["--config", str(config), "--n_types", "auto"], "ppo_pal", ["--help"]]


@pytest.mark.parametrize(
    ("call", "while_loading", "after"), [("main()", False, True), ("main(['serve'])", True, False)]
)
def test_imports_are_kept_from_the_collector_in_a_process_of_its_own_alone(
    call: str, while_loading: bool, after: bool
) -> None:
    code = (
        "import gc, sys, types\n"
        "from palign.cli import command\n"
        "recipe = types.ModuleType('recipe')\n"
        "recipe.main = lambda flags: print(gc.isenabled(), gc.get_freeze_count() > 0)\n"
        "command.load_recipe = lambda name: print(gc.isenabled()) or recipe\n"
        f"sys.argv = ['palign', 'serve']; sys.exit(command.{call})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [str(while_loading), f"True {after}"]


def test_a_configuration_that_cannot_be_read_ends_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = "import atexit, sys\natexit.register(lambda: print('torch' in sys.modules))\n"
    code += f"from palign.cli.command import main; sys.exit(main(['ppo', '--config', {str(tmp_path / 'no.yaml')!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr == f"palign ppo: error: --config {tmp_path / 'no.yaml'}: there is no such file.\n"


def test_the_guard_says_what_it_found_by_its_status(tmp_path: Path, capsys) -> None:
    for ending, status in {"": 0, " ": 1}.items():  # a trailing space tells the better completion
        rows = [
            {"annotator_id": i % 7, "prompt": f"p{i}", "chosen": f"{i} {'yn'[i % 2]}{ending}",
             "rejected": f"{i} {'ny'[i % 2]}"}
            for i in range(200)
        ]  # fmt: skip
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        assert command.main(["guard", str(tmp_path / "rows.jsonl")]) == status
        assert ("stop  form" in capsys.readouterr().out) == bool(status)


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


def test_faults_of_rows_end_in_a_sentence_and_others_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What palign says of the rows is all that is printed; whatever else goes wrong keeps its traceback."""
    rows = tmp_path / "rows.csv"
    rows.write_text("who,question,answer_a,answer_b,winner\nr,q,left,right,perhaps\n")
    names = ["--annotator_column", "who", "--prompt_column", "question", "--first_column", "answer_a"]
    names += ["--second_column", "answer_b", "--winner_column", "winner"]

    def recipe(_: str) -> SimpleNamespace:
        return SimpleNamespace(main=lambda flags: load_preferences(rows, **dict(zip(keys, names[1::2], strict=True))))

    keys = [name.removeprefix("--") for name in names[::2]]
    monkeypatch.setattr(command, "load_recipe", recipe)
    assert command.main(["reward", "--dataset_name", str(rows), "--model_name_or_path", "x", *names]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("palign reward: error: rows.csv, column 'winner': 1 row names a winner") and "\n" not in err
    monkeypatch.setattr(command, "load_recipe", lambda _: SimpleNamespace(main=lambda flags: int("x")))
    with pytest.raises(ValueError, match="invalid literal"):
        command.main(["reward"])
