"""Accelerate's FSDP2 on CPU processes.

Accelerate looks for FSDP where processes have GPUs, and lets it lie without a word elsewhere. Here its state is told
that these have some; all that follows, in Accelerate, transformers and PyTorch, runs as it does there, over gloo.
"""

import os
from typing import Any

import torch.distributed.fsdp
import transformers.distributed.fsdp
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from tests.worlds.fsdp import fsdp2_environment

UNITS: list[str] = []  # what was divided, in turn; modules that are gathered together as one word


def launch_fsdp2() -> None:
    """Call in a rank's process before anything of Accelerate is set up."""
    os.environ |= fsdp2_environment()
    set_up, divide = PartialState.__init__, torch.distributed.fsdp.fully_shard

    def with_gpus(self: PartialState, *args: Any, **options: Any) -> None:
        set_up(self, *args, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    def counted(module: Any, **options: Any) -> Any:
        parts = module if isinstance(module, list) else [module]
        UNITS.append("+".join(type(part).__name__ for part in parts))
        return divide(module, **options)

    PartialState.__init__ = with_gpus
    torch.distributed.fsdp.fully_shard = counted
    transformers.distributed.fsdp.fully_shard = counted  # as a base is loaded
