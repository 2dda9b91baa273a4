"""Files of `scripts/` and `recipes/`, which are no modules of a package."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def load_file(path: Path, name: str) -> ModuleType:
    """A Python file as a module of that name."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_script(name: str) -> ModuleType:
    """`scripts/<name>.py` as a module."""
    return load_file(ROOT / "scripts" / f"{name}.py", name)
