"""Training that computes layers again, or in half precision, on a base that is loaded in parts."""

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from palign import PALRewardConfig, PALRewardModel, PALRewardTrainer
from palign.parallel.sharded import forwards, release_in_backward, trained_state
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from tests.distributed.divided_runs import IN_PARTS, TRAIN, looked_at, options, save_untrained, small_lora
from tests.distributed.equal_runs import ZERO_3, how, losses
from tests.worlds.colour import colour_tokenizer

N_LAYERS = 16  # so that one layer, which lies whole where it is computed again, is a small share of the base


def save_deep_base(folder: Path, dtype: torch.dtype = torch.float32) -> str:
    """An untrained base of many layers; its folder."""
    return save_untrained(folder, N_LAYERS, dtype=dtype)


def one_backward(folder: Path, stage: int, n_ranks: int, base: str, reentrant: bool) -> dict[str, Any]:
    """A pass under one engine, as embedding makes it; then losses and gradients under the next one, three times."""
    with looked_at(stage) as seen:
        args = MixtureDPOConfig(**options(folder, stage, n_ranks))  # says how models are loaded, as long as it lives
        model = AutoModelForCausalLM.from_pretrained(base)
        with torch.no_grad(), forwards(model.eval()):
            model(torch.arange(6)[None])
        torch.manual_seed(0)
        model = get_peft_model(model, small_lora(init_lora_weights=False)).train()  # B is not 0
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        texts = (torch.arange(6)[None] + torch.arange(2)[:, None]) % 8
        engine: Any = model
        if stage == ZERO_3:
            import deepspeed

            config = {"train_micro_batch_size_per_gpu": 1, "zero_allow_untested_optimizer": True}
            engine, *_ = deepspeed.initialize(
                model=model, optimizer=torch.optim.SGD(trained, lr=0.1),
                config=config | {"zero_optimization": IN_PARTS, "steps_per_print": 10_000},
            )  # fmt: skip
            release_in_backward(engine)
            texts = texts[[torch.distributed.get_rank()]]
        optimizer = torch.optim.SGD(trained, lr=0.1)
        seen.at("training")
        for _ in range(3):  # DeepSpeed learns the order of layers in the first two
            loss = engine(texts, labels=texts).loss
            if stage == ZERO_3:
                engine.backward(loss)
                engine.step()
            else:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        seen.at("end")
        state = trained_state(model)
        weights = torch.cat([state[name].ravel() for name in sorted(state)]).tolist()
        return {"shares": seen.shares, "weights": weights, "num_processes": args.world_size}


def half_reward(folder: Path, stage: int, n_ranks: int, base: str) -> dict[str, Any]:
    """Losses and adapters of a PAL reward after a step of plain gradient descent, accumulated twice, in bfloat16."""
    with looked_at(stage) as seen:
        args = PALRewardConfig(
            head_epochs=1, max_steps=1, embedding_cache_dir=str(folder / "vectors"),
            **half_options(folder, stage, n_ranks),
        )  # fmt: skip
        torch.manual_seed(0)
        model = PALRewardModel.from_backbone(
            base, annotators=TRAIN.annotators(), n_prototypes=2, preference_dim=8, inner_size=16, dropout=0.0,
            divided=True, dtype="bfloat16",
        )  # fmt: skip
        trainer = PALRewardTrainer(model, args, TRAIN, peft_config=small_lora())
        return trained_once(trainer, seen.shares)


def half_mixture(folder: Path, stage: int, n_ranks: int, base: str) -> dict[str, Any]:
    """The same of EM mixture-DPO."""
    with looked_at(stage) as seen:
        args = MixtureDPOConfig(
            n_types=2, n_permutations=0, n_restarts=2, max_steps=1, n_rounds=1, beta=0.5, e_step_batch_size=5,
            **half_options(folder, stage, n_ranks),
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(base)
        trainer = MixtureDPOTrainer(
            model, args, TRAIN, processing_class=colour_tokenizer(), peft_config=small_lora()
        )  # fmt: skip
        return trained_once(trainer, seen.shares)


def half_options(folder: Path, stage: int, n_ranks: int) -> dict[str, Any]:
    """Of a launch with `--bf16`; a step of gradient descent shows gradients, and Adam's first only their signs."""
    found = options(folder, stage, n_ranks)
    if stage == ZERO_3:
        found["deepspeed"] = found["deepspeed"] | {"bf16": {"enabled": "auto"}}
    further = {"gradient_accumulation_steps": 2, "gradient_checkpointing": True, "optim": "sgd", "max_grad_norm": 0.0}
    return found | further | {"bf16": True, "per_device_train_batch_size": 2, "learning_rate": 1.0}


def trained_once(trainer: Any, shares: dict[str, float]) -> dict[str, Any]:
    """How it ran, the loss, and every adapter, as large as it has become."""
    trainer.train()
    state = trained_state(trainer.accelerator.unwrap_model(trainer.model))
    names = sorted(name for name in state if "lora_B" in name)  # B begins at 0
    weights = torch.cat([state[name].ravel().double() for name in names])
    return {**how(trainer), "shares": shares, "loss": losses(trainer), "weights": weights.tolist()}
