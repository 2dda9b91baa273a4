"""Every recipe that trains, on two processes: FSDP2 gives what whole models (DDP) give, to the digits that sampling has."""

from pathlib import Path

import numpy as np
import pytest
import ranks
from fsdp_on_cpu import UNITS, launch_fsdp2
from ranks import run_ranks
from recipe_helpers import RECIPES, load_recipe, save_own

import palign.trainers.fair_policy_trainer
import palign.trainers.mixture_dpo_trainer
import palign.trainers.pal_grpo_trainer
import palign.trainers.pal_ppo_trainer  # noqa: F401  (imported before the fork: TRL takes seconds)

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


def policies_of_ones_own(folder: Path, *flags: str) -> list[str]:
    """A LoRA for each prototype and one that reads who asks, of a user's own model."""
    quick = ["--per_device_train_batch_size", "8", "--logging_steps", "1", "--compare_with", "prompt", *ADAPTERS]
    return [*save_own(folder, folder / "out"), *QUIET, *quick, *flags]


@pytest.mark.parametrize("name", ["em_dpo", "fair_policy", "ppo_pal", "grpo_pal", "ppo_own", "grpo_own", "pal_reward"])
def test_a_recipe_under_fsdp2_ends_as_with_whole_models(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "TIMEOUT", 500)
    recipe = {"ppo_own": "ppo_pal", "grpo_own": "grpo_pal"}.get(name, name)
    if name == "ppo_own":
        flags = policies_of_ones_own(tmp_path, "--total_episodes", "64", "--response_length", "4")
    elif name == "grpo_own":
        few = ["--num_generations", "4", "--max_steps", "4", "--max_completion_length", "4"]
        flags = policies_of_ones_own(tmp_path, *few)
    elif name == "pal_reward":
        flags = [*smoke(name), "--use_peft", "true"]
    else:
        flags = smoke(name)
    found = {}
    for kind in ("ddp", "fsdp"):
        words = [*flags, "--output_dir", str(tmp_path / kind)]
        found[kind] = run_ranks(run, tmp_path / f"logs_{kind}", recipe, words, kind == "fsdp")[0]
    assert found["fsdp"]["units"] and not found["ddp"]["units"]
    summaries = [found[kind]["summary"] for kind in ("ddp", "fsdp")]
    names = sorted(key for key in summaries[0] if "seconds" not in key)
    assert names == sorted(key for key in summaries[1] if "seconds" not in key)
    values = np.array([[summary[key] for key in names] for summary in summaries], dtype=float)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[1], values[0], atol=2e-3)
