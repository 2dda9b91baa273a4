"""Ways in which files go wrong, each drawn by a generator: the same seed alters the same bytes.

Every function changes a file or folder in place and says what it did.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

Rng = np.random.Generator
Alteration = Callable[[Path, Rng], str]
ODD_VALUES: list[Any] = [
    None, True, False, -1, 0, 3, 10**30, 1e308, -0.5, "", "x", "../../x", "\0", [], {}, [None], {"a": 1},
    float("nan"), float("inf"), "NaN", [1, [2]], "é" * 50, "os", "http://x",
]  # fmt: skip
WHOLE_TEXTS = [
    b"", b" ", b"null", b"[]", b"{}", b"3", b'"x"', b"true", b"NaN", b"{", b"[1,", b'{"a": 1, "a": 2}',
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}", b"\xff\xff\xff", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, b"<html></html>",
    b"version https://git-lfs.github.com/spec/v1\n", b"\0" * 100,
]  # fmt: skip


def cut(path: Path, rng: Rng) -> str:
    size = path.stat().st_size
    kept = int(rng.integers(0, max(size, 1)))
    with open(path, "rb+") as file:
        file.truncate(kept)
    return f"cut to {kept} of {size} bytes"


def flip(path: Path, rng: Rng) -> str:
    content = bytearray(path.read_bytes())
    places = rng.integers(0, max(len(content), 1), size=int(rng.integers(1, 9)))
    for place in places:
        if content:
            content[place] ^= int(rng.integers(1, 256))
    path.write_bytes(content)
    return f"bytes changed at {sorted(map(int, places))}"


def append(path: Path, rng: Rng) -> str:
    with open(path, "ab") as file:
        file.write(rng.bytes(int(rng.integers(1, 50))))
    return "bytes appended"


def blank(path: Path, rng: Rng) -> str:
    content = bytearray(path.read_bytes())
    first = int(rng.integers(0, max(len(content), 1)))
    last = min(len(content), first + int(rng.integers(1, 200)))
    content[first:last] = b"\0" * (last - first)
    path.write_bytes(content)
    return f"zeros from {first} to {last}"


def replace(path: Path, rng: Rng) -> str:
    number = int(rng.integers(len(WHOLE_TEXTS)))
    path.write_bytes(WHOLE_TEXTS[number])
    return f"replaced by {WHOLE_TEXTS[number][:20]!r}"


def prefix_mark(path: Path, rng: Rng) -> str:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return "byte order mark in front"


def remove(path: Path, rng: Rng) -> str:
    path.unlink()
    return "removed"


def into_folder(path: Path, rng: Rng) -> str:
    path.unlink()
    path.mkdir()
    return "a folder in its place"


def into_link(path: Path, rng: Rng) -> str:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))
    return "a link to nothing in its place"


def swap(path: Path, rng: Rng) -> str:
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    if not others:
        return remove(path, rng)
    other = others[int(rng.integers(len(others)))]
    shutil.copyfile(other, path)
    return f"replaced by {other.name}"


ANY_FILE: list[Alteration] = [cut, cut, flip, flip, append, blank, replace, replace, prefix_mark, remove, into_folder,
                              into_link, swap]  # fmt: skip


def edit_json(path: Path, rng: Rng) -> str:
    """Change, remove or add something at a place drawn in a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    at, way = content, []
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = keys[int(rng.integers(len(keys)))]
        way.append(key)
        inner = at[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.5:
            at = inner
            continue
        action = int(rng.integers(3))
        if action == 0:
            at[key] = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
        elif action == 1:
            del at[key]
        elif isinstance(at, dict):
            at[f"{key}_x"] = inner
        else:
            at.append(inner)
        way.append(("set", "removed", "added")[action])
        break
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"{path.name}: {way}"


def spoil_tensor(path: Path, rng: Rng) -> str:
    """NaN, infinity, 1e30, another shape, another name, none: what no reader may take."""
    tensors = load_file(path)
    names = sorted(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel())
    name = names[int(rng.integers(len(names)))]
    action = int(rng.integers(6))
    if action < 3:
        flat = tensors[name].clone().reshape(-1)
        flat[int(rng.integers(len(flat)))] = (float("nan"), float("-inf"), 1e30)[action]
        tensors[name] = flat.reshape(tensors[name].shape)
    elif action == 3:
        tensors[name] = torch.cat([tensors[name].reshape(-1), torch.zeros(1)])
    elif action == 4:
        tensors[f"{name}.other"] = tensors.pop(name)
    else:
        del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    return f"{name}: {('nan', '-inf', '1e30', 'reshaped', 'renamed', 'dropped')[action]}"


def spoil_table(path: Path, rng: Rng) -> str:
    """Of responsibilities.parquet: numbers that are no shares, another K, people twice."""
    table = pd.read_parquet(path)
    row, action = int(rng.integers(len(table))), int(rng.integers(7))
    if action < 4:
        table["type_0"] = table["type_0"].astype(float)
        table.loc[row, "type_0"] = (np.nan, -3.0, 5.4, np.inf)[action]
    elif action == 4:
        table = table.drop(columns="type_0")
    elif action == 5:
        table[f"type_{sum(name.startswith('type_') for name in table)}"] = 0.0
    else:
        table = pd.concat([table, table.iloc[[row]]])
    table.to_parquet(path, index=False)
    return f"row {row}: {('nan', '-3', '5.4', 'inf', 'type dropped', 'type added', 'person twice')[action]}"
