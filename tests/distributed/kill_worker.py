"""One of two processes that train; told so, the second is killed in the midst of what it writes to a checkpoint.

Checkpoints are counted, not writes: how many writes come before the first of them is no part of what is tested.
"""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from safetensors.torch import save_file  # noqa: E402

from tests.worlds.kill_runs import READ, TRAIN  # noqa: E402
from tests.worlds.kills import KillAt, counted_writes  # noqa: E402


def main(name: str, folder: Path, kill_at: int) -> None:
    dies = kill_at > 0 and os.environ["RANK"] == "1"
    with counted_writes(KillAt(write=kill_at, file="rng_state_1.pth") if dies else None):
        TRAIN[name](folder)
    torch.distributed.barrier()
    if os.environ["RANK"] == "0":
        found = {key: tensor.contiguous() for key, tensor in READ[name](folder).items()}
        save_file(found, folder.with_name(f"{folder.name}.safetensors"))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
