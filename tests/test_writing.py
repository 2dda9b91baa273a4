"""Files that are whole or as they were; errors of writing that name the folder, the reason and what to do."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from palign.writing import SavingError, require_writable, saving, sweep_partials, whole_file, whole_files, write_whole


class Killed(BaseException):
    pass


def test_a_file_is_the_old_one_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(Killed), whole_file(path) as beside:
        beside.write_text("ha")
        raise Killed
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    write_whole(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("n_moves", [0, 1, 2, 3, 4])
def test_parts_of_two_saves_are_never_read_as_one(
    tmp_path: Path, n_moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three files, `last` among them: after a kill between two renames, `last` is there only with all of one save."""

    def save(word: str) -> None:
        with whole_files(tmp_path, last="last") as beside:
            for name in ("a", "b/c", "last"):
                (beside / name).parent.mkdir(exist_ok=True)
                (beside / name).write_text(word)

    save("old")
    left, replace = [n_moves], os.replace

    def killed(*args: object) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        replace(*args)

    monkeypatch.setattr("palign.writing.os.replace", killed)
    if n_moves < 4:
        with pytest.raises(Killed):
            save("new")
    else:
        save("new")
    monkeypatch.undo()
    found = {(tmp_path / name).read_text() for name in ("a", "b/c")}
    assert not (tmp_path / "last").exists() if n_moves < 4 else found == {"new"}
    save("newer")
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "contents.json", "last"}
    assert all((tmp_path / name).read_text() == "newer" for name in ("a", "b/c", "last"))


def test_only_what_palign_itself_writes_is_swept(tmp_path: Path) -> None:
    kept = {"notes.partial.md", "a.partial", "data.partial2.csv", "partial-1", ".partially"}
    swept = {"config.json.partial417", ".partial-config.json", "README.md.partial"}
    for name in kept | swept:
        (tmp_path / name).write_text("x")
    (tmp_path / ".partial-ab12_x").mkdir()
    sweep_partials(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_full_disk_is_named_whoever_wrote(small_disk: Path) -> None:
    """safetensors and torch do not raise OSError."""
    big = torch.zeros(1_000_000)
    (small_disk / "before").write_text("kept")
    writes = [
        lambda: save_file({"x": big}, small_disk / "x.safetensors"),
        lambda: torch.save(big, small_disk / "x.pt"),
        lambda: write_whole(small_disk / "x.txt", "0" * 2**21),
    ]
    for write in writes:
        with pytest.raises(SavingError, match=r"checkpoint-3 could not be written .* its disk is full") as caught:
            with saving(small_disk, "checkpoint-3", "Intact is checkpoint-2."):
                write()
        message = str(caught.value)
        assert "Intact is checkpoint-2." in message and "--save_total_limit 2" in message
        assert str(small_disk) in message and "--resume_from_checkpoint true" in message
        for path in small_disk.glob("x.*"):
            path.unlink()
    assert (small_disk / "before").read_text() == "kept"
    (small_disk / "fill").write_bytes(b"0" * (2**20 - 8192))
    with pytest.raises(SavingError, match="--output_dir is .* nothing can be written there: its disk is full"):
        require_writable(small_disk / "out" / "of_run")


def test_a_file_or_a_folder_alone_says_what_saving_says(small_disk: Path) -> None:
    """Nothing is left beside it, and what was there is as it was."""
    write_whole(small_disk / "history.csv", "old")
    with pytest.raises(SavingError) as caught:
        write_whole(small_disk / "history.csv", "0" * 2**21)
    assert str(caught.value) == (
        f"history.csv could not be written to '{small_disk}': its disk is full (0 MiB free). What was saved there "
        "before is as it was. Make room (fewer checkpoints: --save_total_limit 2), or name a folder on another disk; "
        "then give the same command again, a training with --resume_from_checkpoint true."
    )
    with pytest.raises(SavingError, match=f"^base_model could not be written to '{small_disk}/base_model'"):
        with whole_files(small_disk / "base_model", last="config.json") as beside:
            save_file({"x": torch.zeros(1_000_000)}, beside / "x.safetensors")
    assert sorted(path.name for path in small_disk.rglob("*")) == ["base_model", "history.csv"]
    assert (small_disk / "history.csv").read_text() == "old"


def test_what_is_saved_in_a_folder_is_told_once_by_the_folder(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(SavingError) as caught, saving(tmp_path / "a", "checkpoint-3", "Intact is checkpoint-2."):
        with saving(tmp_path / "a", "The adapters"), whole_file(tmp_path / "a" / "b" / "words.json"):
            raise full
    assert caught.value.__cause__ is full and caught.value.errno == errno.ENOSPC
    message = str(caught.value)
    assert message.startswith(f"checkpoint-3 could not be written to '{tmp_path / 'a'}': its disk is full")
    assert message.count("could not be written") == message.count("Intact") == 1 and "as it was" not in message
    with pytest.raises(SavingError, match="^words.json could not be written"), saving(tmp_path / "a", "checkpoint-3"):
        with whole_file(tmp_path / "elsewhere" / "words.json"):
            raise full


def test_a_read_only_disk_is_said_before_anything_is_computed(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(SavingError, match="it is read-only. Name a folder that can be written to"):
        require_writable(small_disk / "out")


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for folder in (tmp_path / "out", tmp_path / "out" / "further"):
        with pytest.raises(SavingError, match="a part of that path is a file, not a folder"):
            require_writable(folder)


def test_nothing_is_left_or_made_by_asking(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "this user may not write there"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota is used up")],
)
def test_reasons(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(SavingError, match=words) as caught, saving(tmp_path, "The policy"):
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number and "What was saved there before is as it was." in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="^shapes$"), saving(".", "The policy"):
        raise RuntimeError("shapes")
