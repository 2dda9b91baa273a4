"""Where answers are to be cut: percentiles by hand, and a reference that is asked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from trl import GRPOConfig

from palign.models.completions import TokenizedItems
from palign.pipelines.grpo import GRPORuns, parse_grpo_arguments
from palign.pipelines.lengths import data_length, ending_length, lengths_sentence
from palign.pipelines.policies import set_up_policies
from tests.worlds.recipes import save_own

NEVER = np.inf


@pytest.mark.parametrize(
    ("lengths", "share", "length", "reached"),
    [
        (np.arange(1, 21), 0.95, 24, 1.0),  # the 19th of twenty is 19, and 24 the next step of eight
        (np.array([*range(40, 59), NEVER]), 0.95, 64, 0.95),
        (np.array([3, 4, 5, 6]), 0.5, 16, 1.0),
        (np.array([30, NEVER, NEVER, NEVER]), 0.95, 100, 0.25),  # too few end
        (np.array([30, 300, 40, 50]), 0.95, 100, 0.75),
    ],
)
def test_the_least_length_within_which_so_many_end(
    lengths: np.ndarray, share: float, length: int, reached: float
) -> None:
    assert ending_length(lengths, share=share, limit=100) == (length, reached)


def test_percentiles_of_the_data() -> None:
    items = TokenizedItems(np.arange(60, dtype=np.int32), np.array([10, 25, 60]), np.array([4, 5, 5]), 0)
    assert lengths_sentence(items) == (
        "Completions have 10 (median) and 28 (95%) tokens, 30 at most, end marks included; prompts 5 (median), 5 at "
        "most."
    )
    assert data_length(items) == 32 and data_length(items, limit=20) == 20


def set_up(tmp_path: Path, *flags: str) -> GRPORuns:
    own = [*save_own(tmp_path, tmp_path / "out"), "--use_cpu", "true", "--disable_tqdm", "true", "--use_peft", "true"]
    few = ["--per_device_train_batch_size", "8", "--num_generations", "4", "--policy_conditioning", "none"]
    return set_up_policies(*parse_grpo_arguments([*own, *few, *flags]), GRPORuns)


def test_the_reference_is_asked_where_no_length_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    runs = set_up(tmp_path)
    said = capsys.readouterr().out
    assert f"max_completion_length is {runs.args.max_completion_length}: " in said
    assert "of 32 answers of the reference end within" in said and said.strip().splitlines()[-1][8:] in runs.reading
    given = set_up(tmp_path, "--max_completion_length", "5")
    assert given.args.max_completion_length == 5 and "answers of the reference" not in capsys.readouterr().out
    kept = set_up(tmp_path, "--ending_share", "0")
    assert kept.args.max_completion_length == GRPOConfig.max_completion_length
