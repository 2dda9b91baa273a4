"""The launcher's file against the recipe's flags: where the two contradict each other, one sentence, before a model
is loaded.

Without these checks one of the two is silently followed, or an engine fails minutes later.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palign.parallel.deepspeed_launch import is_deepspeed_launch

__all__ = ["check_launch"]

DS_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
# of DeepSpeed's file: the variable by which accelerate launch passes it on, the flag, and what decides
SHARED = {
    "gradient_accumulation_steps": ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "gradient_accumulation_steps"),
    "gradient_clipping": ("ACCELERATE_GRADIENT_CLIPPING", "max_grad_norm"),
    "train_micro_batch_size_per_gpu": (None, "per_device_train_batch_size"),
}


def check_launch(args: Any) -> None:
    """Call before `TrainingArguments` set up the processes, with the flags as they were given.

    Args:
        args: training arguments, `bf16` resolved.

    Raises:
        ValueError: number types, accumulation, clipping or batch size of the launcher are not those of the flags; or
            what is asked of a checkpoint cannot be in it.
    """
    _check_precision(args)
    held = _deepspeed_file(args)
    if is_deepspeed_launch() or held:
        _check_deepspeed(args, held)
    _check_resume(args)


def _check_precision(args: Any) -> None:
    """Number types: the reference pass and the likelihoods of EM follow the flag, training the launcher."""
    launched, flag = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower(), _precision(args)
    if launched in ("no", flag):
        return
    if launched == "fp8":
        raise ValueError(
            "The launcher's configuration says mixed_precision: fp8, which no trainer here has; set it to 'no' and "
            "give --bf16 true."
        )
    given = f"--{flag} true was given" if flag != "no" else f"--{launched} was not given"
    raise ValueError(
        f"The launcher's configuration says mixed_precision: {launched}, and {given}; set it to 'no' there, where the "
        f"flag decides, or give --{launched} true alone."
    )


def _precision(args: Any) -> str:
    return "fp16" if args.fp16 else "bf16" if args.bf16 else "no"


def _deepspeed_file(args: Any) -> Mapping[str, Any]:
    """DeepSpeed's own configuration, of `--deepspeed` or of the launcher's file; empty where there is none."""
    given = args.deepspeed or os.environ.get(DS_FILE)
    if not given or str(given).lower() == "none":
        return {}
    if isinstance(given, Mapping):
        return given
    if not Path(given).is_file():
        raise ValueError(f"DeepSpeed's configuration {str(given)!r} is no file; give the path of one, in JSON.")
    try:
        held = json.loads(Path(given).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"DeepSpeed's configuration {str(given)!r} is no JSON ({error}); correct it.") from error
    return held if isinstance(held, dict) else {}


def _check_deepspeed(args: Any, held: Mapping[str, Any]) -> None:
    for name, (variable, flag) in SHARED.items():
        said, wanted = held.get(name, os.environ.get(variable or "", "auto")), getattr(args, flag)
        number = _number(said)
        if number is not None and number != float(wanted):
            raise ValueError(
                f"DeepSpeed's configuration says {name}: {said}, and the run has --{flag} {wanted}; leave it out "
                "there, or write 'auto', and the flag decides."
            )
    for kind in ("bf16", "fp16"):
        said = held.get(kind, {}).get("enabled", "auto") if isinstance(held.get(kind, {}), Mapping) else "auto"
        if isinstance(said, bool) and said != (_precision(args) == kind):
            raise ValueError(
                f"DeepSpeed's configuration says {kind}: enabled: {str(said).lower()}, and the run has "
                f"--{kind} {str(_precision(args) == kind).lower()}; write 'auto' there, and the flag decides."
            )


def _number(said: Any) -> float | None:
    """A number that was written, None for 'auto' and what is no number."""
    try:
        return None if isinstance(said, bool) else float(said)
    except (TypeError, ValueError):
        return None


def _check_resume(args: Any) -> None:
    asked = str(args.resume_from_checkpoint).lower() not in ("none", "false")
    if asked and args.save_only_model:
        raise ValueError(
            "--resume_from_checkpoint was given with --save_only_model true, whose checkpoints have no optimizer to "
            "go on with; leave --save_only_model out, or begin anew without --resume_from_checkpoint."
        )
    if asked and args.ignore_data_skip:
        raise ValueError(
            "--resume_from_checkpoint was given with --ignore_data_skip true, under which the rows before the "
            "checkpoint would be trained on twice and others never; leave --ignore_data_skip out."
        )
