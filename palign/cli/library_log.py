"""Warnings and messages of libraries go to a file in the output folder, out of the way of what a run says.

`LibraryLog` is put in place by `palign.cli.errors.run`; a recipe says where the file lies as soon as it knows. What
palign warns of itself is shown as ever, and so is everything where PALIGN_WARNINGS=1.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

__all__ = ["NAME", "keep_library_log", "library_log"]

NAME = "library.log"
LIBRARIES = ("transformers", "trl", "peft", "accelerate", "datasets", "huggingface_hub", "torch", "DeepSpeed")
PACKAGE = str(Path(__file__).parents[1])
MOST_WAITING = 1_000  # records, until the folder is known


class LibraryLog(logging.Handler):
    """Keeps what libraries say, and writes it once the folder is known."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self.waiting: list[logging.LogRecord] = []
        self.file: logging.FileHandler | None = None
        self.taken: list[tuple[logging.Logger, list[logging.Handler], bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it until there is a file."""
        if self.file is not None:
            self.file.emit(record)
        elif len(self.waiting) < MOST_WAITING:
            self.waiting.append(record)

    def filter_of_import(self, record: logging.LogRecord) -> bool:
        """For a logger that brings a handler of its own: its records come here and go no further."""
        self.handle(record)
        return False

    def keep_in(self, folder: str | Path) -> None:
        """Write into `<folder>/library.log` from now on, what libraries' loggers say included."""
        if self.file is not None:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.file = logging.FileHandler(Path(folder) / NAME, mode="a", encoding="utf-8", delay=True)
        self.file.setFormatter(self.formatter)
        for name in LIBRARIES:
            logger = logging.getLogger(name)
            self.taken.append((logger, logger.handlers, logger.propagate))
            logger.handlers, logger.propagate = [self], False
        for record in self.waiting:
            self.file.emit(record)
        self.waiting = []

    def close(self) -> None:
        """Close the file and give loggers their handlers back."""
        for logger, handlers, propagate in self.taken:
            logger.handlers, logger.propagate = handlers, propagate
        self.taken = []
        if self.file is not None:
            self.file.close()
        super().close()


_active: list[LibraryLog] = []


def keep_library_log(folder: str | Path) -> None:
    """Where the log of the run that goes on lies; nothing where there is none (a recipe that a program calls)."""
    if _active and os.environ.get("RANK", "0") == "0":
        _active[-1].keep_in(folder)


@contextmanager
def library_log() -> Iterator[None]:
    """Collect what libraries warn of while a command runs; what came before a folder was known is shown on a fault."""
    if os.environ.get("PALIGN_WARNINGS") == "1" or _active:
        yield
        return
    log, show = LibraryLog(), warnings.showwarning

    def showwarning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        if filename.startswith(PACKAGE) or "site-packages" not in filename:
            show(message, category, filename, lineno, file, line)
            return
        text = f"{category.__name__}: {message} ({filename}:{lineno})"
        log.handle(logging.LogRecord("warnings", logging.WARNING, filename, lineno, text, None, None))

    deepspeed = logging.getLogger("DeepSpeed")  # it writes to stdout as soon as it is imported
    deepspeed.addFilter(log.filter_of_import)
    warnings.showwarning = showwarning
    _active.append(log)
    try:
        yield
    except Exception:
        for record in log.waiting:
            print(log.format(record), file=sys.stderr)
        raise
    finally:
        _active.remove(log)
        warnings.showwarning = show
        deepspeed.removeFilter(log.filter_of_import)
        log.close()
