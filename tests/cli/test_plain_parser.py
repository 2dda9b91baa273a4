"""Plain command lines are read as `CommandLine` reads them, and no other is judged."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from palign.cli.parser import CommandLine
from palign.cli.plain_parser import is_launched, plain_arguments


@dataclass
class Options:
    AS_TEXT: ClassVar[tuple[str, ...]] = ("k",)

    k: int | None = 4
    seed: int = 0
    rate: float = 0.5
    output_dir: str | None = None
    numbers: list[int] = field(default_factory=lambda: [1, 2])
    columns: list[str] = field(default_factory=list)
    is_quick: bool = True
    is_quiet: bool | None = None


@dataclass
class Others:
    loss_type: str = "logistic"

    def __post_init__(self) -> None:
        if self.loss_type == "none":
            raise ValueError("there is no such loss")


PLAIN = [
    [],
    ["--seed", "-4", "--rate", "1e-3", "--output-dir", "x y", "--loss_type=hinge"],
    ["--k", "auto"],
    ["--k=7", "--numbers", "5", "-6", "--columns", "a", "b", "--is_quick", "--is_quiet", "true"],
    ["--is-quick", "False", "--seed", "1", "--seed", "2"],
    ["--config", "FILE", "--seed", "9"],
    ["--config=FILE"],
]
NOT_PLAIN = [
    ["--sead", "1"], ["--see", "1"], ["--seed"], ["--seed", "x"], ["stray"], ["--is_quick", "perhaps"], ["--is_quiet"],
    ["--no_is_quick"], ["--is_quick", "yes"], ["--loss_type", "none"], ["--help"], ["--config"],
    ["--config", "no.yaml"], ["--columns"], ["--config", "OTHER"], ["--config", "ENV"],
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = {"FILE": "seed: '3'\noutput_dir: there\nnumbers: [8]\nk: 2\nis_quick: false\nrate: 2\n",
             "OTHER": "logging_steps: 3\n", "ENV": "seed: 1\nenv: {A: b}\n"}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return {name: str(tmp_path / f"{name}.yaml") for name in texts}


def named(words: list[str], files: dict[str, str]) -> list[str]:
    for name, path in files.items():
        words = [word.replace(name, path) if "config" in word or word == name else word for word in words]
    return words


def by_command_line(words: list[str]) -> tuple[Options, Others]:
    parser = CommandLine((Options, Others))
    parser.set_defaults(seed=11)
    return parser.parse_args_and_config(words)


@pytest.mark.parametrize("words", PLAIN, ids=" ".join)
def test_a_plain_line_is_read_as_the_whole_parser_reads_it(words: list[str], files: dict[str, str]) -> None:
    words = named(words, files)
    found = plain_arguments((Options, Others), words, {"seed": 11, "unknown": 3})
    assert found == by_command_line(words)
    assert [type(value) for part in found for value in vars(part).values()] == [
        type(value) for part in by_command_line(words) for value in vars(part).values()
    ]


@pytest.mark.parametrize("words", NOT_PLAIN, ids=" ".join)
def test_any_other_line_is_left_to_the_whole_parser(words: list[str], files: dict[str, str]) -> None:
    assert plain_arguments((Options, Others), named(words, files), {}) is None


def test_flags_in_a_file_beside_the_program_are_left_to_the_whole_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [str(tmp_path / "pal_reward.py")])
    assert plain_arguments((Options,), [], {}) == (Options(),)
    (tmp_path / "pal_reward.args").write_text("--seed 5")
    assert plain_arguments((Options,), [], {}) is None


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION", "TRANSFORMERS_VERBOSITY"])
def test_a_launcher_has_a_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in ("WORLD_SIZE", "LOCAL_RANK", "RANK", "ACCELERATE_MIXED_PRECISION", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.delenv(other, raising=False)
    assert not is_launched()
    monkeypatch.setenv(name, "1")
    assert is_launched()
