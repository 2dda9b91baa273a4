"""One rank of the two-process GRPO and RLOO test; started by torchrun, writes what it saw as JSON."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.worlds.group_policy import ALGORITHMS, EmptyToo, make_trainer
from tests.worlds.tiny_policy import IdAndLength, SeenRow, named_rows, wrong_pairings


def run(algorithm: str, output: Path) -> dict[str, Any]:
    """Two updates of 12 completions on each process: three groups of eight, the middle one on both."""
    settings = {"per_device_train_batch_size": 12, "num_generations": 8, "train_dataset": named_rows(6)}
    settings["judge"] = lambda text, person: float(person)
    trainer = make_trainer(output, algorithm, EmptyToo(IdAndLength()), **settings)
    trainer.train()
    trainer.save_model()
    rows = [row for call in trainer.seen for row in call]
    named = [SeenRow(query=row.query, reward=math.floor(row.reward)) for row in rows]
    trained = trainer._trainable_parameters()
    return {
        "num_processes": trainer.accelerator.num_processes,
        "distributed_type": str(trainer.accelerator.distributed_type.value),
        "is_ddp": isinstance(trainer.model_wrapped, DistributedDataParallel),
        "n_wrong": wrong_pairings(named),
        "rewards": [[row.reward for row in call] for call in trainer.seen],
        "weight_sum": sum(p.detach().double().sum().item() for p in trained.values()),
        "moved": sum(p.detach().abs().sum().item() for name, p in trained.items() if "lora_B" in name),
        "history": [
            {name: value for name, value in logs.items() if name.startswith(("objective/", "groups/"))}
            for logs in trainer.history
        ],
    }


def main(output: Path) -> None:
    seen = {algorithm.value: run(algorithm, output / algorithm.value) for algorithm in ALGORITHMS}
    rank = os.environ["RANK"]
    (output / f"rank_{rank}.json").write_text(json.dumps(seen), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
