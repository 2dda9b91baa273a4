"""What libraries say goes to a file in the output folder; what palign says, and everything on a fault, is shown."""

import logging
import warnings
from pathlib import Path

import pytest

from palign.cli.errors import run
from palign.cli.library_log import NAME, keep_library_log

LIBRARY = "/somewhere/site-packages/transformers/training_args.py"


def warn(text: str, filename: str = LIBRARY) -> None:
    """As a library does."""
    warnings.warn_explicit(text, FutureWarning, filename, 7)


@pytest.fixture(autouse=True)
def all_warnings() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def test_warnings_and_loggers_of_libraries_go_to_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("transformers.of_a_test")
    parent = logging.getLogger("transformers")
    before = list(parent.handlers), parent.propagate

    def main() -> None:
        warn("is deprecated")
        logging.getLogger("DeepSpeed").warning("Setting accelerator to CPU")
        keep_library_log(tmp_path / "out")
        logger.warning("weights were not used")
        warn("of a later moment")
        print("a line of our own")

    assert run("palign test", main) == 0
    shown = capfd.readouterr()
    assert shown.out == "a line of our own\n" and shown.err == ""
    text = (tmp_path / "out" / NAME).read_text(encoding="utf-8")
    order = ["FutureWarning: is deprecated", "Setting accelerator", "weights were not used", "of a later moment"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert (list(parent.handlers), parent.propagate) == before


def test_palign_s_own_warnings_are_shown(tmp_path: Path) -> None:
    def main() -> None:
        keep_library_log(tmp_path)
        warn("two rows tie", str(Path(run.__code__.co_filename).parents[1] / "data" / "preferences.py"))

    with pytest.warns(FutureWarning, match="two rows tie"):
        assert run("palign test", main) == 0
    assert not (tmp_path / NAME).exists()


def test_a_fault_shows_what_was_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        warn("the reason, perhaps")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run("palign test", main)
    assert "the reason, perhaps" in capsys.readouterr().err


def test_all_is_shown_on_request_and_a_program_s_own_logging_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_library_log(tmp_path / "none")  # no run goes on
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("PALIGN_WARNINGS", "1")
    with pytest.warns(FutureWarning, match="is deprecated"):
        assert run("palign test", lambda: warn("is deprecated")) == 0
