"""What is wrong with `--config` is said in one line that names the file."""

from pathlib import Path

import pytest

from palign.cli.option_file import OptionError, config_path, nearest, read_options, unknown_options


def test_the_file_is_named_once_and_either_way() -> None:
    assert config_path(["--seed", "1"]) is None
    assert config_path(["--config", "a.yaml", "--seed", "1"]) == config_path(["--config=a.yaml"]) == "a.yaml"
    for words in (["--config"], ["--config="], ["--config", "--seed"]):
        with pytest.raises(OptionError, match="--config names no file"):
            config_path(words)
    with pytest.raises(OptionError, match="given twice"):
        config_path(["--config", "a.yaml", "--config=b.yaml"])


def test_options_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 3\nname: ö\nenv: {A: 1}\n", encoding="utf-8")
    assert read_options(str(tmp_path / "a.yaml")) == {"seed": 3, "name": "ö", "env": {"A": 1}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: 1\nrate: 2: 3\n", ["line 2, column 8", "mapping values are not allowed here"]),
        (b"a: [1\n", ["line 2", "no YAML"]),
        (b"", ["it holds nothing"]),
        (b"- seed\n", ["it holds a list"]),
        (b"\xff\xfe\x00", ["no text in UTF-8"]),
        (b"env: 3\n", ["`env`"]),
        (b"a: !!python/object/apply:os.getcwd []\n", ["line 1", "could not determine a constructor"]),
    ],
)
def test_a_broken_file_is_named_with_the_place(content: bytes, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(OptionError) as caught:
        read_options(str(path))
    said = str(caught.value)
    assert "\n" not in said and all(word in said for word in [f"--config {path}: ", *words]), said


def test_a_missing_file_is_named_with_the_nearest_beside_it(tmp_path: Path) -> None:
    (tmp_path / "smoke.yaml").write_text("seed: 1")
    with pytest.raises(OptionError, match=r"smok\.yaml: there is no such file \(did you mean .*/smoke\.yaml\?\)\.$"):
        read_options(str(tmp_path / "smok.yaml"))
    with pytest.raises(OptionError, match="there is no such file.$"):
        read_options(str(tmp_path / "no" / "thing.yaml"))
    with pytest.raises(OptionError, match="it cannot be read"):
        read_options(str(tmp_path))


def test_the_nearest_name() -> None:
    known = ["output_dir", "learning_rate", "seed"]
    assert nearest("output_dri", known) == nearest("Output-Dir", known) == ["output_dir"]
    assert nearest("zzz", known) == []
    assert unknown_options(["sead", "zzz"], known, "--") == (
        "--sead is no option (did you mean --seed?); --zzz is no option"
    )
