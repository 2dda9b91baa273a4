"""Names on the command line and in the file behind it: known ones reach the dataclass, others end in one line."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from palign.cli.parser import CommandLine
from palign.pipelines.arguments.evaluation import parse_evaluation_arguments
from palign.pipelines.arguments.fair import parse_fair_arguments
from palign.pipelines.arguments.mixture import parse_mixture_arguments
from palign.pipelines.arguments.reward import parse_reward_arguments
from palign.pipelines.grpo import parse_grpo_arguments
from palign.pipelines.ppo import parse_policy_arguments

PARSERS = {
    "evaluate": parse_evaluation_arguments, "reward": parse_reward_arguments, "em-dpo": parse_mixture_arguments,
    "fair": parse_fair_arguments, "ppo": parse_policy_arguments, "grpo": parse_grpo_arguments,
}  # fmt: skip


@dataclass
class Options:
    seed: int = 0
    output_dir: str = "out"
    columns: list[str] = field(default_factory=list)
    is_quick: bool = True


def parse(*words: str) -> Options:
    (found,) = CommandLine((Options,)).parse_args_and_config(words)
    return found


def refused(capsys: pytest.CaptureFixture[str], parser, words: list[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        parser(words)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.count("\n") == 1 and ": error: " in said, said
    return said.split(": error: ")[1].strip()


def test_flags_over_the_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("seed: 3\noutput_dir: there\n")
    for config in (["--config", str(tmp_path / "c.yaml")], [f"--config={tmp_path / 'c.yaml'}"]):
        found = parse(*config, "--seed", "-4", "--columns", "a", "b", "--no_is_quick")
        assert found == Options(-4, "there", ["a", "b"], False)
    assert parse("--output-dir", "x").output_dir == "x"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output_dri", "x"], "--output_dri is no option (did you mean --output_dir?); --help lists the options."),
        (["--output-dri=x"], "--output-dri is no option (did you mean --output_dir?); --help lists the options."),
        (["--outp", "x"], "--outp is no option (did you mean --output_dir?)"),
        (["--zzz", "--sed", "1"], "--zzz is no option; --sed is no option (did you mean --seed?)"),
        (["stray"], "'stray' belongs to no option"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--conf", "c.yaml"], "--conf is no option (did you mean --config?)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], said: str, capsys) -> None:
    assert refused(capsys, lambda given: parse(*given), words).startswith(said)


@pytest.mark.parametrize("name", PARSERS)
def test_every_recipe_names_the_flag_the_key_and_the_file(name: str, tmp_path: Path, capsys) -> None:
    said = refused(capsys, PARSERS[name], ["--output_dri", "x"])
    assert "--output_dri is no option (did you mean --output_dir?)" in said
    file = tmp_path / "c.yaml"
    file.write_text(f"output_dir: {tmp_path / 'out'}\nsead: 1\n")
    said = refused(capsys, PARSERS[name], ["--config", str(file)])
    assert f"--config {file}: sead is no option (did you mean seed?)" in said
    assert "there is no such file" in refused(capsys, PARSERS[name], ["--config", str(tmp_path / "none.yaml")])
    file.write_text("a: b: c")
    assert f"{file}: line 1, column 5: this is no YAML" in refused(capsys, PARSERS[name], ["--config", str(file)])
    assert not (tmp_path / "out").exists()
