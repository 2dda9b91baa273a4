"""One short training of each trainer on planted rows, the same on any number of ranks: what they are compared by."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import GRPOTrainer, RLOOTrainer

from palign import PALRewardConfig, PALRewardModel, PALRewardTrainer, PersonalizedReward
from palign.models.mixture_policy import MixturePolicy
from palign.parallel.deepspeed_launch import prepare_deepspeed
from palign.trainers.checkpointing.complete import CompleteCheckpoints
from palign.trainers.fair.route_trainer import RouteTrainer
from palign.trainers.fair_policy_config import FairPolicyConfig
from palign.trainers.fair_policy_trainer import FairPolicyTrainer
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from tests.distributed.fsdp_on_cpu import UNITS, launch_fsdp2
from tests.worlds.colour import colour_lm, colour_tokenizer, planted
from tests.worlds.group_policy import make_trainer as group_trainer
from tests.worlds.lora import lora
from tests.worlds.planted import FRESH, TRAIN, colour_rows
from tests.worlds.ppo_policy import named_rows, ppo_config, tiny_policy
from tests.worlds.tiny_policy import IdAndLength

GLOBAL_BATCH = 8
HOW = {"num_processes", "distributed_type", "wrapper", "stage", "units", "shares", "in_file"}  # not compared
DDP, ZERO_2, ZERO_3, FSDP_2 = 0, 2, 3, -2  # `stage`: of ZeRO where it is above 0
ZERO = {
    "train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto", "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto", "steps_per_print": 10_000,
}  # fmt: skip


def launched(stage: int) -> None:
    """What a launcher says before anything begins."""
    if stage == FSDP_2:
        launch_fsdp2()
    prepare_deepspeed(is_asked=stage > DDP)


def zero_config(stage: int) -> dict[str, Any] | None:
    """What an accelerate configuration of that stage of ZeRO amounts to; None for `DDP` and `FSDP_2`.

    Every tensor is divided at stage 3: those of a tiny adapter would stay whole otherwise, and hide what is wrong.
    """
    if stage <= DDP:
        return None
    options = {"stage": stage}
    if stage == 3:
        options |= {"stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    return ZERO | {"zero_optimization": options}


def common(folder: Path, stage: int, n_ranks: int, accumulation: int) -> dict[str, Any]:
    """Options of all trainers; the global batch is the same however it is divided."""
    return {
        "output_dir": str(folder), "report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_steps": 1,
        "per_device_train_batch_size": GLOBAL_BATCH // n_ranks // accumulation, "seed": 0, "max_grad_norm": 1.0,
        "gradient_accumulation_steps": accumulation, "deepspeed": zero_config(stage), "bf16": False,
        "learning_rate": 2e-3, "lr_scheduler_type": "linear", "save_strategy": "no",
    }  # fmt: skip


def how(trainer: Any) -> dict[str, Any]:
    """What really ran: the silent fall-backs to one process or to whole weights show here."""
    state = trainer.accelerator.state
    wrapped = getattr(trainer, "model_wrapped", trainer.model)
    return {
        "num_processes": state.num_processes,
        "distributed_type": state.distributed_type.value,
        "wrapper": type(wrapped).__name__,
        "stage": wrapped.zero_optimization_stage() if hasattr(wrapped, "zero_optimization_stage") else 0,
        "units": list(UNITS),
    }


def alike(
    first: dict[str, Any], second: dict[str, Any], tolerance: float = 1e-4, wider: dict[str, float] | None = None
) -> None:
    """Losses of every step, and all else that two runs tell of themselves but how they ran.

    `wider` holds tolerances of single figures.
    """
    assert first.keys() - HOW == second.keys() - HOW
    for name in first.keys() - HOW:
        if isinstance(first[name], str):
            assert first[name] == second[name], name
        else:
            within = (wider or {}).get(name, tolerance)
            np.testing.assert_allclose(first[name], second[name], atol=within, rtol=within, err_msg=name)


@contextmanager
def going_on(runs: ModuleType, name: str, further: dict[str, Any], save: Callable[..., None]) -> Iterator[None]:
    """Inside this context trainings go on from their last checkpoint, if there is one.

    The options that `runs.name` gives have further ones beside them, and `save` writes checkpoints.
    """
    given, asked = getattr(runs, name), CompleteCheckpoints.agreed_resume_point
    with (
        mock.patch.object(runs, name, lambda *arguments: given(*arguments) | further),
        mock.patch.object(CompleteCheckpoints, "_save_checkpoint", save),
        mock.patch.object(CompleteCheckpoints, "agreed_resume_point", lambda self, _: asked(self, True)),
    ):
        yield


def losses(trainer: Any) -> list[float]:
    """One for each step."""
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def divide(model: torch.nn.Module) -> None:
    """What loading a base under ZeRO-3 does: every process keeps its part of it."""
    import deepspeed

    deepspeed.zero.Init(module=model, config_dict_or_path={"train_micro_batch_size_per_gpu": 1})


def reward_model() -> PALRewardModel:
    """Of the planted rows' people, the same in every process."""
    torch.manual_seed(0)
    return PALRewardModel.from_backbone(
        colour_lm().model, tokenizer=colour_tokenizer(), annotators=planted().annotators(), n_prototypes=2,
        preference_dim=8, inner_size=16, dropout=0.0,  # every process draws its own
    )  # fmt: skip


def train_reward(folder: Path, stage: int, n_ranks: int, accumulation: int) -> dict[str, Any]:
    """PAL reward with LoRA on the backbone: embeddings, heads, then both together."""
    launched(stage)
    rows, model = planted(), reward_model()
    args = PALRewardConfig(head_epochs=3, num_train_epochs=2, **common(folder, stage, n_ranks, accumulation))
    trainer = PALRewardTrainer(model, args, rows, planted(seed=1), peft_config=lora())
    trainer.train()
    trainer.save_model()
    found = trainer.evaluate()
    return {
        **how(trainer), "loss": losses(trainer), "likelihood": found["eval_log_likelihood"],
        "scores": trainer.predict_scores(planted(seed=2), together=True).numpy().tolist(),
        "weights": trainer.accelerator.unwrap_model(trainer.model).people.all().detach().numpy().tolist(),
    }  # fmt: skip


def train_fair(folder: Path, stage: int, n_ranks: int, accumulation: int, mixture: Path) -> dict[str, Any]:
    """Draws, the game, three routes that are trained, and the measuring of all."""
    launched(stage)
    args = FairPolicyConfig(
        routes=["distill", "regress", "dro"], n_prompts=12, n_eval_prompts=8, n_samples=2, n_eval_samples=2,
        max_new_tokens=4, n_bootstrap=20, group_size=2, n_regress_rounds=2, num_train_epochs=1, max_steps=4,
        **common(folder, stage, n_ranks, accumulation),
    )  # fmt: skip
    logged: list[dict[str, float]] = []
    seen: list[dict[str, Any]] = []

    def note(self: RouteTrainer, logs: dict[str, float], *_: object) -> None:
        logged.append(logs)
        seen.append(how(self))

    trainer = FairPolicyTrainer(MixturePolicy.from_pretrained(mixture), args, colour_rows(TRAIN), colour_rows(FRESH))
    with mock.patch.object(RouteTrainer, "log", note):
        record = trainer.train()
    trainer.save_model()
    return {
        **seen[0], "loss": [logs["loss"] for logs in logged if "loss" in logs],
        "regrets": [row["max_regret"]["value"] for row in record["table"]], "chosen": record["chosen"],
        "value": record["game"]["value"]["value"],
    }  # fmt: skip


def train_ppo(folder: Path, stage: int, n_ranks: int, accumulation: int) -> dict[str, Any]:
    """PPO whose completions follow from the prompts and differ in length; advantages are whitened over all of them."""
    launched(stage)
    policy_lora = lora(4)
    policy_lora.lora_dropout = 0.0
    options = common(folder, stage, n_ranks, accumulation) | {"learning_rate": 2e-2}  # moves ratios and KL
    # where activations are computed again the steps are the same
    options["gradient_checkpointing"] = n_ranks > 1 and stage in (DDP, ZERO_2, ZERO_3)
    model, tokenizer = tiny_policy()
    trainer = PALPPOTrainer(
        model, PersonalizedReward(IdAndLength(), standardize=False),
        ppo_config(options.pop("output_dir"), **options, num_iterations=2, max_steps=6), tokenizer,
        named_rows(GLOBAL_BATCH), peft_config=policy_lora,
    )  # fmt: skip
    with mock.patch.object(GRPOTrainer, "_generate_single_turn", completions_by_prompt):
        trainer.train()
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    names = ("objective/reward", "objective/kl", "critic/explained_variance")
    weights = load_file(folder / "adapter_model.safetensors")
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    return {
        **how(trainer), "loss": [row["loss/value"] for row in trainer.state.log_history if "loss/value" in row],
        "grad_norm": norms, **{name: [row[name] for row in trainer.history] for name in names},
        "weights": np.concatenate([weights[name].numpy().ravel() for name in sorted(weights)]).tolist(),
    }  # fmt: skip


def train_group(folder: Path, stage: int, n_ranks: int, accumulation: int, algorithm: str) -> dict[str, Any]:
    """GRPO or RLOO whose completions follow from the prompts; no two of a group are of one length."""
    launched(stage)
    policy_lora = lora(4)
    policy_lora.lora_dropout = 0.0
    options = common(folder, stage, n_ranks, accumulation) | {"learning_rate": 2e-2}  # moves ratios and KL
    trainer = group_trainer(
        options.pop("output_dir"), algorithm, PersonalizedReward(IdAndLength(), standardize=False), **options,
        num_generations=4, num_iterations=2, max_steps=6, train_dataset=named_rows(GLOBAL_BATCH),
        peft_config=policy_lora,
    )  # fmt: skip
    of_trl = RLOOTrainer if isinstance(trainer, RLOOTrainer) else GRPOTrainer
    with mock.patch.object(of_trl, "_generate_single_turn", completions_by_prompt):
        trainer.train()
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    names = ("objective/reward", "grad_norm")  # TRL's `kl` is a mean of the parts' means: of parts, not of tokens
    weights = load_file(folder / "adapter_model.safetensors")
    return {
        **how(trainer), "loss": losses(trainer), **{name: [row[name] for row in trainer.history] for name in names},
        "weights": np.concatenate([weights[name].numpy().ravel() for name in sorted(weights)]).tolist(),
    }  # fmt: skip


def completions_by_prompt(trainer: Any, prompt_ids: list[list[int]], *_: Any) -> Any:
    """In place of sampling: tokens counted up from the sum of the prompt's and the place in the group."""
    found = []
    for row, ids in enumerate(prompt_ids):
        place = row % trainer.num_generations if trainer.num_generations > 1 else sum(ids) % 4
        found.append([20 + (sum(ids) + 7 * place + token) % 40 for token in range(1 + place)])
    return found if isinstance(trainer, RLOOTrainer) else (found, None)


class Interrupt(TrainerCallback):
    """Ends a training after so many steps, as if by a kill that leaves the process to tell of it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def train_mixture(
    folder: Path, stage: int, n_ranks: int, accumulation: int, m_step: str, interrupt_at: int | None = None
) -> dict[str, Any]:
    """EM mixture-DPO: a type may lack rows on one rank, and the last E-step has an odd number of batches.

    It goes on from a checkpoint in the folder, if there is one; `interrupt_at` is a step.
    """
    launched(stage)
    args = MixtureDPOConfig(
        n_types=2, n_permutations=0, n_restarts=2, num_train_epochs=2, n_rounds=2, m_step=m_step, beta=0.5,
        e_step_batch_size=5, **common(folder, stage, n_ranks, accumulation),
    )  # fmt: skip
    model = colour_lm()
    if stage == ZERO_3:
        start_deepspeed()
        divide(model)
    trainer = MixtureDPOTrainer(
        model, args, planted(), planted(seed=1), processing_class=colour_tokenizer(), peft_config=lora(),
        callbacks=[Interrupt(interrupt_at)] if interrupt_at else None,
    )  # fmt: skip
    linear = trainer.linear_scores(planted(seed=1))  # before training, as the recipe has it
    try:
        trainer.train(resume_from_checkpoint=True)
    except KeyboardInterrupt:
        return how(trainer)
    trainer.save_model()
    found = trainer.evaluate(planted(seed=1))
    return {
        **how(trainer), "loss": losses(trainer), "responsibilities": trainer.mixture.responsibilities.tolist(),
        "evidence": [row["mixture/evidence"] for row in trainer.mixture.history],
        "likelihood": found["eval_log_likelihood"], "linear": np.round(linear.numpy(), 5).tolist(),
        "scores": np.round(trainer.mixture_policy().scores(planted(seed=2), together=True).numpy(), 6).tolist(),
    }  # fmt: skip


def start_deepspeed() -> None:
    """What a launcher's environment makes Accelerate do."""
    import deepspeed

    deepspeed.init_distributed("gloo")
