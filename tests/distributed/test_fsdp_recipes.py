"""Every recipe, on two processes: FSDP2 gives what whole models (DDP) give."""

from pathlib import Path

import numpy as np
import pytest

import palign.trainers.fair_policy_trainer
import palign.trainers.mixture_dpo_trainer
import palign.trainers.pal_grpo_trainer
import palign.trainers.pal_ppo_trainer  # noqa: F401  (imported before the fork: TRL takes seconds)
from tests.distributed import ranks
from tests.distributed.fsdp_on_cpu import UNITS, launch_fsdp2
from tests.distributed.ranks import run_ranks
from tests.worlds.colour import colour_lm, colour_tokenizer
from tests.worlds.judged_models import rows_of_colours, write_rows
from tests.worlds.recipes import RECIPES, load_recipe, save_own

pytestmark = pytest.mark.slow
QUIET = ["--use_cpu", "true", "--disable_tqdm", "true"]
ADAPTERS = ["--use_peft", "true", "--lora_target_modules", "all-linear", "--policy_conditioning", "adapter"]


def run(name: str, flags: list[str], fsdp: bool) -> dict:
    """A recipe on this rank: its summary, and what was divided."""
    if fsdp:
        launch_fsdp2()
    return {"summary": load_recipe(name).main(flags), "units": list(UNITS)}


def smoke(name: str) -> list[str]:
    return ["--config", str(RECIPES / "configs" / name / "smoke.yaml"), *QUIET]


def policies_of_ones_own(folder: Path, *flags: str, trained: list[str] = ADAPTERS) -> list[str]:
    """A LoRA for each prototype and one that reads who asks, of a user's own model; or whole ones."""
    quick = ["--per_device_train_batch_size", "8", "--logging_steps", "1", "--compare_with", "prompt", *trained]
    return [*save_own(folder, folder / "out"), *QUIET, *quick, *flags]


def reward_of_ones_own(folder: Path) -> list[str]:
    """LoRA on a backbone of a user's own."""
    colour_lm().save_pretrained(folder / "base")
    colour_tokenizer().save_pretrained(folder / "base")
    rows = write_rows(folder / "rows.jsonl", rows_of_colours(96))
    quick = ["--head_epochs", "3", "--max_steps", "6", "--per_device_train_batch_size", "4", "--n_prototypes", "2"]
    return ["--model_name_or_path", str(folder / "base"), "--dataset_name", rows, *QUIET, "--use_peft", "true", *quick]


@pytest.mark.parametrize(
    "name",
    [
        "em_dpo",
        "fair_policy",
        "ppo_pal",
        "grpo_pal",
        "ppo_own",
        "grpo_own",
        "grpo_whole",
        "pal_reward",
        "evaluate_fairness",
    ],
)
def test_a_recipe_under_fsdp2_ends_as_with_whole_models(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "TIMEOUT", 500)
    recipe = {"ppo_own": "ppo_pal", "grpo_own": "grpo_pal", "grpo_whole": "grpo_pal"}.get(name, name)
    few = ["--num_generations", "4", "--max_steps", "4", "--max_completion_length", "4"]
    if name == "ppo_own":
        flags = policies_of_ones_own(
            tmp_path, "--max_steps", "8", "--num_iterations", "2", "--max_completion_length", "4"
        )
    elif name == "grpo_own":
        flags = policies_of_ones_own(tmp_path, *few)
    elif name == "grpo_whole":
        few += ["--beta", "0.1", "--learning_rate", "1e-4"]
        flags = policies_of_ones_own(tmp_path, *few, trained=["--policy_conditioning", "none"])
    elif name == "evaluate_fairness":
        flags = smoke(name)[:-2]  # it has no --disable_tqdm
    elif name == "pal_reward":
        flags = reward_of_ones_own(tmp_path)
    else:
        flags = smoke(name)
    found = {}
    for kind in ("ddp", "fsdp"):
        words = [*flags, "--output_dir", str(tmp_path / kind)]
        found[kind] = run_ranks(run, tmp_path / f"logs_{kind}", recipe, words, kind == "fsdp")[0]
    assert found["fsdp"]["units"]
    assert not found["ddp"]["units"]
    summaries = [found[kind]["summary"] for kind in ("ddp", "fsdp")]
    names = sorted(key for key in summaries[0] if "seconds" not in key)
    assert names == sorted(key for key in summaries[1] if "seconds" not in key)
    values = np.array([[summary[key] for key in names] for summary in summaries], dtype=float)
    assert np.isfinite(values).all()
    # divided processes answer until the last of them has ended, and draw on: the next training has other dropout
    same = [number for number, key in enumerate(names) if not (key.startswith("prompt/") and name.endswith("_pal"))]
    if name == "fair_policy":  # a type of the smoke run is the reference, nearly: rounding decides how it orders votes
        same = [number for number in same if not names[number].endswith("more_than_pooled/low")]
    # a relative regret has for its denominator what a type could gain, here some thousandths
    atol = np.array([5e-3 if names[number].endswith("relative_regret") else 2e-3 for number in same])
    assert (np.abs(values[1, same] - values[0, same]) <= atol).all()
