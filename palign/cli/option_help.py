"""The options of a dataclass of arguments, read out of its source: importing it would import torch and transformers,
which takes seconds, only to say what a flag means.
"""

import ast
import textwrap
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Option", "describe", "options_of"]

WIDTH = 112
INDENT = 36
WORDS = ("int", "float", "bool")  # everything else is given as text


@dataclass(frozen=True)
class Option:
    """A field: name, type, default as it is written (None where that is no plain value) and help."""

    name: str
    kind: str
    default: str | None
    text: str


def options_of(source: Path, kind: str) -> list[Option]:
    """The fields that dataclass `kind` defines itself, in order."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind)
    return [_option(node) for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call)]


def describe(source: Path, kind: str) -> list[str]:
    """The options of a dataclass as lines of text."""
    lines = []
    for option in options_of(source, kind):
        head = f"  --{option.name} {option.kind}"
        text = option.text if option.default in (None, "None", "''") else f"{option.text} [{option.default}]"
        wrapped = textwrap.wrap(text, WIDTH - INDENT) or [""]
        fits = len(head) < INDENT - 1
        lines += [f"{head:<{INDENT}}{wrapped[0]}"] if fits else [head, " " * INDENT + wrapped[0]]
        lines += [" " * INDENT + line for line in wrapped[1:]]
    return lines


def _option(node: ast.AnnAssign) -> Option:
    """`name: kind = field(default=…, metadata={"help": …})`, or `_named(default, help)` of the column names."""
    given = {keyword.arg: keyword.value for keyword in node.value.keywords}
    default, text = given.get("default", given.get("default_factory")), given.get("metadata")
    if node.value.args:
        default, text = node.value.args
    else:
        (text,) = (v for k, v in zip(text.keys, text.values, strict=True) if ast.literal_eval(k) == "help")
    return Option(node.target.id, _kind(node.annotation), _default(default), ast.literal_eval(text))


def _kind(annotation: ast.expr) -> str:
    name = ast.unparse(annotation).removesuffix(" | None")
    inner = name.removeprefix("list[").removesuffix("]")
    word = inner.upper() if inner in WORDS else "TEXT"
    return f"{word} ..." if name.startswith("list[") else word


def _default(value: ast.expr) -> str | None:
    """A plain value, alone or behind a lambda; None for what only running the module would tell."""
    value = value.body if isinstance(value, ast.Lambda) else value
    try:
        literal = ast.literal_eval(value)
    except ValueError:
        return None
    return " ".join(map(str, literal)) if isinstance(literal, list) else str(literal)
