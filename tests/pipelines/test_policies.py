"""What a user's own model, reward model and rows become before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from palign.pipelines.grpo import GRPORuns, parse_grpo_arguments
from palign.pipelines.policies import set_up_policies
from palign.trainers.pal_grpo_trainer import PALGRPOTrainer
from tests.worlds.recipes import save_own


def set_up(tmp_path: Path, *flags: str) -> GRPORuns:
    own = [*save_own(tmp_path, tmp_path / "out"), "--use_cpu", "true", "--disable_tqdm", "true"]
    few = ["--per_device_train_batch_size", "8", "--num_generations", "4", "--policy_conditioning", "none"]
    few += ["--max_completion_length", "4"]
    return set_up_policies(*parse_grpo_arguments([*own, *few, *flags]), GRPORuns)


def test_a_policy_and_its_reference_are_loaded_as_asked(tmp_path: Path) -> None:
    runs = set_up(tmp_path, "--dtype", "bfloat16", "--attn_implementation", "eager", "--model_revision", "r2")
    assert runs.model.dtype == torch.bfloat16 and runs.model.config._attn_implementation == "eager"
    assert runs.args.model_init_kwargs["revision"] == "r2"
    trainer = PALGRPOTrainer(runs.model, runs.reward, runs.args, runs.tokenizer, runs.train_rows)
    assert trainer.ref_model is not trainer.model
    assert trainer.ref_model.dtype == torch.bfloat16 and trainer.ref_model.config._attn_implementation == "eager"


def test_a_reference_of_another_precision_can_be_asked_for(tmp_path: Path) -> None:
    runs = set_up(tmp_path, "--dtype", "bfloat16", "--model_init_kwargs", '{"dtype": "float32"}')
    assert runs.model.dtype == torch.bfloat16 and runs.args.model_init_kwargs["dtype"] == "float32"


def test_too_few_rows_are_said_before_a_model_is_loaded(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("palign.pipelines.policies.PALRewardModel.from_pretrained", pytest.fail)
    with pytest.raises(
        ValueError,
        match=r"rows.jsonl without 4 held-out rows has 36 rows, and a batch is 160 completions, 4 for each row",
    ):
        set_up(tmp_path, "--per_device_train_batch_size", "160")
