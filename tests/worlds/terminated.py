"""Recipes of seconds that get SIGTERM and go on with the same command: in a fork of a parent that has imported all."""

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from palign.cli.errors import run
from palign.trainers.checkpointing.terminated import SaveAndEnd
from tests.worlds.judged_models import make_model, rows_of_colours, write_rows
from tests.worlds.kills import TIMEOUT, difference
from tests.worlds.recipes import RECIPES, load_recipe

QUIET = ["--disable_tqdm", "true", "--resume_from_checkpoint", "true"]
ENDED = 128 + signal.SIGTERM


def _smoke(recipe: str, folder: Path) -> list[str]:
    return ["--config", str(RECIPES / "configs" / recipe / "smoke.yaml"), "--output_dir", str(folder)]


def _reward_lora(folder: Path) -> list[str]:
    """LoRA on a tiny language model, eight steps, checkpoints as by default."""
    source = folder.parent / "source"
    if not (source / "base").is_dir():
        source.mkdir(exist_ok=True)
        make_model("base", source)
        write_rows(source / "rows.jsonl", rows_of_colours(60))
    return [
        "--output_dir", str(folder), "--dataset_name", str(source / "rows.jsonl"), "--use_cpu", "true",
        "--model_name_or_path", str(source / "base"), "--use_peft", "true", "--lora_r", "2", "--guard", "off",
        "--lora_target_modules", "all-linear", "--n_prototypes", "2", "--head_epochs", "3", "--max_steps", "8",
        "--per_device_train_batch_size", "8",
    ]  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A recipe and the flags of a run of seconds into a folder; `adapters` are where its weights lie."""

    file: str
    flags: Callable[[Path], list[str]]
    weights: tuple[str, ...]


POLICIES = ("none/adapter_model", "prompt/adapter_model")
RECIPE_RUNS = {
    "reward": Recipe("pal_reward", lambda f: [*_smoke("pal_reward", f), *QUIET], ("model", "pooled/model")),
    "reward, LoRA": Recipe(
        "pal_reward", lambda f: [*_reward_lora(f), *QUIET], ("model", "backbone_adapter/adapter_model", "pooled/model")
    ),
    "em-dpo": Recipe(
        "em_dpo", lambda f: [*_smoke("em_dpo", f), *QUIET],
        ("type_0/adapter_model", "type_1/adapter_model", "baselines/pooled/type_0/adapter_model"),
    ),
    "ppo": Recipe("ppo_pal", lambda f: [*_smoke("ppo_pal", f), *QUIET], POLICIES),
    "grpo": Recipe("grpo_pal", lambda f: [*_smoke("grpo_pal", f), *QUIET], POLICIES),
    "fair": Recipe(
        "fair_policy",
        lambda f: [*_smoke("fair_policy", f), "--default_mixture_path", str(f / "types"), *QUIET[:2]],
        ("routes/distill/adapter_model", "routes/dro/adapter_model"),
    ),
}  # fmt: skip


def weights_of(name: str, folder: Path) -> Mapping[str, torch.Tensor]:
    """What a run ended with."""
    return {
        f"{place}.{key}": tensor
        for place in RECIPE_RUNS[name].weights
        for key, tensor in load_file(folder / f"{place}.safetensors").items()
    }


@dataclass(frozen=True)
class Moment:
    """When SIGTERM comes: so many seconds after the beginning, or within the so manieth step of training."""

    seconds: float | None = None
    step: int | None = None


def _count_steps(folder: Path, moment: Moment) -> None:
    """In the child: count the steps of all trainers, and send the signal within one of them."""
    count = 0

    def on_step_begin(*_: object, **__: object) -> None:
        nonlocal count
        count += 1
        folder.with_suffix(".steps").write_text(str(count))
        if count == moment.step:
            folder.with_suffix(".asked").write_text(str(time.monotonic()))
            os.kill(os.getpid(), signal.SIGTERM)

    SaveAndEnd.on_step_begin = on_step_begin


def n_steps(folder: Path) -> int:
    """That a run took; 0 where nothing of it has steps."""
    path = folder.with_suffix(".steps")
    return int(path.read_text()) if path.is_file() else 0


def in_child(name: str, folder: Path, moment: Moment = Moment()) -> tuple[int, float]:  # noqa: B008
    """Run a recipe in a fork, with SIGTERM at a moment; the exit status, and the seconds from the signal (or the
    beginning) to the end. What it said lies beside the folder.
    """
    recipe, start, pid = RECIPE_RUNS[name], time.monotonic(), os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no child outlives the tests
        said = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)
        status = 1
        _count_steps(folder, moment)
        try:
            status = run(name, lambda: load_recipe(recipe.file).main(recipe.flags(folder)))
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    asked = None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic()
        if done:
            noted = folder.with_suffix(".asked")
            asked = float(noted.read_text()) if moment.step is not None and noted.is_file() else asked
            return os.waitstatus_to_exitcode(status), now - (asked or start)
        if moment.seconds is not None and asked is None and now - start >= moment.seconds:
            os.kill(pid, signal.SIGTERM)
            asked = now
        if now - start > TIMEOUT:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


@dataclass
class Ended:
    """One run that was asked to end: its status, seconds until it had ended, and how far the end of what went on is
    from a whole run's.
    """

    status: int
    seconds: float
    difference: float
    said: str = ""


def end_and_go_on(name: str, folder: Path, expected: Mapping[str, torch.Tensor], moment: Moment) -> Ended:
    """SIGTERM, then the same command again."""
    status, ended_after = in_child(name, folder, moment)
    if status == ENDED:
        again, _ = in_child(name, folder)
        if again != 0:
            return Ended(again, ended_after, float("nan"), _last_words(folder))
    elif status != 0:
        return Ended(status, ended_after, float("nan"), _last_words(folder))
    return Ended(status, ended_after, difference(dict(weights_of(name, folder)), expected))


def _last_words(folder: Path) -> str:
    return folder.with_suffix(".log").read_text(errors="replace")[-3000:]
