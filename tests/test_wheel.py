"""The wheel: what it holds, and that the command and the package work from it with no checkout in sight."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("palign", "recipes", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git knows, so that nothing of this machine's can slip in."""
    folder = tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "."]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, timeout=300)
    if "setuptools>=77" in done.stderr and "No matching distribution" in done.stderr:
        pytest.skip("setuptools, which builds the wheel, cannot be had without a network")
    assert done.returncode == 0, done.stderr[-2000:]
    return next(folder.glob("palign-*.whl"))


def packages_of(root: Path) -> set[str]:
    """Every folder below `root` that holds a module of palign, as a dotted name."""
    return {".".join(path.parent.relative_to(root).parts) for path in (root / "palign").rglob("*.py")}


def test_every_folder_of_modules_is_a_package_that_pyproject_lists(tmp_path: Path) -> None:
    """setuptools takes what is listed: a sub-package that is forgotten is missing from the wheel, in silence."""
    setting = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert len(setting["packages"]) == len(set(setting["packages"]))
    assert set(setting["packages"]) - {"palign.recipes"} == packages_of(ROOT)
    assert [name for name in packages_of(ROOT) if not (ROOT / name.replace(".", "/") / "__init__.py").is_file()] == []
    (tmp_path / "palign" / "data" / "forgotten").mkdir(parents=True)
    (tmp_path / "palign" / "data" / "forgotten" / "rows.py").touch()
    assert packages_of(tmp_path) == {"palign.data.forgotten"}


@pytest.mark.slow
def test_it_holds_the_package_and_the_recipes_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = subprocess.run(["git", "ls-files", "palign", "recipes"], cwd=ROOT, capture_output=True, text=True).stdout
    asked = {name if name.startswith("palign/") else f"palign/{name}" for name in listed.split()}
    assert held == asked
    assert {"palign/py.typed", "palign/recipes/em_dpo.py", "palign/recipes/configs/pal_reward/smoke.yaml"} <= held
    assert [name for name in held if "test" in name.split("/")[-1].removesuffix(".py").split("_")] == []


@pytest.mark.slow
def test_the_command_and_a_recipe_run_from_it(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    smoke = tmp_path / "installed" / "palign" / "recipes" / "configs" / "pal_reward" / "smoke.yaml"
    for flags in (["--help"], ["reward", "--help"], ["reward", "--config", str(smoke), "--output_dir", "out"]):
        done = subprocess.run(
            [sys.executable, "-m", "palign", *flags], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-1500:]
    assert (tmp_path / "out" / "summary.json").is_file()
    assert str(tmp_path / "installed") in subprocess.run(
        [sys.executable, "-c", "import palign; print(palign.__file__)"], cwd=tmp_path, env=environment, text=True,
        capture_output=True,
    ).stdout  # fmt: skip
