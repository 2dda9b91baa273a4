"""Command-line arguments of `recipes/pal_reward.py`, all of them: those of transformers and TRL included."""

import sys
from collections.abc import Sequence

from trl import ModelConfig

from palign.cli.parser import CommandLine
from palign.data.arguments import DataArguments
from palign.pipelines.arguments.reward_options import DEFAULTS, RewardArguments
from palign.trainers.checkpointing.complete import resume_point
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.writing import require_writable

__all__ = ["parse_reward_arguments"]


def parse_reward_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[RewardArguments, DataArguments, PALRewardConfig, ModelConfig]:
    """Read flags over YAML (`--config FILE.yaml`) over defaults; `CommandLine` refuses unknown names.

    Raises:
        ValueError: rows of text without a model, a model together with vectors, or a quantized one; a backbone is to
            be trained where there is none.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = CommandLine((RewardArguments, DataArguments, PALRewardConfig, ModelConfig))
    parser.set_defaults(**DEFAULTS)
    script, data_args, args, model_args = parser.parse_args_and_config(argv)
    if not data_args.are_texts and model_args.model_name_or_path is not None:
        raise ValueError(
            f"Both {data_args.items_option} and --model_name_or_path are given; items are vectors or text. Give one."
        )
    if data_args.dataset_name is not None and data_args.are_texts and model_args.model_name_or_path is None:
        raise ValueError(
            "--dataset_name is given with neither --model_name_or_path (a backbone for text) nor --embeddings (a .npy "
            "file, for rows that name vectors). Give one of the two."
        )
    if data_args.dataset_name is None and (not data_args.are_texts or model_args.model_name_or_path):
        raise ValueError("No rows are named: give --dataset_name FILE, FOLDER or a name on the hub.")
    trains = "use_peft" if model_args.use_peft else "train_backbone" if args.train_backbone else None
    if trains is not None and model_args.model_name_or_path is None:
        raise ValueError(
            f"--{trains} is given, and there is no backbone to train: vectors come ready. Leave it out, or give "
            "rows of texts and --model_name_or_path."
        )
    flag = next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(model_args, name)), None)
    if flag is not None:
        raise ValueError(f"--{flag} is for policies; the backbone of a PAL reward is read as it is. Leave it out.")
    require_writable(args.output_dir)
    if str(args.resume_from_checkpoint).lower() != "true":
        args.resume_from_checkpoint = resume_point(args.resume_from_checkpoint, args.output_dir)
    return script, data_args, args, model_args
