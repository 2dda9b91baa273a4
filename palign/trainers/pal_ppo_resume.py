"""What PPO knows between two updates: written with every checkpoint, and put back.

TRL's PPO loop cannot resume. A checkpoint is therefore written at the one moment when nothing is under way, as the
loop asks for its next batch, and holds what decides everything after it: weights of policy and value model that move,
optimizer, schedule, random states, where the loader stands, reward scales, the guard and the metrics so far.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from palign.data.binding import LoaderPosition
from palign.models.fsdp import divide_again
from palign.models.sharded import set_whole, whole_tensor
from palign.trainers.policy_resume import copies, guard_from, guard_words, scales_from, scales_words

if TYPE_CHECKING:
    from palign.trainers.pal_ppo_trainer import PALPPOTrainer

__all__ = ["BeginAt", "load_progress", "save_progress"]

WEIGHTS, WORDS = "trained.safetensors", "ppo.json"


class BeginAt(TrainerCallback):
    """Puts TRL's loop where the checkpoint was, after it has set its counters to zero."""

    def __init__(self, n_updates: int, log_history: list[dict[str, Any]]):
        self.n_updates, self.log_history = n_updates, log_history

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.global_step, state.episode = self.n_updates, self.n_updates * args.batch_size
        state.log_history = list(self.log_history)
        args.num_total_batches -= self.n_updates  # how many the loop has left; the trainer sets it back


def save_progress(trainer: "PALPPOTrainer", folder: Path) -> None:
    """Every process writes where its loader stands, the main one everything else that transformers does not write."""
    rank, position = trainer.accelerator.process_index, trainer.dataloader.position
    states = {"torch": position.torch_state, "n_taken": torch.tensor(position.n_taken)}
    states |= {} if position.sampler_state is None else {"sampler": position.sampler_state}
    save_file(states, folder / _loader_file(rank))
    weights = {}
    if not trainer.is_deepspeed_enabled:  # whose own checkpoint holds the weights
        for name, parameter in _trainable(trainer).items():
            values = whole_tensor(parameter)  # by all processes
            weights |= copies({name: values}) if trainer.args.should_save else {}
    if not trainer.args.should_save:
        return
    if weights:
        save_file(weights, folder / WEIGHTS)
    words = {
        "n_updates": trainer.state.global_step, "batch_size": trainer.args.batch_size,
        "n_processes": trainer.accelerator.num_processes, "history": trainer.history,
        "reward_scales": scales_words(trainer.reward.scales), **guard_words(trainer.guard, folder),
    }  # fmt: skip
    (folder / WORDS).write_text(json.dumps(words) + "\n", encoding="utf-8")


def load_progress(trainer: "PALPPOTrainer", folder: Path) -> BeginAt:
    """Put a trainer where the checkpoint was; what is returned belongs into its callbacks.

    Raises:
        ValueError: not a checkpoint of this trainer, or of other models, batches or numbers of processes.
    """
    if not (folder / WORDS).is_file():
        raise ValueError(f"{str(folder)!r} is not a checkpoint of PALPPOTrainer: it lacks {WORDS}.")
    words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
    now = {"batch_size": trainer.args.batch_size, "n_processes": trainer.accelerator.num_processes}
    wrong = [f"{name} {words[name]} (now {value})" for name, value in now.items() if words[name] != value]
    if wrong or words["n_updates"] > trainer.args.num_total_batches:
        wrong = wrong or [f"{words['n_updates']} updates, and total_episodes asks for fewer"]
        raise ValueError(
            f"The checkpoint {str(folder)!r} is of another run: {', '.join(wrong)}. Resume with the options and the "
            "number of processes of that run."
        )
    if trainer.is_deepspeed_enabled:
        from transformers.integrations.deepspeed import deepspeed_load_checkpoint

        deepspeed_load_checkpoint(trainer.model, str(folder), load_module_strict=False)
    else:
        _copy_into(_trainable(trainer), load_file(folder / WEIGHTS), folder / WEIGHTS)
    trainer._load_optimizer_and_scheduler(str(folder))
    trainer.history = words["history"]
    scales_from(trainer.reward.scales, words["reward_scales"])
    guard_from(trainer.guard, words, folder, trainer.args.device)
    states = load_file(folder / _loader_file(trainer.accelerator.process_index))
    position = LoaderPosition(states["torch"], states.get("sampler"), int(states["n_taken"]))
    trainer.dataloader.resume_at(position, lambda: trainer._load_rng_state(str(folder)))
    log_history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return BeginAt(words["n_updates"], log_history)


def _trainable(trainer: "PALPPOTrainer") -> dict[str, nn.Parameter]:
    """Parameters of policy and value model that move, by name."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    divide_again(model)
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _copy_into(parameters: dict[str, nn.Parameter], saved: dict[str, torch.Tensor], path: Path) -> None:
    fits = {name for name in parameters if name in saved and parameters[name].shape == saved[name].shape}
    different = sorted({*parameters, *saved} - fits)
    if different:
        raise ValueError(
            f"{path} is of another policy or value model: {len(different)} parameters are missing, unknown or of "
            f"another shape, first {different[0]!r}. Resume with the models and the PEFT options of that run."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            set_whole(parameter, saved[name])


def _loader_file(rank: int) -> str:
    return f"loader_{rank}.safetensors"
