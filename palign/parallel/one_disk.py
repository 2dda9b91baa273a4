"""Several machines and one output folder: asked at the start, since what would go wrong without it goes wrong late.

A checkpoint is marked complete by the main process from what lies on its disk; random states, recorded rows and
completions still to be used are written by every process. Routes of a fair policy, the answers of its policies and
checkpoints to resume from are read by every process.
"""

import os
import time
import uuid
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from palign.parallel.shared_work import computed_once

__all__ = ["n_machines", "require_one_disk"]

PATIENCE = 10.0  # seconds in which a network disk shows a new file


def n_machines() -> int:
    """Of this launch, by what torch's launcher says of it."""
    n_all, n_here = (int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return max(1, n_all // max(n_here, 1))


def require_one_disk(folder: str | Path) -> None:
    """ValueError on every process where machines of one launch do not see one folder; all must call it.

    Args:
        folder: the output directory as it was named to each process. Nothing is looked at on one machine.
    """
    if n_machines() == 1:
        return
    folder, state = Path(folder).expanduser(), PartialState()
    name = computed_once(lambda: _leave_mark(folder))
    until = time.monotonic() + PATIENCE
    while not (is_seen := (folder / name).is_file()) and time.monotonic() < until:
        time.sleep(0.2)
    blind = [rank for rank, seen in enumerate(gather_object([is_seen])) if not seen]
    if state.is_main_process:
        (folder / name).unlink(missing_ok=True)
    if blind:
        raise ValueError(
            f"--output_dir is {str(folder)!r}, and process(es) {', '.join(map(str, blind))} do not see there what the "
            f"main process writes; on {n_machines()} machines it must be one folder on a disk that all of them share, "
            "since checkpoints are written by all and read by all."
        )


def _leave_mark(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    name = f".one-disk-{uuid.uuid4().hex}"
    (folder / name).touch()
    return name
