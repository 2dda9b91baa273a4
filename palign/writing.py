"""Files that are whole or as they were before, and errors that say why nothing could be written.

A file is written beside its place, flushed to the disk and renamed: whoever reads while a process is killed gets the
old file or the new one, never a part.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from palign.contents import CONTENTS, locked, write_contents

__all__ = [
    "SavingError",
    "move_into",
    "require_writable",
    "saving",
    "set_usual_modes",
    "sweep_partials",
    "whole_file",
    "whole_files",
    "write_whole",
]

PARTIAL = ".partial"
OWN_PARTIAL = re.compile(r"\.partial-.*|.*\.partial\d+|README\.md\.partial")  # the names that palign writes
# Phrases of libraries that write by themselves and raise no OSError: torch's zip writer and safetensors.
WRITE_FAILURES = (
    "PytorchStreamWriter",
    "inline_container",
    "file write failed",
    "iostream error",
    "I/O error",
    "IoError",
    "os error",
)
NEARLY_FULL = 16 * 2**20  # bytes


class SavingError(OSError):
    """Something could not be written; the message says what, why, what is intact and what to do.

    Attributes:
        path: where it was to be written.
    """

    path: Path | None = None

    def __str__(self) -> str:
        return str(self.strerror)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes the place of `path` when the context is left without an error.

    Raises:
        SavingError: it could not be written; `path` is as it was.
    """
    path = Path(path)
    beside = path.with_name(f"{path.name}{PARTIAL}{os.getpid()}")
    try:
        with saving(path.parent, path.name):
            yield beside
            with open(beside, "rb+") as file:
                os.fsync(file.fileno())
            set_usual_modes([beside])
            os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_whole(path: str | Path, text: str) -> None:
    """Write a text (UTF-8), whole or not at all; `SavingError` where it cannot be written."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_files(folder: str | Path, last: str) -> Iterator[Path]:
    """An empty folder to write to, whose files take their places in `folder` when the context is left without an
    error, each of them whole. One process writes at a time.

    Args:
        folder: made where it is missing; what is not written anew stays.
        last: the file without which nobody reads the folder. It is taken away first and put there last, so that parts
            of two saves are never read as one: a process killed between leaves a folder that is nothing yet.

    `contents.json` with the hashes of all of them goes along, and other processes of this machine that write or read
    (`palign.contents`) wait.

    Raises:
        SavingError: they could not be written.
    """
    folder = Path(folder)
    with saving(folder, folder.absolute().name):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, exclusive=True):
            sweep_partials(folder)
            with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}-", dir=folder) as partial:
                yield Path(partial)
                write_contents(partial)
                set_usual_modes(sorted(Path(partial).rglob("*")))
                (folder / last).unlink(missing_ok=True)
                (folder / CONTENTS).unlink(missing_ok=True)
                last_file = (Path(partial) / last).rename(folder / f"{PARTIAL}-{last}")
                move_into(partial, folder)
                os.replace(last_file, folder / last)


def set_usual_modes(paths: Iterable[str | Path]) -> None:
    """Give files and folders the rights that this user's umask gives; some libraries make them for the owner alone."""
    paths = [Path(path) for path in paths]
    if paths:
        umask = _umask(paths[0].parent)
        for path in paths:
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _umask(folder: Path) -> int:
    """Read without setting it, which other threads would feel: from a file that is made for an instant."""
    probe = folder / f"{PARTIAL}-mode{os.getpid()}"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o777)
    try:
        return 0o777 & ~os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
        probe.unlink()


def move_into(source: str | Path, folder: str | Path) -> None:
    """Move the files of a finished folder into another, each whole or as it was before; folders inside go along."""
    source, folder = Path(source), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            move_into(path, folder / path.name)
        else:
            os.replace(path, folder / path.name)


def sweep_partials(folder: str | Path) -> None:
    """Remove what a killed process left half-written in a folder; call where one process writes at a time."""
    for path in [path for path in Path(folder).glob("*") if OWN_PARTIAL.fullmatch(path.name)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def saving(folder: str | Path, what: str, intact: str = "What was saved there before is as it was.") -> Iterator[None]:
    """Turn an error of writing into a `SavingError` that says what to do.

    Where one lies in another, and what failed in the folder of both, the outer one speaks: it knows what is whole.

    Args:
        folder: where it is written.
        what: for the message: "checkpoint-20", "the adapters".
        intact: a sentence on what is still good.
    """
    folder = Path(folder)
    try:
        yield
    except SavingError as error:
        if error.path is None or not error.path.absolute().is_relative_to(folder.absolute()):
            raise
        raise _saving_error(error.__cause__, folder, what, intact) from error.__cause__
    except Exception as error:
        if not _is_of_writing(error):
            raise
        raise _saving_error(error, folder, what, intact) from error


def _saving_error(error: BaseException, folder: Path, what: str, intact: str) -> SavingError:
    sentence = f"{what} could not be written to {str(folder)!r}: {_reason(error, folder)} {intact}"
    failure = SavingError(getattr(error, "errno", None) or 0, f"{sentence} {_advice(error, folder)}")
    failure.path = folder
    return failure


def require_writable(folder: str | Path, option: str = "--output_dir") -> None:
    """Write a file for an instant where a folder is or would be made, before anything is computed.

    Raises:
        SavingError: the folder cannot be made or written to, or there is no room on its disk.
    """
    folder = Path(folder).expanduser()
    place = _nearest(folder)
    try:
        with tempfile.NamedTemporaryFile(prefix=f"{PARTIAL}-", dir=place) as file:
            file.write(b"0" * 2**16)
            file.flush()
    except OSError as error:
        raise SavingError(
            error.errno or 0,
            f"{option} is {str(folder)!r}, and nothing can be written there: {_reason(error, place)} "
            f"{_advice(error, place)}",
        ) from error


def _is_of_writing(error: Exception) -> bool:
    return isinstance(error, OSError) or any(phrase in str(error) for phrase in WRITE_FAILURES)


def _reason(error: BaseException, folder: Path) -> str:
    """What was wrong, as a sentence."""
    number = getattr(error, "errno", None)
    if _is_full(error, folder):
        return f"its disk is full ({_free(folder) / 2**20:.0f} MiB free)."
    named = {
        errno.EROFS: "it is read-only.",
        errno.EACCES: "this user may not write there.",
        errno.EPERM: "this user may not write there.",
        errno.EDQUOT: "this user's quota is used up.",
        errno.EEXIST: "there is a file of that name.",
        errno.ENOTDIR: "a part of that path is a file, not a folder.",
        errno.EFBIG: "a file would grow beyond the largest size allowed.",
    }
    return named.get(number) or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else error!r}."


def _advice(error: BaseException, folder: Path) -> str:
    number = getattr(error, "errno", None)
    if _is_full(error, folder) or number in (errno.EDQUOT, errno.EFBIG):
        return (
            "Make room (fewer checkpoints: --save_total_limit 2), or name a folder on another disk; then give the "
            "same command again, a training with --resume_from_checkpoint true."
        )
    return "Name a folder that can be written to, or make this one writable."


def _is_full(error: BaseException, folder: Path) -> bool:
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error) or "os error 28" in str(error):
        return True
    return not getattr(error, "errno", None) and _free(folder) < NEARLY_FULL


def _free(folder: Path) -> int:
    return shutil.disk_usage(_nearest(folder)).free


def _nearest(folder: Path) -> Path:
    """The folder itself, or what is there of the path to it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
