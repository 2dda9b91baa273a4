"""Which command lines of `palign reward` need no trainer of transformers, and that they are read alike."""

import dataclasses
import os
from pathlib import Path

import pytest

from palign.pipelines.arguments.reward import parse_reward_arguments
from palign.pipelines.arguments.reward_options import NoModel, parse_vector_arguments, read_reward_arguments
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.reward.options import VectorRewardConfig

VECTORS = ["--dataset_name", "rows.jsonl", "--embeddings", "items.npy"]
WHOLE = [  # lines that only the whole parser can read, or refuse
    [*VECTORS, "--logging_steps", "3"], [*VECTORS, "--report_to", "tensorboard"], [*VECTORS, "--push_to_hub", "true"],
    [*VECTORS, "--resume_from_checkpoint", "true"], [*VECTORS, "--use_peft", "true"], [*VECTORS, "--bf16", "true"],
    [*VECTORS, "--train_backbone", "true"], ["--dataset_name", "rows.jsonl", "--model_name_or_path", "lm"],
    ["--image_folder", "images", "--image_model", "clip", "--dataset_name", "rows.jsonl"],
]  # fmt: skip
WRONG = {
    "loss_type is 'mse'": ["--loss_type", "mse"],
    "head_epochs is -1": ["--head_epochs", "-1"],
    "--n_prototypes": ["--n_prototypes", "many"],
    "items are vectors or text": ["--model_name_or_path", "lm"],
    "--use_peft is given, and there is no backbone": ["--use_peft", "true"],
    "--train_backbone is given, and there is no backbone": ["--train_backbone", "true"],
    "--fit_method is 'odd'; it must be one of posterior, map, official": ["--fit_method", "odd"],
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ACCELERATE_") or name in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--seed", "7", "--disable_tqdm", "true", "--output_dir", "~/out", "--run_name", "a"],
        [*VECTORS, "--n_prototypes", "auto", "--head_epochs", "3", "--use_cpu", "--report_to", "none"],
        [*VECTORS, "--n_restarts=2", "--smooth_annotators", "false", "--group_columns", "age", "land"],
    ],
    ids=["default", "run", "auto", "fit"],
)
def test_both_parsers_read_the_same(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    *ours, args, model = read_reward_arguments(words)
    *theirs, whole, whole_model = parse_reward_arguments(words)
    assert isinstance(args, VectorRewardConfig) and isinstance(whole, PALRewardConfig)
    assert ours == theirs
    names = [field.name for field in dataclasses.fields(VectorRewardConfig) if field.name != "report_to"]
    names += ["train_backbone", "should_save", "resume_from_checkpoint"]
    assert {name: getattr(args, name) for name in names} == {name: getattr(whole, name) for name in names}
    assert args.head_fit_options() == whole.head_fit_options() and whole.report_to == []
    assert args.device.type == whole.device.type
    assert {f.name: getattr(whole_model, f.name) for f in dataclasses.fields(NoModel)} == vars(model)


@pytest.mark.parametrize("words", WHOLE, ids=lambda words: words[-2])
def test_other_lines_are_left_to_the_whole_parser(words: list[str]) -> None:
    assert parse_vector_arguments(words) is None


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_is_said_by_the_whole_parser(said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_reward_arguments([*VECTORS, *WRONG[said]])


def test_one_of_rows_and_vectors_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="neither --model_name_or_path"):
        read_reward_arguments(VECTORS[:2])
    with pytest.raises(ValueError, match="No rows are named"):
        read_reward_arguments(VECTORS[2:])


def test_a_launcher_needs_the_whole_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_vector_arguments(VECTORS) is not None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parse_vector_arguments(VECTORS) is None
