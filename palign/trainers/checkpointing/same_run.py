"""Is a checkpoint of the run that would go on from it? `run.json` beside it says what decided that run.

Three things do: the training rows, by content; the options that the result depends on; and the number of processes,
among which rows and random numbers are shared out. What cannot change the result (logging, saving, evaluation,
folders, workers of a loader) is not compared.

Nor is the length (`max_steps`, `num_train_epochs`, `total_episodes`). Users of transformers expect that a run can be
made longer as it goes on: its learning rate then follows the schedule of the new length, and asked for no more than
it has done, it is finished. Where the length decides what happens before the end, the trainer says so
(`MixtureDPOTrainer`, whose rounds share out the steps).
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from transformers import TrainingArguments

from palign.data.preferences import Preferences
from palign.reading import read_json

if TYPE_CHECKING:
    from palign.trainers.policy.rows import PolicyRows

__all__ = [
    "RUN", "TRAINING_OPTIONS", "adapter_options", "deciding_options", "refuse_another_run", "rows_key", "run_record",
]  # fmt: skip

logger = logging.getLogger(__name__)
RUN = "run.json"
AT_ONCE = 2**14  # texts that are read together
# Of every `TrainingArguments`: what scores depend on, beside a trainer's options.
TRAINING_OPTIONS = (
    "seed", "data_seed", "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay",
    "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16", "fp16",
    "gradient_accumulation_steps",
)  # fmt: skip
ALSO = ("learning_rate", "per_device_train_batch_size", "train_sampling_strategy", "dataloader_drop_last",
        "neftune_noise_alpha")  # fmt: skip
OF_ADAPTERS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules")
LENGTH = {"max_steps", "num_train_epochs", "total_episodes", "num_total_batches"}
# Of a trainer's and of TRL's options: those that cannot change the result, and those that follow from others.
IDLE = {
    "push_personal_ids", "reference_cache_dir", "embedding_cache_dir", "embedding_batch_size", "e_step_batch_size",
    "n_table_rows",
    "group_column", "log_rewards_by", "num_sample_generations", "num_completions_to_print",
    "num_generations_eval", "dataset_num_proc",
    "ds3_gather_for_generation", "reward_model_path", "sft_model_path", "model_init_kwargs", "trust_remote_code",
    "world_size", "batch_size", "local_batch_size", "micro_batch_size", "mini_batch_size", "local_mini_batch_size",
    "transformers_continuous_batching_config",
}  # fmt: skip
BEFORE = {"plain_prompts": True}  # what runs did before there was an option
IDLE_BEGIN = ("log_", "vllm_server_", "vllm_group_", "vllm_gpu_", "vllm_enable_", "vllm_tensor_")


def run_record(args: TrainingArguments, rows: "Preferences | PolicyRows | None", **further: Any) -> dict[str, Any]:
    """What `run.json` holds; `further` joins the options."""
    kept = {} if rows is None else {"rows": f"{len(rows.annotator_ids)} rows, key {rows_key(rows)[:16]}"}
    options = json.loads(json.dumps(deciding_options(args) | further, default=_plain))
    return kept | {"options": options, "n_processes": args.world_size}


def deciding_options(args: TrainingArguments) -> dict[str, Any]:
    """The options that the result of a run depends on, by name."""
    known = {f.name for f in fields(TrainingArguments)}
    option_names = [f.name for f in fields(args) if f.name not in known | IDLE and not f.name.startswith(IDLE_BEGIN)]
    names = {*option_names, *TRAINING_OPTIONS, *ALSO} - LENGTH
    return {name: getattr(args, name) for name in sorted(names) if hasattr(args, name)}


def adapter_options(model: nn.Module) -> dict[str, Any]:
    """Of the first adapter on a model, what its weights do not show; nothing where there is none."""
    configs = next((m.peft_config for m in model.modules() if getattr(m, "peft_config", None)), {})
    config = next(iter(configs.values()), None)
    return {f"peft {name}": getattr(config, name) for name in OF_ADAPTERS if hasattr(config, name)}


def rows_key(rows: "Preferences | PolicyRows") -> str:
    """Of what is trained on, 64 hex digits: who judged or asked what, in order. Texts that no row reads do not enter,
    nor do further columns.
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in _parts(rows):
        digest.update(part)
    return digest.hexdigest()


def refuse_another_run(folder: str | Path, now: dict[str, Any]) -> None:
    """Compare a checkpoint with the run that would go on from it.

    A checkpoint of an earlier version has no `run.json`: it is taken with a warning, if its random states are of as
    many processes. An option that only one of two versions knows is not compared.

    Args:
        folder: of the checkpoint.
        now: `run_record` of this run.

    Raises:
        ValueError: they differ; says in what, then and now.
    """
    path = Path(folder) / RUN
    if path.is_file():
        then = read_json(path, dict, allows_nan=True)
        if not isinstance(then.get("options", {}), dict):
            raise ValueError(f"{path} is damaged: `options` is no object. Go on from another checkpoint.")
    else:
        then = _of_an_earlier_version(Path(folder))
        logger.warning("%s has no %s: whether it is of these rows and options cannot be said.", folder, RUN)
    pairs = {name: (then[name], now[name]) for name in ("rows", "n_processes") if name in then and name in now}
    options = BEFORE | then.get("options", {}) if "options" in then else {}
    pairs |= {name: (options[name], value) for name, value in now["options"].items() if name in options}
    wrong = [f"{name} {before} (now {after})" for name, (before, after) in pairs.items() if before != after]
    if wrong:
        raise ValueError(
            f"The checkpoint {str(folder)!r} is of another run: {', '.join(wrong)}. Go on with the rows, the options "
            "and the number of processes of that run; or begin another: name another output_dir, or set "
            "resume_from_checkpoint to false."
        )


def _of_an_earlier_version(folder: Path) -> dict[str, Any]:
    n_states = len(list(folder.glob("rng_state_*.pth"))) or int((folder / "rng_state.pth").is_file())
    return {"n_processes": n_states} if n_states else {}


def _parts(rows: "Preferences | PolicyRows") -> Iterator[bytes]:
    if isinstance(rows, Preferences):
        yield from _used(rows.prompt_indices, rows.prompts)
        yield from _used(rows.item_indices, rows.items)
        yield np.ascontiguousarray(rows.ranks).tobytes()
    else:
        yield from _texts(rows.prompts)
        yield from _met(rows)
    yield from _texts(rows.annotator_ids)


def _used(indices: np.ndarray, held: Sequence[Any] | None) -> Iterator[bytes]:
    """Indices numbered as they first appear, and what they name in that order; of vectors the index itself."""
    yield str(indices.shape).encode()
    if held is None:
        yield np.ascontiguousarray(indices).tobytes()
        return
    read = indices[indices >= 0]
    first = np.full(len(held), -1)
    first[read[::-1]] = np.arange(len(read))[::-1]  # the last value stays, which is where each appears first
    named = np.flatnonzero(first >= 0)
    named = named[np.argsort(first[named])]
    numbers = np.full(len(held) + 1, -1)
    numbers[named] = np.arange(len(named))
    yield numbers[indices].tobytes()
    for start in range(0, len(named), AT_ONCE):
        entries = [held[number] for number in named[start : start + AT_ONCE]]
        yield _said([entry[1] if isinstance(entry, tuple) else entry for entry in entries])  # the prompt is the row's


def _texts(values: Sequence[Any]) -> Iterator[bytes]:
    for start in range(0, len(values), AT_ONCE):
        yield _said(list(values[start : start + AT_ONCE]))


def _met(rows: "PolicyRows") -> Iterator[bytes]:
    """The prompts as the policy meets them: texts, messages or token ids."""
    if "input_ids" not in rows.dataset.column_names:
        yield from _texts(rows.dataset["prompt"])
        return
    lengths, values = hashlib.blake2b(), hashlib.blake2b()
    for chunk in rows.dataset.data.column("input_ids").chunks:
        lengths.update(np.ascontiguousarray(chunk.value_lengths().to_numpy()).data)
        values.update(np.ascontiguousarray(chunk.flatten().to_numpy()).data)
    yield lengths.digest() + values.digest()


def _said(values: list[Any]) -> bytes:
    """Lengths and texts, which takes a third of the time of JSON; what is not all text, as JSON."""
    if not all(isinstance(value, str) for value in values):
        return json.dumps(values, default=_plain, sort_keys=True).encode()
    return np.fromiter(map(len, values), np.int64).tobytes() + "".join(values).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    """What JSON cannot say: sets in order, and never an address in memory."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text
