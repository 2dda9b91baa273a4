"""Command-line arguments of the recipes that train a policy, whatever trains it."""

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from transformers import TrainingArguments
from trl import ModelConfig

from palign.cli.parser import CommandLine
from palign.conditioning import PolicyConditioning
from palign.data.arguments import GroupSizes
from palign.data.rows.options import ReadingOptions
from palign.writing import require_writable

__all__ = ["PolicyArguments", "check_output", "check_quantization", "check_vllm", "parse_over"]


@dataclass
class PolicyArguments(GroupSizes, ReadingOptions):
    """What a policy is trained on, and what it is compared with."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Rows with a prompt and a person: a file, a folder, or a hub name."}
    )
    dataset_split: str | None = field(default=None, metadata={"help": "Split of a folder or hub data set."})
    group_columns: list[str] = field(default_factory=list, metadata={"help": "Further columns to report by."})
    guard: str = field(
        default="stop",
        metadata={"help": "What to do where everybody is asked only their own prompts: stop, warn, off."},
    )
    compare_with: list[str] = field(
        default_factory=list,
        metadata={"help": "Further policies to train: any of 'none', 'prompt', 'adapter'."},
    )
    earlier_dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Rows that the same people gave before, with the columns of preferences: the reference is also "
            "judged with these choices in its prompt, trained on nothing."
        },
    )
    n_shown: int = field(
        default=4, metadata={"help": "Earlier choices of --earlier_dataset_name in a prompt, at most."}
    )
    ending_share: float = field(
        default=0.95,
        metadata={
            "help": "Where --max_completion_length is not given: it is set so that this share of the reference's "
            "answers end within it, 256 at most; 0 keeps the default."
        },
    )
    n_eval_rows: int = field(default=480, metadata={"help": "Held-out rows on which policies are judged, at most."})
    lm_steps: int = field(default=250, metadata={"help": "Embedded default: steps of the language model."})
    n_annotators: int = field(default=60, metadata={"help": "Embedded default: people."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.group_sizes()
        self.compare_with = [PolicyConditioning(name).value for name in self.compare_with]
        for name in ("n_eval_rows", "lm_steps", "n_annotators", "n_shown"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.ending_share < 1:
            raise ValueError(f"--ending_share is {self.ending_share}; it must be 0 or more, and below 1.")


# Of a model of the user's: LoRA on all linear layers, at ten times the rate of whole models (docs/real_model.md)
OWN_DEFAULTS: dict[str, Any] = {"lora_target_modules": ["all-linear"], "lora_dropout": 0.0}
LORA_LEARNING_RATE = 1e-5
LENGTHS = ("max_completion_length", "response_length")  # now and formerly


def parse_over(
    kinds: Sequence[type], embedded: Mapping[str, Any], argv: Sequence[str] | None = None
) -> tuple[Any, ...]:
    """Read flags over YAML (`--config FILE.yaml`) over defaults; `CommandLine` refuses unknown names.

    Args:
        kinds: dataclasses: a `PolicyArguments`, the trainer's configuration, TRL's `ModelConfig`.
        embedded: the defaults where nothing of the user's is given, that is, without `--model_name_or_path`.
        argv: None reads the command line.

    Raises:
        ValueError: a model without the reward model and the rows that belong to it.
        SavingError: the output folder cannot be written to.
        ImportError: a quantized model is asked for, and bitsandbytes is not installed.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    script, args, model_args = CommandLine(kinds).parse_args_and_config(argv)
    check_quantization(model_args)
    if model_args.model_name_or_path is None:
        for name in ("reward_model_path", "dataset_name", "earlier_dataset_name"):
            if getattr(args, name, None) or getattr(script, name, None):
                raise ValueError(f"--{name} was given without --model_name_or_path; a policy of your own needs both.")
        parser = CommandLine(kinds)
        parser.set_defaults(**embedded)
        script, args, model_args = parser.parse_args_and_config(argv)
        script.ending_share = 0.0  # the length is known
        check_output(args)
        return script, args, model_args
    for name, value in (("reward_model_path", args.reward_model_path), ("dataset_name", script.dataset_name)):
        if not value:
            raise ValueError(
                f"--model_name_or_path was given without --{name}; a policy of your own needs a model "
                "(--model_name_or_path), a PAL reward model (--reward_model_path, a folder that recipes/pal_reward.py "
                "wrote) and rows with prompts and people (--dataset_name)."
            )
    parser = CommandLine(kinds)
    rate = {"learning_rate": LORA_LEARNING_RATE} if model_args.use_peft else {}
    parser.set_defaults(**copy.deepcopy(OWN_DEFAULTS), **rate)
    script, args, model_args = parser.parse_args_and_config(argv)
    if parser.names_in(argv).intersection(LENGTHS):
        script.ending_share = 0.0
    check_output(args)
    return script, args, model_args


def check_output(args: TrainingArguments) -> None:
    """Raise where nothing can be written, or where one checkpoint is named for several policies.

    Raises:
        SavingError: `output_dir` cannot be written to.
        ValueError: `resume_from_checkpoint` is neither true nor false.
    """
    require_writable(args.output_dir)
    if str(args.resume_from_checkpoint).lower() not in ("none", "true", "false"):
        raise ValueError(
            f"--resume_from_checkpoint is {args.resume_from_checkpoint!r}; here it is true or false: every policy "
            "goes on from the last checkpoint of its own folder."
        )


def check_vllm(args: Any, model_args: ModelConfig) -> None:
    """Raise, before any model loads, where completions are to be drawn by vLLM and cannot be.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: no model of the user's.
    """
    if args.use_vllm and find_spec("vllm") is None:
        raise ImportError(
            "--use_vllm needs the package vllm, which is not installed: pip install 'trl[vllm]', or leave --use_vllm "
            "out and generate with transformers."
        )
    if args.use_vllm and model_args.model_name_or_path is None:
        raise ValueError("--use_vllm was given without --model_name_or_path; vLLM reads the model from its folder.")


def check_quantization(model_args: ModelConfig) -> None:
    """Raise, before any model loads, where a quantized policy (QLoRA) cannot be trained.

    Raises:
        ValueError: no model of the user's, or no LoRA to train on it.
        ImportError: bitsandbytes is not installed.
    """
    flag = next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(model_args, name)), None)
    if flag is None:
        return
    if model_args.model_name_or_path is None:
        raise ValueError(f"--{flag} was given without --model_name_or_path; the embedded default is not quantized.")
    if not model_args.use_peft:
        raise ValueError(f"--{flag} was given without --use_peft; a quantized model is trained by an adapter on it.")
    if find_spec("bitsandbytes") is None:
        raise ImportError(
            f"--{flag} needs the package bitsandbytes, which is not installed: pip install bitsandbytes (a GPU is "
            f"needed, too), or leave --{flag} out and train the adapter on the model as it is."
        )
