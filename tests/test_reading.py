"""Files of saved folders: each kind by one reader, and one sentence with the file's name where it cannot be right."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from palign.reading import (
    is_on_purpose,
    number_in,
    read_json,
    read_table,
    read_tensors,
    reading,
    require_files,
    require_tensors,
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b'{"a": 1', "is not JSON"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b'{"a": "\xff"}', "is no text in UTF-8 (invalid start byte at byte 7)"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
        (b'{"a": NaN}', "it has NaN, and numbers must be finite"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON of ours"),
        (b"null", "holds null, and an object is needed"),
        (b"[1]", "holds a list, and an object is needed"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as told:
        read_json(path, dict)
    assert str(path) in str(told.value) and words in str(told.value) and is_on_purpose(told.value)


def test_json_that_is_right(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5], "b": null}')
    assert read_json(path, dict) == {"a": [1, 2.5], "b": None}
    path.write_text('["\\ud800", NaN]')
    assert read_json(path, list, allows_nan=True)[0] == "\ud800"


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), 0, 11, [1]])
def test_numbers_have_ends(value: Any) -> None:
    with pytest.raises(ValueError, match="f.json: beta is .* from 1 to 10"):
        number_in({"beta": value}, "beta", "f.json", least=1, most=10)
    assert number_in({"beta": 2.5}, "beta", "f.json", least=1) == 2.5
    with pytest.raises(ValueError, match="a whole number"):
        number_in({"n": 2.5}, "n", "f.json", least=1, whole=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_tensors_must_be_finite(tmp_path: Path, value: float) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"ok": torch.ones(2), "bad": torch.tensor([0.0, value, 1.0]), "n": torch.arange(3)}
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"{path}: the tensor 'bad' holds "):
        read_tensors(path)
    assert torch.equal(read_tensors(path, may_be_nan=("bad",))["ok"], torch.ones(2))


def test_tensors_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(50)}, path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged: no readable safetensors"):
        read_tensors(path)
    with pytest.raises(ValueError, match="There is no file"):
        read_tensors(tmp_path / "none.safetensors")


def test_tensors_must_be_all_and_no_others() -> None:
    one, two = {"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(1)}
    require_tensors(one, one, "f")
    for found, needed in ((one, two), (two, one), ({"a": torch.ones(3)}, one)):
        with pytest.raises(ValueError, match="f was made for another base or configuration: 1 tensors"):
            require_tensors(found, needed, "f")


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["a"].tolist() == [1, 2]
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    (tmp_path / "t.csv").write_text("")
    for name, kind in (("t.parquet", "parquet"), ("t.csv", "csv")):
        with pytest.raises(ValueError, match=f"{name} is no readable {kind} table"):
            read_table(tmp_path / name)


def test_what_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(ValueError, match=r"a.json cannot be read \(Permission denied\). Ask its owner for the right"):
        read_json(tmp_path / "a.json")


def test_errors_of_other_libraries_become_a_sentence() -> None:
    with pytest.raises(ValueError, match="The tokenizer in 'place' cannot be read \\(KeyError: 'model'"):
        with reading("place", "The tokenizer"):
            json.loads('{"a": 1}')["model"]
    with pytest.raises(ValueError, match="is nested in itself|There is no file"), reading("place", "The tokenizer"):
        read_json("nowhere.json")  # palign's own sentence stays


def test_files_have_the_rights_of_the_umask(tmp_path: Path) -> None:
    from palign.writing import whole_file, whole_files

    before = os.umask(0o027)
    try:
        with whole_files(tmp_path / "m", last="z.json") as beside:
            save_file({"a": torch.ones(2)}, beside / "a.safetensors")
            (beside / "inner").mkdir(mode=0o700)
            (beside / "inner" / "b").write_text("b")
            (beside / "z.json").write_text("{}")
        with whole_file(tmp_path / "c.safetensors") as beside:
            save_file({"a": torch.ones(2)}, beside)
    finally:
        os.umask(before)
    places = [tmp_path / "c.safetensors", *(tmp_path / "m" / n for n in ("a.safetensors", "z.json", "inner/b"))]
    assert {stat.S_IMODE(path.stat().st_mode) for path in places} == {0o640}
    assert stat.S_IMODE((tmp_path / "m" / "inner").stat().st_mode) == 0o750


def test_a_folder_that_lacks_files_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    require_files(tmp_path, ["config.json"], "is no model")
    with pytest.raises(ValueError) as error:
        require_files(tmp_path, ["config.json", "a.bin", "b.bin"], "is no model", "Give a model.", named="mine")
    assert str(error.value) == "'mine' is no model: it lacks a.bin, b.bin. Give a model."
    with pytest.raises(ValueError) as error:
        require_files(tmp_path, ["a.bin"], "is no model")
    assert str(error.value) == f"{str(tmp_path)!r} is no model: it lacks a.bin."
