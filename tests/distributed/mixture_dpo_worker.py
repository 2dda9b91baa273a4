"""One of two processes that train a mixture on planted rows; what it saw goes to a file."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from palign.trainers.mixture_dpo_config import MixtureDPOConfig  # noqa: E402
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer  # noqa: E402
from tests.worlds.colour import colour_lm, colour_tokenizer, planted  # noqa: E402
from tests.worlds.lora import lora  # noqa: E402


def main(output: Path, m_step: str) -> None:
    args = MixtureDPOConfig(
        output_dir=str(output / m_step), n_types=2, n_permutations=0, n_restarts=2, per_device_train_batch_size=4,
        learning_rate=1e-2, num_train_epochs=2, n_rounds=2, m_step=m_step, report_to="none", use_cpu=True,
        disable_tqdm=True, max_grad_norm=0.0,
    )  # fmt: skip
    trainer = MixtureDPOTrainer(colour_lm(), args, planted(), processing_class=colour_tokenizer(), peft_config=lora())
    trainer.train()
    trainer.save_model()
    adapters = {n: p.detach().double().sum().item() for n, p in trainer.policies.named_parameters() if "lora" in n}
    state = trainer.accelerator.state
    found = {
        "num_processes": state.num_processes,
        "distributed_type": state.distributed_type.value,
        "is_ddp": isinstance(trainer.model_wrapped, nn.parallel.DistributedDataParallel),
        "adapters": adapters,
        "responsibilities": trainer.mixture.responsibilities.tolist(),
        "evidence": [row["mixture/evidence"] for row in trainer.mixture.history],
        "accuracy": trainer.evaluate(planted(seed=1))["eval_accuracy"],
    }
    (output / f"{m_step}_rank_{state.process_index}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    for name in ("sampled", "weighted"):
        main(Path(sys.argv[1]), name)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
