"""Do PPO, GRPO, RLOO and their recipes run at the lower bounds of pyproject.toml, and on the newest releases?

    python scripts/check_versions.py OLDEST [--folder FOLDER]
    python scripts/check_versions.py NEWEST [--keep torch==2.13.0]

Builds an environment of its own (in FOLDER, or in a temporary one): OLDEST pins every dependency to its lower bound,
NEWEST pins none. `--keep` takes another release of a package instead: of torch, say, whose releases of PyPI bring CUDA
with them where no index of builds without it can be reached. Then it runs the tests of the policies' trainers and
recipes there; its exit status is theirs.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "trainers/ppo/test_advantages",
    "trainers/ppo/test_passes",
    "trainers/test_pal_ppo_trainer",
    "pipelines/test_ppo_arguments",
    "trainers/test_pal_grpo_trainer",
    "recipes/test_ppo_pal",
    "recipes/test_grpo_pal",
)
QUIET = {
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1",
}  # fmt: skip


def requirements(which: str, kept: list[str]) -> list[str]:
    """What pip is asked for: `NAME==BOUND` for OLDEST, `NAME` for NEWEST, and what is kept as it is given."""
    given = {re.split(r"[<>=]", line)[0]: line for line in kept}
    with (ROOT / "pyproject.toml").open("rb") as file:
        asked = tomllib.load(file)["project"]["dependencies"]
    names = [re.split(r"[<>=]", line)[0] for line in asked]
    bounds = names if which == "NEWEST" else [line.replace(">=", "==", 1) for line in asked]
    return [given.get(name, bound) for name, bound in zip(names, bounds, strict=True)]


def main() -> int:
    """Build, run; returns the exit status of pytest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("OLDEST", "NEWEST"))
    parser.add_argument(
        "--folder", type=Path, help="Where the environment is built; kept. Default: a temporary folder."
    )
    parser.add_argument("--keep", nargs="*", default=[], metavar="NAME==VERSION", help="Taken instead of a bound.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = folder / "bin" / "python"
        wanted = [*requirements(args.which, args.keep), "pytest", "matplotlib"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        subprocess.run([str(python), "-m", "pip", "list"], check=True)
        command = [str(python), "-m", "pytest", "-q", *(f"tests/{name}.py" for name in TESTS)]
        return subprocess.run(command, cwd=ROOT, env=os.environ | QUIET | {"PYTHONPATH": str(ROOT)}).returncode


if __name__ == "__main__":
    sys.exit(main())
