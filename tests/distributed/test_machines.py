"""The launch lines of docs/launch, run by two "machines" of one process each on this one."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "docs" / "launch"
LINE = re.compile(r"exec (accelerate launch .*\$RECIPE)")
TIMEOUT = 280


def line_of(text: str) -> str:
    """What runs on each machine."""
    (line,) = LINE.findall(text)
    return line


def kubernetes() -> list[dict]:
    return list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8")))


def machine(line: str, rank: int, port: int, recipe: str) -> subprocess.Popen:
    """One machine of two, with one process on the CPU."""
    environment = os.environ | {
        "LAUNCH_FILE": "accelerate_configs/cpu_2proc.yaml", "MACHINES": "2", "CARDS": "1", "HEAD": "127.0.0.1",
        "PORT": str(port), "RANK_OF_MACHINE": str(rank), "RECIPE": recipe, "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", "-c", line], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_both(line: str, recipes: list[str]) -> list[tuple[int, str]]:
    """Status and output of each machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = [machine(line, rank, port, recipe) for rank, recipe in enumerate(recipes)]
    try:
        outputs = [one.communicate(timeout=TIMEOUT)[0] for one in machines]
    finally:
        for one in machines:
            one.kill()
    return [(one.returncode, output) for one, output in zip(machines, outputs, strict=True)]


def test_both_files_have_one_line() -> None:
    job = kubernetes()[1]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    of_slurm = line_of((LAUNCH / "slurm.sbatch").read_text(encoding="utf-8"))
    assert line_of(container["command"][2]) == of_slurm
    options = shlex.split(of_slurm)
    wanted = ("--num_machines", "--machine_rank", "--num_processes", "--main_process_ip", "--main_process_port")
    assert all(option in options for option in wanted)


def test_the_batch_file_is_a_script() -> None:
    assert subprocess.run(["bash", "-n", str(LAUNCH / "slurm.sbatch")], capture_output=True).returncode == 0


def test_the_job_is_indexed_and_finds_its_head() -> None:
    service, job = kubernetes()
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    environment = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert environment["MACHINES"] == str(spec["completions"])
    # a pod of an Indexed Job has the host name <job>-<index>, and is found as <host>.<subdomain>
    assert environment["HEAD"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == int(environment["CARDS"])


@pytest.mark.slow
def test_two_machines_train_together(tmp_path: Path) -> None:
    recipe = f"recipes/em_dpo.py --config recipes/configs/em_dpo/smoke.yaml --output_dir {tmp_path / 'out'}"
    line = line_of((LAUNCH / "slurm.sbatch").read_text(encoding="utf-8"))
    for status, output in run_both(line, [recipe, recipe]):
        assert status == 0, output[-3000:]
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert not list((tmp_path / "out").glob(".one-disk-*"))


@pytest.mark.slow
def test_machines_without_a_shared_disk_are_told_so(tmp_path: Path) -> None:
    recipe = "recipes/em_dpo.py --config recipes/configs/em_dpo/smoke.yaml --output_dir"
    line = line_of((LAUNCH / "slurm.sbatch").read_text(encoding="utf-8"))
    results = run_both(line, [f"{recipe} {tmp_path / name}" for name in ("a", "b")])
    assert all(status != 0 for status, _ in results)
    assert "process(es) 1 do not see there what the main process writes" in results[0][1]
    assert "Traceback" not in results[0][1].split("do not see there")[0]
