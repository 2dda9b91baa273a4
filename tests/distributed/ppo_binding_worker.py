"""One rank of the two-process PPO test; started by torchrun, writes what it saw as JSON."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))
from ppo_helpers import IdReward, SpyReward, lora, named_rows, ppo_config, tiny_policy, wrong_pairings

from palign.data.binding import BindingLoader
from palign.trainers.pal_ppo_trainer import PALPPOTrainer


class SideChannelCollator:
    """The wrong way: leaves the rows it collated last where the binding looks for people."""

    def __init__(self, collate: Any) -> None:
        self.collate, self.latest = collate, []

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        self.latest = [row["row"] for row in rows]
        return self.collate(rows)


class SideChannelLoader(BindingLoader):
    def __iter__(self) -> Any:
        side = (
            self.loader.base_dataloader.collate_fn
            if hasattr(self.loader, "base_dataloader")
            else self.loader.collate_fn
        )
        for batch in self.loader:
            self.bind(side.latest, batch)
            yield {"input_ids": batch["input_ids"]}


class SideChannelTrainer(PALPPOTrainer):
    """Binds in the collator's order instead of when the loop takes the batch; the socket looks away."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data_collator":
            value = SideChannelCollator(value)
        super().__setattr__(name, value)


def run(trainer_class: type[PALPPOTrainer], output: Path, *, looks_away: bool) -> tuple[PALPPOTrainer, dict[str, Any]]:
    model, tokenizer = tiny_policy()
    reward = SpyReward(IdReward())
    config = ppo_config(output, per_device_train_batch_size=4, total_episodes=24, num_sample_generations=1)
    trainer = trainer_class(
        model, reward, config, tokenizer, named_rows(), eval_dataset=named_rows(8), peft_config=lora()
    )
    trainer.socket.looks_away = looks_away
    if trainer_class is SideChannelTrainer:
        trainer.dataloader = SideChannelLoader(trainer.dataloader.loader, trainer._bind_training)
    trainer.train()
    socket = trainer.socket
    return trainer, {
        "n_seen": len(socket.seen),
        "n_consumed": socket.n_consumed,
        "n_wrong": wrong_pairings(socket.seen),
        "people": sorted({row.reward for row in socket.seen[:12]}),
        "chunks": socket.chunk_sizes,
    }


def main(output: Path) -> None:
    trainer, seen = run(PALPPOTrainer, output / "policy", looks_away=False)
    trainer.save_model()
    weights = torch.cat([p.detach().flatten() for p in trainer._trainable_policy_parameters().values()])
    seen |= {
        "num_processes": trainer.accelerator.num_processes,
        "distributed_type": str(trainer.accelerator.distributed_type.value),
        "is_ddp": isinstance(trainer.model, DistributedDataParallel),
        "weight_sum": weights.double().sum().item(),
        "reward": [logs["objective/reward"] for logs in trainer.history],
        "even": [logs["groups/even/reward"] for logs in trainer.history],
    }
    _, wrong = run(SideChannelTrainer, output / "wrong", looks_away=True)
    seen["n_wrong_by_side_channel"] = wrong["n_wrong"]
    try:
        run(SideChannelTrainer, output / "wrong", looks_away=False)
    except RuntimeError as error:
        seen["refused"] = str(error)
    rank = os.environ["RANK"]
    (output / f"rank_{rank}.json").write_text(json.dumps(seen), encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
