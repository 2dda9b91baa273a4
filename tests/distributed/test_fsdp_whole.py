"""Two processes under FSDP2: policies trained whole with their reference, best models, a trainer that trains twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from palign import PALRewardConfig, PALRewardTrainer, PersonalizedReward
from palign.parallel.deepspeed_launch import trained_model
from palign.parallel.fsdp import is_fsdp
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from tests.distributed.equal_runs import DDP, FSDP_2, common, launched, losses, reward_model
from tests.distributed.fsdp_on_cpu import UNITS
from tests.distributed.ranks import run_ranks
from tests.worlds.colour import colour_lm, colour_tokenizer, planted
from tests.worlds.group_policy import TRAINERS, grpo_config
from tests.worlds.lora import lora
from tests.worlds.ppo_policy import ppo_config
from tests.worlds.tiny_policy import IdAndLength, named_rows, tiny_policy

pytestmark = pytest.mark.slow


def whole_group_policy(folder: Path, stage: int, algorithm: str, base: Path, bf16: bool) -> dict[str, Any]:
    """GRPO or RLOO of all weights, measured against the model's folder."""
    launched(stage)
    args = grpo_config(
        folder, algorithm, per_device_train_batch_size=4, max_steps=3, beta=0.1, learning_rate=1e-3, bf16=bf16, seed=0,
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    reward = PersonalizedReward(IdAndLength(), standardize=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), tiny_policy()[1]
    trainer = TRAINERS[algorithm](model, reward, args, tokenizer, named_rows(16))
    trainer.train()
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    found = {name: [row[name] for row in trainer.history] for name in ("kl", "loss", "grad_norm", "objective/reward")}
    policy = trained_model(trainer)
    total = sum(p.detach().double().sum().item() for p in policy.parameters())
    saved = AutoModelForCausalLM.from_pretrained(folder)
    return {
        **found, "total": total, "saved": sum(p.detach().double().sum().item() for p in saved.parameters()),
        "units": list(UNITS), "device_map": str((args.model_init_kwargs or {}).get("device_map", "unset")),
    }  # fmt: skip


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_policy_trained_whole_is_measured_against_a_reference_computed_as_it_is(
    tmp_path: Path, algorithm: str, bf16: bool
) -> None:
    model, tokenizer = tiny_policy()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    ddp, fsdp = (
        run_ranks(whole_group_policy, tmp_path / f"l{stage}", tmp_path / f"o{stage}", stage, algorithm,
                  tmp_path / "base", bf16)[0]
        for stage in (DDP, FSDP_2)
    )  # fmt: skip
    layers = fsdp["units"].count("LlamaDecoderLayer")
    assert layers == 2 * model.config.num_hidden_layers  # the policy's and the reference's
    assert fsdp["device_map"] == "None"
    for name in ("kl", "loss", "grad_norm", "objective/reward"):
        np.testing.assert_allclose(fsdp[name], ddp[name], atol=1e-5, rtol=1e-4, err_msg=name)
    assert fsdp["total"] == pytest.approx(ddp["total"], abs=1e-3) and fsdp["saved"] == pytest.approx(fsdp["total"])


def saved_base(folder: Path) -> Path:
    model, tokenizer = tiny_policy()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return folder / "base"


def whole_ppo_policy(folder: Path, stage: int, base: Path, bf16: bool, dtype: str) -> dict[str, Any]:
    launched(stage)
    args = ppo_config(
        folder, max_steps=3, per_device_train_batch_size=4, learning_rate=1e-4, seed=0, bf16=bf16, critic="layers:1",
        model_init_kwargs={"dtype": dtype},
    )  # fmt: skip
    reward = PersonalizedReward(IdAndLength(), standardize=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base, dtype=dtype), tiny_policy()[1]
    trainer = PALPPOTrainer(model, reward, args, tokenizer, named_rows(16))
    trainer.train()
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    names = ("objective/kl", "objective/reward", "critic/explained_variance")
    found = {name: [row[name] for row in trainer.history] for name in names}
    found["loss"] = [row["loss/value"] for row in trainer.state.log_history if "loss/value" in row]
    policy = trained_model(trainer)
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    return {
        **found, "is_divided": is_fsdp(policy), "patched": "forward" in policy.__dict__,
        "saved": sum(p.detach().double().sum().item() for p in saved.parameters()),
    }  # fmt: skip


@pytest.mark.parametrize("bf16", [False, True])
def test_ppo_of_all_weights_takes_the_steps_of_ddp(tmp_path: Path, bf16: bool) -> None:
    base = saved_base(tmp_path)
    ddp, fsdp = (
        run_ranks(whole_ppo_policy, tmp_path / f"l{stage}", tmp_path / f"o{stage}", stage, base, bf16, "float32")[0]
        for stage in (DDP, FSDP_2)
    )
    assert not fsdp.pop("is_divided") and fsdp.pop("patched") == ddp["patched"]  # by TRL, from 1.13 on, or by nobody
    for name in fsdp:
        np.testing.assert_allclose(fsdp[name], ddp[name], atol=1e-4, rtol=1e-4, err_msg=name)


def test_two_number_types_that_are_trained_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"held in bfloat16 and float32(.|\n)*Give --bf16 true"):
        run_ranks(whole_ppo_policy, tmp_path / "l", tmp_path / "o", FSDP_2, saved_base(tmp_path), False, "bfloat16")


def best_of(folder: Path, stage: int, kind: str) -> dict[str, Any]:
    """The best is the one of least likelihood, so that it is not the last; then trained again by the same trainer."""
    launched(stage)
    options = common(folder, DDP, 2, 1) | {
        "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
        "load_best_model_at_end": True, "metric_for_best_model": "log_likelihood", "greater_is_better": False,
    }  # fmt: skip
    if kind == "mixture":
        args: Any = MixtureDPOConfig(n_types=2, n_permutations=0, n_restarts=2, num_train_epochs=1, n_rounds=2,
                                     beta=0.5, **options)  # fmt: skip
        trainer: Any = MixtureDPOTrainer(
            colour_lm(), args, planted(), planted(seed=1), processing_class=colour_tokenizer(), peft_config=lora()
        )
    else:
        args = PALRewardConfig(head_epochs=2, num_train_epochs=2, **options)
        trainer = PALRewardTrainer(reward_model(), args, planted(), planted(seed=1), peft_config=lora())
    trainer.train()
    best, logged = trainer.state.best_model_checkpoint, losses(trainer)
    found = trainer.evaluate()["eval_log_likelihood"]
    trainer.args.load_best_model_at_end = False
    trainer.args.max_steps = trainer.state.global_step
    trainer.train()
    return {"best": Path(best).name, "steps": len(logged), "loss": logged, "found": found, "again": losses(trainer)}


@pytest.mark.parametrize("kind", ["mixture", "reward"])
def test_the_best_model_is_loaded_and_trained_again(tmp_path: Path, kind: str) -> None:
    ddp, fsdp = (
        run_ranks(best_of, tmp_path / f"l{stage}", tmp_path / f"o{stage}", stage, kind)[0] for stage in (DDP, FSDP_2)
    )
    assert ddp["best"] == fsdp["best"] != f"checkpoint-{ddp['steps']}"
    np.testing.assert_allclose(fsdp["loss"], ddp["loss"], atol=1e-3, rtol=1e-3)
    assert fsdp["found"] == pytest.approx(ddp["found"], abs=1e-3)
    assert len(fsdp["again"]) > 0


def to_a_checkpoint(folder: Path, stage: int) -> dict[str, Any]:
    launched(stage)
    options = common(folder, DDP, 2, 1) | {"save_strategy": "steps", "save_steps": 1}
    args = MixtureDPOConfig(n_types=2, n_permutations=0, n_restarts=2, max_steps=2, n_rounds=1, **options)
    trainer = MixtureDPOTrainer(colour_lm(), args, planted(), processing_class=colour_tokenizer(), peft_config=lora())
    trainer.train(resume_from_checkpoint=True)
    return {}


@pytest.mark.parametrize(("first", "second"), [(DDP, FSDP_2), (FSDP_2, DDP)])
def test_a_checkpoint_of_another_launch_is_refused(tmp_path: Path, first: int, second: int) -> None:
    """Said by all processes at once; one of them waited for ever."""
    run_ranks(to_a_checkpoint, tmp_path / "a", tmp_path / "o", first)
    with pytest.raises(AssertionError, match=rf"FSDP2 {first == FSDP_2} \(now {second == FSDP_2}\)"):
        run_ranks(to_a_checkpoint, tmp_path / "b", tmp_path / "o", second)
