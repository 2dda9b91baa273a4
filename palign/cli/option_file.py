"""The YAML file behind `--config`, read before anything heavy is imported, and the nearest to a wrong name."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["OptionError", "config_path", "nearest", "read_options", "unknown_options"]


class OptionError(ValueError):
    """Something is wrong with what stands on the command line or in the file behind it; one line says what."""


def config_path(arguments: Sequence[str]) -> str | None:
    """What `--config` names on a command line, as `--config FILE` or `--config=FILE`; None without it.

    Raises:
        OptionError: no file is named, or two are.
    """
    positions = [number for number, argument in enumerate(arguments) if argument.split("=")[0] == "--config"]
    if len(positions) > 1:
        raise OptionError("--config is given twice; give one file, and flags over it.")
    if not positions:
        return None
    _, is_joined, path = arguments[positions[0]].partition("=")
    if not is_joined:
        path = arguments[positions[0] + 1] if len(arguments) > positions[0] + 1 else ""
    if not path or path.startswith("--"):
        raise OptionError("--config names no file; give --config FILE.yaml.")
    return path


def read_options(path: str) -> dict[str, Any]:
    """Option → value, as the file says it.

    Raises:
        OptionError: no such file, no YAML, or YAML of something else than `name: value` lines.
    """
    form = "write one `name: value` on a line"
    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [file.name for file in Path(path).parent.glob("*.y*ml")]
        near = [str(Path(path).with_name(name)) for name in nearest(Path(path).name, beside)]
        raise OptionError(f"--config {path}: there is no such file{_guess(near)}.") from None
    except OSError as error:
        raise OptionError(f"--config {path}: it cannot be read ({error.strerror}); give a YAML file.") from None
    except UnicodeDecodeError:
        raise OptionError(f"--config {path}: it is no text in UTF-8; {form}.") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f"line {place.line + 1}, column {place.column + 1}: " if place else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise OptionError(f"--config {path}: {where}this is no YAML ({problem}); {form}.") from None
    if not isinstance(options, dict):
        holds = "nothing" if options is None else f"a {type(options).__name__}"
        raise OptionError(f"--config {path}: it holds {holds}, where options are needed; {form}.")
    if not isinstance(options.get("env", {}), dict):
        raise OptionError(f"--config {path}: `env` holds no names of variables with their values.")
    return options


def unknown_options(names: Iterable[object], known: Iterable[str], dash: str = "") -> str:
    """One clause about names that are no option, each with the nearest that is; `dash` goes before every name."""
    known = list(known)
    return "; ".join(
        f"{dash}{name} is no option{_guess([dash + near for near in nearest(str(name), known)])}" for name in names
    )


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The one of `known` that looks most like `name`, or nothing; hyphens count as underscores, case not at all."""
    plain = {option.lower().replace("-", "_"): option for option in known}
    asked = name.lower().replace("-", "_")
    matches = difflib.get_close_matches(asked, plain, n=1, cutoff=0.6)
    beginnings = sorted((option for option in plain if len(asked) > 2 and option.startswith(asked)), key=len)[:1]
    return [plain[match] for match in matches or beginnings]


def _guess(near: Sequence[str]) -> str:
    return f" (did you mean {near[0]}?)" if near else ""
