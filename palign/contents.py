"""What a saved folder holds, by hash, and who may touch it now: so that nobody reads half of one model and half of
another.

`contents.json` lists every file that was saved together with its SHA-256. Whoever loads checks it: bytes that changed
since, or files of two saves, are refused. A folder without it (of an earlier version, or of other software) is read as
it is. On one machine writers and readers also wait for each other, by a lock on the folder itself, which leaves
nothing behind and ends with its process.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CONTENTS", "check_contents", "entering", "file_hash", "locked", "reading_whole", "write_contents"]

CONTENTS = "contents.json"
NOT_HASHED = {CONTENTS, "README.md"}  # a card may be edited
PATIENCE = 120.0  # seconds to wait for another process
_held: set[str] = set()  # folders that this process has locked


def write_contents(folder: str | Path) -> None:
    """List all files of a finished folder with their hashes."""
    folder = Path(folder)
    files = {
        path.relative_to(folder).as_posix(): file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_HASHED
    }
    (folder / CONTENTS).write_text(_text(files), encoding="utf-8")


@contextlib.contextmanager
def entering(folder: str | Path, name: str) -> Iterator[None]:
    """Around writing one file anew into a saved folder: it is taken off the list and entered again, so that a kill
    leaves a folder that can be read. Nothing where there is no list.
    """
    path = Path(folder) / CONTENTS
    if not path.is_file():
        yield
        return
    files = _listed(path)
    _write(path, {other: digest for other, digest in files.items() if other != name})
    yield
    _write(path, files | {name: file_hash(Path(folder) / name)})


def _text(files: dict[str, str]) -> str:
    return json.dumps({"sha256": files}, indent=1) + "\n"


def _write(path: Path, files: dict[str, str]) -> None:
    beside = path.with_name(f"{CONTENTS}.partial{os.getpid()}")
    beside.write_text(_text(files), encoding="utf-8")
    os.replace(beside, path)


def check_contents(folder: str | Path) -> None:
    """Compare a folder with its list, if it has one.

    Raises:
        ValueError: the list is none, a file is missing, may not be read, or holds other bytes than were saved.
    """
    folder = Path(folder)
    path = folder / CONTENTS
    if not path.is_file():
        return
    for name, digest in _listed(path).items():
        file = folder / name
        try:
            found = file_hash(file)
        except FileNotFoundError:
            raise ValueError(
                f"{str(folder)!r} lacks {name}, which {CONTENTS} lists. Give a whole copy of the folder, or save it "
                "again."
            ) from None
        except OSError as error:
            raise ValueError(
                f"{file} cannot be read ({error.strerror}). Ask its owner for the right to read it."
            ) from None
        if found != digest:
            raise ValueError(
                f"{file} is not what was saved (its SHA-256 is not that in {CONTENTS} beside it): it is damaged, of "
                "another save, or edited. Give a whole copy of the folder; where you edited it yourself, remove "
                f"{CONTENTS}."
            )


def _listed(path: Path) -> dict[str, str]:
    """Relative name → hash."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        is_list = isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}). Ask its owner for the right to read it."
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        is_list = False
    if not is_list or any(Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name for name in files):
        raise ValueError(f"{path} is damaged: it is no list of files and hashes. Give a whole copy of the folder.")
    return files


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def reading_whole(folder: str | Path) -> Iterator[None]:
    """Check a folder's contents, and let nobody write to it while it is read.

    Raises:
        ValueError: as `check_contents`; or the folder was saved anew meanwhile, from a machine that knows no lock.
    """
    folder = Path(folder)
    with locked(folder, exclusive=False):
        before = _mark(folder)
        check_contents(folder)
        yield
        if _mark(folder) != before:
            raise ValueError(f"{str(folder)!r} was saved anew while it was read. Read it again.")


def _mark(folder: Path) -> bytes | None:
    try:
        return (folder / CONTENTS).read_bytes()
    except OSError:
        return None


@contextlib.contextmanager
def locked(folder: str | Path, *, exclusive: bool) -> Iterator[None]:
    """Hold a folder alone (to write) or with other readers; where the file system knows no locks, nothing is held.

    Raises:
        TimeoutError: another process has held it for two minutes.
    """
    name = os.path.realpath(folder)
    descriptor = None if name in _held else _locked_descriptor(name, exclusive)
    if descriptor is None:
        yield
        return
    _held.add(name)
    try:
        yield
    finally:
        _held.discard(name)
        os.close(descriptor)


def _locked_descriptor(name: str, exclusive: bool) -> int | None:
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time is up to the user
        return None
    try:
        descriptor = os.open(name, os.O_RDONLY)
    except OSError:
        return None
    kind, end = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(descriptor)
                raise TimeoutError(
                    f"{name!r} has been held by another process for {PATIENCE:.0f} seconds. Wait until it has ended, "
                    "or end it."
                ) from None
            time.sleep(0.02)
        except OSError:  # some network file systems lock no folders; the hashes remain
            os.close(descriptor)
            return None
