"""A folder's hashes and its lock: nobody reads half of one save and half of another."""

import json
import os
import time
from pathlib import Path

import pytest

from palign import contents
from palign.contents import CONTENTS, check_contents, entering, locked, reading_whole
from palign.writing import whole_files


def saved(folder: Path, word: str) -> Path:
    with whole_files(folder, last="z.json") as beside:
        for name in ("a", "b/c", "z.json", "README.md"):
            (beside / name).parent.mkdir(exist_ok=True)
            (beside / name).write_text(word)
    return folder


def test_a_folder_as_it_was_saved_is_right(tmp_path: Path) -> None:
    saved(tmp_path, "one")
    listed = json.loads((tmp_path / CONTENTS).read_text())["sha256"]
    # sha256("one"), by `printf one | sha256sum`
    assert listed == dict.fromkeys(
        ["a", "b/c", "z.json"], "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    )
    check_contents(tmp_path)
    (tmp_path / "README.md").write_text("edited")
    (tmp_path / "report.html").write_text("further")
    check_contents(tmp_path)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: (f / "a").write_text("two"), "a is not what was saved"),
        (lambda f: (f / "b" / "c").unlink(), "lacks b/c, which contents.json lists"),
        (lambda f: (f / CONTENTS).write_text("{}"), "contents.json is damaged"),
        (lambda f: (f / CONTENTS).write_text('{"sha256": {"../x": "0"}}'), "contents.json is damaged"),
        (lambda f: (f / CONTENTS).write_text('{"sha256": {"a": 3}}'), "contents.json is damaged"),
    ],
)
def test_any_other_folder_is_refused(tmp_path: Path, harm: object, words: str) -> None:
    harm(saved(tmp_path, "one"))
    with pytest.raises(ValueError, match=words):
        check_contents(tmp_path)


def test_what_palign_writes_later_is_entered(tmp_path: Path) -> None:
    saved(tmp_path, "one")
    with entering(tmp_path, "a"):
        (tmp_path / "a").write_text("two")
        check_contents(tmp_path)  # as a kill leaves it
    check_contents(tmp_path)
    assert json.loads((tmp_path / CONTENTS).read_text())["sha256"].keys() == {"a", "b/c", "z.json"}
    with entering(tmp_path / "nowhere", "a"):  # a folder without a list
        pass


def test_a_save_in_between_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system knows no locks."""
    saved(tmp_path, "one")
    monkeypatch.setattr(contents, "_locked_descriptor", lambda *_: None)
    with pytest.raises(ValueError, match="was saved anew while it was read"), reading_whole(tmp_path):
        saved(tmp_path, "two")


def test_a_folder_that_is_held_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "PATIENCE", 0.2)
    pid = os.fork()
    if pid == 0:
        with locked(tmp_path, exclusive=True):
            (tmp_path / "held").touch()
            time.sleep(30)
        os._exit(0)
    try:
        while not (tmp_path / "held").exists():
            time.sleep(0.01)
        with pytest.raises(TimeoutError, match="held by another process"), locked(tmp_path, exclusive=False):
            pass
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    with locked(tmp_path, exclusive=True), locked(tmp_path, exclusive=True):  # a killed holder holds nothing
        pass


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    """Every read is of one save."""
    folder, writers = saved(tmp_path / "m", "start"), []
    for word in ("left", "right"):
        pid = os.fork()
        if pid == 0:
            for _ in range(15):
                saved(folder, word)
                time.sleep(0.01)  # else it may take the lock again before anybody else looks
            os._exit(0)
        writers.append(pid)
    seen: list[set[str]] = []
    while writers:
        with reading_whole(folder):
            words = set()
            for name in ("a", "b/c", "z.json"):
                words.add((folder / name).read_text())
                time.sleep(0.001)
            seen.append(words)
        time.sleep(0.005)
        ended = [pid for pid in writers if os.waitpid(pid, os.WNOHANG)[0]]
        writers = [pid for pid in writers if pid not in ended]
    assert all(len(words) == 1 for words in seen) and len(seen) > 5
    assert set().union(*seen) <= {"start", "left", "right"} and seen[-1] != {"start"}
