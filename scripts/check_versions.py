"""Do PPO, GRPO, RLOO and their recipes run at the lower bounds of pyproject.toml, and on the newest releases?

    python scripts/check_versions.py OLDEST [--folder FOLDER]
    python scripts/check_versions.py NEWEST

Builds an environment of its own (in FOLDER, or in a temporary one): OLDEST pins every dependency to its lower bound,
NEWEST pins none. Then it runs the tests of the policies' trainers and recipes there; its exit status is theirs.
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
    "test_advantages", "test_pal_ppo_trainer", "test_pal_ppo_arguments", "test_pal_grpo_trainer", "test_ppo_recipe",
    "test_grpo_recipe",
)  # fmt: skip
QUIET = {
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1",
}  # fmt: skip


def requirements(which: str) -> list[str]:
    """What pip is asked for: `NAME==BOUND` for OLDEST, `NAME` for NEWEST."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        asked = tomllib.load(file)["project"]["dependencies"]
    if which == "NEWEST":
        return [re.split(r"[<>=]", line)[0] for line in asked]
    return [line.replace(">=", "==", 1) for line in asked]


def main() -> int:
    """Build, run; returns the exit status of pytest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("OLDEST", "NEWEST"))
    parser.add_argument(
        "--folder", type=Path, help="Where the environment is built; kept. Default: a temporary folder."
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = folder / "bin" / "python"
        wanted = [*requirements(args.which), "pytest", "matplotlib"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        subprocess.run([str(python), "-m", "pip", "list"], check=True)
        command = [str(python), "-m", "pytest", "-q", *(f"tests/{name}.py" for name in TESTS)]
        return subprocess.run(command, cwd=ROOT, env=os.environ | QUIET | {"PYTHONPATH": str(ROOT)}).returncode


if __name__ == "__main__":
    sys.exit(main())
