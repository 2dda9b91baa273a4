"""Two real gloo processes train the mixture that one process with the same global batch trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from palign.models.mixture_policy import MixturePolicy
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from tests.worlds.colour import colour_lm, colour_tokenizer, planted
from tests.worlds.lora import lora

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("mixture_dpo_worker.py")), str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert len(list(folder.glob("*_rank_*.json"))) == 4, f"return code {done.returncode}\n{done.stderr[-4000:]}"
    return folder


def read(output: Path, m_step: str) -> list[dict]:
    return [json.loads((output / f"{m_step}_rank_{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


@pytest.mark.parametrize("m_step", ["sampled", "weighted"])
def test_two_processes_train_what_one_does(output: Path, tmp_path: Path, m_step: str) -> None:
    ranks = read(output, m_step)
    for rank in ranks:
        assert (rank["num_processes"], rank["distributed_type"], rank["is_ddp"]) == (2, "MULTI_CPU", True)
    args = MixtureDPOConfig(
        output_dir=str(tmp_path), n_types=2, n_permutations=0, n_restarts=2, per_device_train_batch_size=8,
        learning_rate=1e-2, num_train_epochs=2, n_rounds=2, m_step=m_step, report_to="none", use_cpu=True,
        disable_tqdm=True, max_grad_norm=0.0,
    )  # fmt: skip
    alone = MixtureDPOTrainer(colour_lm(), args, planted(), processing_class=colour_tokenizer(), peft_config=lora())
    alone.train()
    for rank in ranks:
        np.testing.assert_allclose(rank["evidence"], [r["mixture/evidence"] for r in alone.mixture.history], atol=1e-4)
        np.testing.assert_allclose(rank["responsibilities"], alone.mixture.responsibilities, atol=1e-4)
        for name, parameter in alone.policies.named_parameters():
            if "lora" in name:
                total = parameter.detach().double().sum().item()
                assert rank["adapters"][name] == pytest.approx(total, abs=2e-3), name
    assert ranks[0]["adapters"] == ranks[1]["adapters"]
    assert ranks[0]["accuracy"] == ranks[1]["accuracy"]


def test_what_two_processes_saved_loads_in_one(output: Path) -> None:
    policy = MixturePolicy.from_pretrained(output / "sampled")
    assert policy.n_types == 2
    total = {n: p.detach().double().sum().item() for n, p in policy.policies.named_parameters() if "lora" in n}
    assert total == pytest.approx(read(output, "sampled")[0]["adapters"])
