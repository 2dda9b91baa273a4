"""Bases that FSDP2 divides as they are loaded: kinds of models, checkpoints, what is refused, Accelerate beside it."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    core_model_loading,
)
from transformers.distributed.sharding_utils import DtensorShardOperation

from palign import PALRewardConfig, PALRewardModel, PALRewardTrainer
from palign.models.files.base_files import load_whole
from palign.models.reference_logps import base_fingerprint
from palign.parallel.divided_training import average_gradients
from palign.parallel.resident import resident_share
from palign.parallel.sharded import divided_parameters
from palign.trainers.checkpointing.complete import CompleteCheckpoints
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from tests.distributed import divided_runs
from tests.distributed.divided_runs import MOST, save_base, save_reward, small_lora
from tests.distributed.equal_runs import DDP, FSDP_2, Interrupt, alike, common, going_on, launched, losses
from tests.distributed.ranks import run_ranks
from tests.worlds.colour import colour_lm, colour_tokenizer, planted

SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
MODELS: dict[str, Any] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=99, n_positions=32, n_embd=32, n_layer=2, n_head=2)),
    "bert": lambda: BertModel(BertConfig(vocab_size=99, **SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(vocab_size=99, head_dim=16, num_key_value_heads=2, **SIZES)),
}


def states(auto: Any, folder: str, stage: int) -> dict[str, Any]:
    """What a model computes, how it lies here, and how many numbers of its files were read."""
    launched(stage)
    PartialState(cpu=True)
    read: list[int] = []

    def counting(method: Any) -> Any:
        def run(*args: Any, **options: Any) -> torch.Tensor:
            tensor = method(*args, **options)
            read.append(tensor.numel())
            return tensor

        return run

    with (
        mock.patch.object(core_model_loading, "_materialize_copy", counting(core_model_loading._materialize_copy)),
        mock.patch.object(DtensorShardOperation, "shard_tensor", counting(DtensorShardOperation.shard_tensor)),
    ):
        model = load_whole(auto, folder, divided=True).eval()
    with torch.no_grad():
        output = model(input_ids=torch.arange(6)[None])[0]
    return {
        "output": output.tolist(), "share": resident_share(model), "parts": len(divided_parameters(model)),
        "key": base_fingerprint(model), "read": sum(read),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["gpt2", "bert", "qwen3"])
def test_models_of_other_kinds_are_divided(kind: str, tmp_path: Path) -> None:
    """Tied embeddings and learned positions; an encoder without a head; a head of its own."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    model.save_pretrained(tmp_path / "base")
    colour_tokenizer().save_pretrained(tmp_path / "base")
    auto = AutoModel if kind == "bert" else AutoModelForCausalLM
    (alone,) = run_ranks(states, tmp_path / "1", auto, str(tmp_path / "base"), DDP, n_ranks=1)
    assert alone["share"] == 1 and not alone["parts"]
    n_saved = sum(tensor.numel() for tensor in load_file(tmp_path / "base" / "model.safetensors").values())
    assert alone["read"] == n_saved
    for rank in run_ranks(states, tmp_path / "2", auto, str(tmp_path / "base"), FSDP_2):
        assert rank["share"] < 0.51 and rank["read"] < 0.51 * n_saved and rank["parts"] and rank["key"] == alone["key"]
        np.testing.assert_allclose(rank["output"], alone["output"], atol=1e-5)


def train_mixture(folder: Path, stage: int, base: str, interrupt_at: int | None) -> dict[str, Any]:
    """EM on a base from a folder, from the last checkpoint if there is one, up to a step."""
    launched(stage)
    options = common(folder, stage, 2, 2) | {"save_strategy": "steps", "save_steps": 1}
    args = MixtureDPOConfig(
        n_types=2, n_permutations=0, n_restarts=2, num_train_epochs=2, n_rounds=2, m_step="weighted", beta=0.5,
        e_step_batch_size=5, **options,
    )  # fmt: skip
    trainer = MixtureDPOTrainer(
        load_whole(AutoModelForCausalLM, base, divided=True), args, planted(), planted(seed=1),
        processing_class=colour_tokenizer(), peft_config=small_lora(),
        callbacks=[Interrupt(interrupt_at)] if interrupt_at else None,
    )  # fmt: skip
    try:
        trainer.train(resume_from_checkpoint=True)
    except KeyboardInterrupt:
        return {"interrupted": True}
    parts = len(divided_parameters(trainer.policies))
    trainer.save_model()
    return {"parts": parts, "loss": losses(trainer), "gamma": trainer.mixture.responsibilities.tolist()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    colour_lm().save_pretrained(folder)
    colour_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_end_of_whole_models(base: str, tmp_path: Path) -> None:
    """Accumulation, types that lack rows on a process, checkpoints that hold adapters and their optimizer alone."""
    whole = run_ranks(train_mixture, tmp_path / "w", tmp_path / "whole", DDP, base, None)[0]
    words = (tmp_path / "parts", FSDP_2, base)
    assert run_ranks(train_mixture, tmp_path / "a", *words, 3) == [{"interrupted": True}] * 2
    names = {path.name for path in (tmp_path / "parts").glob("checkpoint-*/*")}
    assert {"complete.json", "optimizer.pt"} <= names and not any("fsdp" in name for name in names)
    rank = run_ranks(train_mixture, tmp_path / "b", *words, None)[0]
    assert rank["parts"] and not whole["parts"]
    alike({**whole, "parts": rank["parts"]}, rank)


SAVING = {"save_strategy": "steps", "save_steps": 1}
UNCHANGED = {
    "judged": {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True},
    "recomputed": {"gradient_checkpointing": True},
}


def changed(
    run: str, further: dict[str, Any], stop: int | None, folder: Path, stage: int, *arguments: Any
) -> dict[str, Any]:
    """A run of a base in parts with further options, from its last checkpoint if there is one, up to a step."""
    save = CompleteCheckpoints._save_checkpoint

    def save_and_stop(self: CompleteCheckpoints, *further: Any) -> None:
        save(self, *further)
        if self.state.global_step == stop:
            raise KeyboardInterrupt

    with going_on(divided_runs, "options", further, save_and_stop):
        try:
            return getattr(divided_runs, run)(folder, stage, 2, *arguments)
        except KeyboardInterrupt:
            return {"interrupted": True}


@pytest.mark.slow
@pytest.mark.parametrize("run", ["policies", "reward"])
def test_checkpoints_of_parts_are_gone_on_with(run: str, tmp_path: Path) -> None:
    """By PPO with a judge that is in parts, too, and by a reward model; nothing is put together to write them."""
    further: list[Any] = [FSDP_2, save_base(tmp_path / "base", stage=FSDP_2)]
    if run == "policies":
        further += [save_reward(tmp_path / "judge", save_base(tmp_path / "base_1", seed=1, stage=FSDP_2)), "ppo"]
    words = (run, SAVING, 1, tmp_path / "parts", *further)
    (whole, _) = run_ranks(changed, tmp_path / "w", run, SAVING, None, tmp_path / "whole", *further)
    assert run_ranks(changed, tmp_path / "a", *words) == [{"interrupted": True}] * 2
    (rank, _) = run_ranks(changed, tmp_path / "b", run, SAVING, None, tmp_path / "parts", *further)
    assert max(whole["shares"].values()) <= MOST and max(rank["shares"].values()) <= MOST
    alike(whole, rank, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["mixture", "reward", "policies"])
def test_judging_and_recomputing_change_no_step_of_parts(run: str, tmp_path: Path) -> None:
    """Between steps a base is judged with, layers are computed again; nor does either put anything together."""
    further: list[Any] = [FSDP_2, save_base(tmp_path / "base", stage=FSDP_2)]
    if run == "policies":
        further += [save_reward(tmp_path / "judge", save_base(tmp_path / "base_1", seed=1, stage=FSDP_2)), "ppo"]
    plain = run_ranks(changed, tmp_path / "p", run, {}, None, tmp_path / "plain", *further)[0]
    for name, options in UNCHANGED.items():
        if (run, name) != ("policies", "judged"):  # which PPO is not between steps
            rank = run_ranks(changed, tmp_path / name, run, options, None, tmp_path / f"{name}o", *further)[0]
            assert max(rank["shares"].values()) <= MOST
            alike(plain, rank, 1e-5)


def refused(folder: Path, base: str) -> dict[str, Any]:
    """What is said where a divided backbone is to be trained whole, or modules of it are."""
    launched(FSDP_2)
    args = PALRewardConfig(train_backbone=True, **common(folder, FSDP_2, 2, 1))
    model = PALRewardModel.from_backbone(base, annotators=planted().annotators(), n_prototypes=2, divided=True)
    with pytest.raises(ValueError, match="loaded in parts under FSDP2, where it stays frozen") as failure:
        PALRewardTrainer(model, args, planted())
    lora = small_lora(modules_to_save=["embed_tokens"])
    model = PALRewardModel.from_backbone(base, annotators=planted().annotators(), n_prototypes=2, divided=True)
    with pytest.raises(ValueError, match="modules_to_save embed_tokens, which PEFT copies"):
        PALRewardTrainer(model, PALRewardConfig(**common(folder, FSDP_2, 2, 1)), planted(), peft_config=lora)
    return {"said": str(failure.value)}


def test_parts_are_not_trained(base: str, tmp_path: Path) -> None:
    for rank in run_ranks(refused, tmp_path, tmp_path / "out", base):
        assert "--use_peft true" in rank["said"]


def averaged() -> dict[str, Any]:
    """Gradients of a process after the mean: here 1 and 3, one that a process lacks, and one that nobody has."""
    PartialState(cpu=True)
    rank = torch.distributed.get_rank()
    both, one, none = (nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
    both.grad = torch.full((2, 3), 1.0 + 2 * rank)
    if rank:
        one.grad = torch.full((2, 3), 5.0)
    average_gradients([both, one, none])
    return {"both": both.grad.tolist(), "one": one.grad.tolist(), "none": none.grad is None}


def test_gradients_are_the_mean_over_the_processes(tmp_path: Path) -> None:
    for rank in run_ranks(averaged, tmp_path):
        assert rank == {"both": [[2.0] * 3] * 2, "one": [[2.5] * 3] * 2, "none": True}


def in_turn(folder: Path, base: str, first_divided: bool) -> dict[str, Any]:
    """Two trainings in one process: beside a base in parts, and of one that is divided in training alone."""
    launched(FSDP_2)
    found = []
    for number, divided in enumerate((first_divided, not first_divided)):
        args = PALRewardConfig(head_epochs=1, max_steps=2, **common(folder / str(number), FSDP_2, 2, 1))
        torch.manual_seed(0)
        model = PALRewardModel.from_backbone(
            base, annotators=planted().annotators(), n_prototypes=2, preference_dim=8, divided=divided
        )
        trainer = PALRewardTrainer(model, args, planted(), peft_config=small_lora())
        trainer.train()
        in_parts = sum(isinstance(held, DTensor) for held in model.parameters())
        found.append([trainer.accelerator.distributed_type.value, bool(in_parts), losses(trainer)])
    return {"found": found}


@pytest.mark.parametrize("first_divided", [True, False])
def test_trainings_follow_each_other_whatever_divides_them(base: str, tmp_path: Path, first_divided: bool) -> None:
    first, second = run_ranks(in_turn, tmp_path, tmp_path / "out", base, first_divided)[0]["found"]
    beside, within = (first, second) if first_divided else (second, first)
    assert beside[:2] == ["MULTI_GPU", True] and within[:2] == ["FSDP", False]  # which is whole again at the end
    np.testing.assert_allclose(beside[2], within[2], atol=1e-5)
