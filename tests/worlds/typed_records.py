"""Whether plain values are what a TypedDict says, key by key and all the way down."""

import types
import typing
from typing import Any, Union

Seen = set[tuple[type, str]]


def keys_seen(value: Any, hint: Any, where: str = "record") -> Seen:
    """Keys of each TypedDict that were met; AssertionError where a key or a value is another than `hint` says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is object:
        return set()
    if typing.is_typeddict(hint):
        assert isinstance(value, dict), f"{where} is {value!r}, no dict"
        hints = typing.get_type_hints(hint)
        missing, further = hint.__required_keys__ - value.keys(), value.keys() - hints.keys()
        assert not missing and not further, f"{where}: {sorted(missing)} are missing, {sorted(further)} are not named"
        seen = {(hint, key) for key in value}
        return seen.union(*(keys_seen(value[key], hints[key], f"{where}.{key}") for key in value))
    if origin is list:
        assert isinstance(value, list), f"{where} is {value!r}, no list"
        return set().union(*(keys_seen(entry, inner[0], f"{where}[]") for entry in value))
    if origin is dict:
        assert isinstance(value, dict) and all(isinstance(key, inner[0]) for key in value), f"{where} is {value!r}"
        return set().union(*(keys_seen(entry, inner[1], f"{where}[{key!r}]") for key, entry in value.items()))
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return set()
        (only,) = (part for part in inner if part is not type(None))
        return keys_seen(value, only, where)
    kinds = (int, float) if hint is float else (hint,)
    is_right = isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
    assert is_right, f"{where} is {value!r}, no {hint.__name__}"
    return set()


def keys_named(hint: Any) -> Seen:
    """Every key of a TypedDict and of those within it."""
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint)
        return {(hint, key) for key in hints}.union(*(keys_named(part) for part in hints.values()))
    return set().union(*(keys_named(part) for part in typing.get_args(hint)))
