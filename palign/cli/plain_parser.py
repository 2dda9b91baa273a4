"""A command line of plain options, read without the seconds of imports that `CommandLine` takes.

What is read here is read as `CommandLine` reads it. Whatever is not plainly right (an unknown name, a value of another
kind, a contradiction) is not judged here: `CommandLine` reads the line again and says what is wrong.
"""

import argparse
import dataclasses
import os
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from palign.cli.option_file import config_path, read_options

__all__ = ["is_launched", "plain_arguments"]

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "LOCAL_RANK", "RANK")
TRUTH = {"true": True, "false": False}


def is_launched() -> bool:
    """Whether a launcher, or a variable of accelerate or transformers, has a say in how the run goes."""
    return any(name in SIZES or name.startswith(("ACCELERATE_", "TRANSFORMERS_VERBOSITY")) for name in os.environ)


def plain_arguments(
    kinds: Sequence[type], arguments: Sequence[str], defaults: Mapping[str, Any]
) -> tuple[Any, ...] | None:
    """The dataclasses of a command line: flags over the file behind `--config` over `defaults` over their own.

    Args:
        kinds: with fields of `int`, `float`, `str`, `bool`, one of them or None, or a list of one of the first three;
            a class may name options in `AS_TEXT`, which it reads itself.
        defaults: by name; what is of no field of them is left out.

    Returns:
        One object each, or None where anything about the line asks for `CommandLine`.
    """
    if Path(sys.argv[0] or "palign").with_suffix(".args").exists():  # of which transformers' parser reads more flags
        return None
    parser = _Parser(add_help=False, allow_abbrev=False)
    for kind in kinds:
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            parser.add_field(field, str if field.name in getattr(kind, "AS_TEXT", ()) else hints[field.name])
    names = {action.dest for action in parser._actions} - {"config"}
    try:
        path = config_path(arguments)
        config = {} if path is None else read_options(path)
        if not names.issuperset(config):
            return None
        parser.set_defaults(**{name: value for name, value in defaults.items() if name in names} | config)
        values = vars(parser.parse_args(list(arguments)))
        return tuple(kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)}) for kind in kinds)
    except (TypeError, ValueError):
        return None


class _Parser(argparse.ArgumentParser):
    """Raises where `argparse` would end the process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--config")

    def add_field(self, field: dataclasses.Field, kind: Any) -> None:
        """An option for a field, of that type."""
        if isinstance(kind, types.UnionType):
            kind = next(one for one in kind.__args__ if one is not type(None))
        factory = field.default_factory
        options: dict[str, Any] = {"default": field.default if factory is dataclasses.MISSING else factory()}
        if typing.get_origin(kind) is list:
            options |= {"type": kind.__args__[0], "nargs": "+"}
        elif kind is bool:
            options |= {"type": _truth} | ({} if field.default is None else {"nargs": "?", "const": True})
        else:
            options["type"] = kind
        hyphens = field.name.replace("_", "-")
        self.add_argument(*dict.fromkeys((f"--{field.name}", f"--{hyphens}")), **options)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _truth(text: str) -> bool:
    if text.lower() not in TRUTH:
        raise ValueError(f"{text!r} is neither true nor false.")
    return TRUTH[text.lower()]
