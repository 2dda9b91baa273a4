"""A warm start: before anything else the reference learns, by supervised LoRA, to say what people were asked about.

DPO moves a policy away from answers that were rejected. Where the reference would say neither the chosen nor the
rejected one, that makes none of the chosen likelier, and the types come to say something else. A pass or two over the
answers of all people, merged into the weights, gives a reference that would say them; types and baselines begin from
it. The merged model lies in `base_model` beside the adapters, and `warm_start.json` in it says what it was made of: a
run with the same rows, options and model reads it in place of training it again.
"""

import copy
import hashlib
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from palign.data.preferences import Preferences
from palign.models.adapters import disable_dropout
from palign.models.completions import TokenizedItems
from palign.models.files.mixture import BASE
from palign.models.reference_logps import base_fingerprint
from palign.parallel.deepspeed_launch import is_deepspeed_launch
from palign.parallel.fsdp_launch import is_fsdp_launch
from palign.parallel.shared_work import computed_once
from palign.reading import read_json
from palign.trainers.mixture_dpo_config import MixtureDPOConfig, WarmAnswers
from palign.writing import whole_files

__all__ = ["RECORD", "WarmStart", "nats_per_token", "unlikely_answers", "warm_start"]

logger = logging.getLogger(__name__)
RECORD = "warm_start.json"
UNLIKELY = -3.0  # nats a token; what models say of texts of their own kind lies above it
ALIKE = (
    "seed", "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "bf16", "fp16",
    "use_cpu", "disable_tqdm", "logging_steps", "optim", "dataloader_num_workers",
)  # fmt: skip


@dataclass(frozen=True)
class WarmStart:
    """A reference that has learnt to say the answers.

    Attributes:
        model: with the adapter merged into its weights; its `name_or_path` is the folder it lies in.
        record: what `warm_start.json` and mixture.json say of it.
    """

    model: PreTrainedModel
    record: dict[str, Any]


def warm_start(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Preferences,
    items: TokenizedItems,
    args: MixtureDPOConfig,
    peft_config: PeftConfig,
) -> WarmStart:
    """Train, merge and save to `args.output_dir/base_model`; or read what an earlier run of the same kind saved.

    A model that went through this warm start already is given back as it is. All processes call it.

    Args:
        model: without adapters; changed in place.
        items: token ids of `rows.items`.
        args: `sft_epochs`, `sft_answers`, `sft_learning_rate`; batches and precision are those of the types.
        peft_config: of the types; the warm start's adapter is like theirs.

    Raises:
        ValueError: the base is in four or eight bits, or weights are divided among processes.
        RuntimeError: the loss is not finite.
    """
    _check(model, args)
    numbers = _taught(rows, items, args)
    folder, before = Path(args.output_dir) / BASE, base_fingerprint(model)
    key = _key(items, numbers, args, peft_config)
    for place in (Path(str(model.name_or_path)), folder):
        record = computed_once(lambda place=place: _read_record(place))
        if record is None or record["key"] != key:
            continue
        if record["after"] == before:
            return WarmStart(model, record)
        if record["before"] == before:
            warmed = _read_model(model, place)
            if base_fingerprint(warmed) == record["after"]:
                logger.warning("The warm start is read from %s, where a run of the same kind left it.", place)
                return WarmStart(warmed, record)
    losses = _train(model, items, numbers, args, peft_config)
    record = {
        "base_model": str(model.name_or_path) or None, "epochs": args.sft_epochs, "answers": args.sft_answers,
        "learning_rate": args.sft_learning_rate, "n_answers": len(numbers), "loss": losses,
        "before": before, "after": base_fingerprint(model), "key": key,
    }  # fmt: skip
    if PartialState().is_main_process:
        with whole_files(folder, last=RECORD) as beside:
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
            (beside / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PartialState().wait_for_everyone()
    model.name_or_path = str(folder)
    return WarmStart(model, record)


def nats_per_token(rows: Preferences, items: TokenizedItems, logps: np.ndarray) -> dict[str, float]:
    """Mean log-likelihood of a completion's token under the reference: of the best items and of the others.

    Args:
        logps: (n_items,) nats, summed over completion tokens.
    """
    lengths = items.lengths - items.prompt_lengths
    best = rows.item_indices[rows.ranks == 0]
    others = rows.item_indices[rows.ranks > 0]
    parts = {"best": best, "others": others}
    return {name: float(logps[chosen].sum() / lengths[chosen].sum()) for name, chosen in parts.items() if len(chosen)}


def unlikely_answers(per_token: dict[str, float], args: MixtureDPOConfig) -> str | None:
    """What to say where the reference would hardly say the answers; None where it would."""
    best = per_token.get("best", 0.0)
    if best > UNLIKELY:
        return None
    missing = [] if args.sft_epochs else ["a warm start (--sft_epochs 2)"]
    missing += [] if args.rpo_alpha else ["the likelihood of the best answer in the loss (--rpo_alpha 1)"]
    if not missing:
        return None
    return (
        f"The reference gives the answers that people put first {best:.2f} nats a token (below {UNLIKELY:g}): it "
        "would hardly say them, and DPO by itself will not teach it to. The types may tell people apart and write "
        f"texts that nobody chose. Recommended: {' and '.join(missing)}."
    )


def _check(model: PreTrainedModel, args: MixtureDPOConfig) -> None:
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "sft_epochs is given, and the base is quantized: a warm start is merged into the weights, and these have "
            "no room for it. Warm up a model in 16 or 32 bits first (the base_model of such a run is a model folder), "
            "and name that folder as --model_name_or_path with --sft_epochs 0."
        )
    if args.deepspeed or args.fsdp or is_deepspeed_launch() or is_fsdp_launch():
        raise ValueError(
            "sft_epochs is given, and weights are divided among processes (DeepSpeed or FSDP): the warm start is made "
            "on whole models. Make it in a run of its own without that (--sft_epochs 2 --max_steps 1), and name its "
            "base_model folder as --model_name_or_path with --sft_epochs 0."
        )


def _taught(rows: Preferences, items: TokenizedItems, args: MixtureDPOConfig) -> np.ndarray:
    """Numbers of the items to learn, each once."""
    wanted = rows.ranks >= 0 if args.sft_answers == WarmAnswers.ALL else rows.ranks == 0
    return np.unique(rows.item_indices[wanted])


def _key(items: TokenizedItems, numbers: np.ndarray, args: MixtureDPOConfig, peft_config: PeftConfig) -> str:
    """Of all that the merged weights depend on beside the base they began from, 64 hex digits."""
    digest = hashlib.sha256()
    for number in numbers:
        ids = items.tokens(number).astype("<i4")
        digest.update(f"{len(ids)} {items.prompt_lengths[number]} ".encode() + ids.tobytes())
    names = ("sft_epochs", "sft_learning_rate", "seed", "per_device_train_batch_size",
             "gradient_accumulation_steps", "max_grad_norm", "bf16", "fp16", "disable_dropout")  # fmt: skip
    options = [str(getattr(args, name)) for name in names] + [PartialState().num_processes]
    adapter = {name: value for name, value in peft_config.to_dict().items() if name != "base_model_name_or_path"}
    digest.update(json.dumps([options, adapter], sort_keys=True, default=_plain).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def _read_record(folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = read_json(path, dict)
    except ValueError:  # damaged: it is trained anew
        return None
    known = {"key", "before", "after"} <= set(record)
    return record if known else None


def _read_model(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    attention = getattr(model.config, "_attn_implementation", None)
    warmed = type(model).from_pretrained(
        str(folder), dtype=model.dtype, use_safetensors=True, attn_implementation=attention
    )
    warmed.name_or_path = str(folder)
    return warmed.to(model.device).eval()


def _train(
    model: PreTrainedModel, items: TokenizedItems, numbers: np.ndarray, args: MixtureDPOConfig, peft_config: PeftConfig
) -> list[float]:
    """Merge an adapter that has learnt the items into the model; nats a token of the first and last step logged."""
    options = {name: getattr(args, name) for name in ALIKE}
    held = vars(args)  # the option has another name in later versions of transformers
    recomputes = bool(held.get("activation_checkpointing") or held.get("gradient_checkpointing"))
    if recomputes:
        options |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    settings = TrainingArguments(
        output_dir=args.output_dir, num_train_epochs=args.sft_epochs, learning_rate=args.sft_learning_rate,
        lr_scheduler_type="cosine", warmup_steps=0.1, report_to="none", save_strategy="no", logging_first_step=True,
        remove_unused_columns=False, label_names=["labels"], ddp_find_unused_parameters=False, **options,
    )  # fmt: skip
    config = copy.deepcopy(peft_config)
    config.inference_mode = False
    torch.manual_seed(args.seed)
    policy = get_peft_model(model, config)
    if args.disable_dropout:
        disable_dropout(policy)
    logger.warning("Warm start: %g epochs over %d answers (%s).", args.sft_epochs, len(numbers), args.sft_answers)
    trainer = Trainer(policy, settings, train_dataset=numbers.tolist(), data_collator=_Collator(items))
    trainer.train()
    losses = [float(log["loss"]) for log in trainer.state.log_history if "loss" in log]
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    finite = all(map(math.isfinite, losses)) and all(bool(torch.isfinite(tensor).all()) for tensor in trained)
    if not finite:
        raise RuntimeError(
            f"The loss of the warm start is not finite. Lower sft_learning_rate ({args.sft_learning_rate:g}), or "
            "train in float32."
        )
    if recomputes:
        model.gradient_checkpointing_disable()
    policy.merge_and_unload()
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.eval()
    return [losses[0], losses[-1]] if losses else []


class _Collator:
    """Item numbers → what a causal language model's own loss reads: labels are the completion's tokens."""

    def __init__(self, items: TokenizedItems):
        self.items = items

    def __call__(self, numbers: list[int]) -> dict[str, Tensor]:
        batch = self.items.collate(numbers)
        labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
        return batch | {"labels": labels}
