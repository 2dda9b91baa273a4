"""The `palign` command: every recipe under a short name, from a checkout or from an installed wheel.

    palign reward --dataset_name rows.jsonl --model_name_or_path MODEL
    accelerate launch -m palign reward --config my.yaml          # several processes

A sub-command runs the file in `recipes/` and nothing else: same flags, same YAML, same output. Nothing heavy is
imported before a recipe is, so help comes at once.
"""

import gc
import importlib
import importlib.util
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from palign import __version__
from palign.cli.early_checks import (
    inherited_names,
    refuse_missing_trackers,
    refuse_unknown,
    refuse_without_others,
    values_of,
)
from palign.cli.errors import run
from palign.cli.option_file import config_path, read_options
from palign.cli.option_help import WIDTH, describe, options_of
from palign.cli.steps import announcement

__all__ = ["COMMANDS", "Command", "load_recipe", "main", "recipe_folder"]

HERE = Path(__file__).parents[1]  # the package
TRAINING = "transformers.TrainingArguments"
MODEL = "trl.ModelConfig"
READING = ("data/rows/options.py:ReadingOptions", "data/rows/columns.py:ColumnNames")
POLICY = (
    "pipelines/arguments/policy.py:PolicyArguments", *READING,
    "data/arguments.py:GroupSizes", "trainers/policy/config.py:PersonalPolicyConfig",
)  # fmt: skip
ROWS = ("data/arguments.py:DataArguments", "data/arguments.py:GroupSizes", *READING)


@dataclass(frozen=True)
class Command:
    """One sub-command.

    Attributes:
        recipe: file in `recipes/`, without its ending.
        text: what it does, in one line.
        options: `file:dataclass` of its arguments, files as seen from the package.
        inherited: classes outside the package whose fields are options, too.
        shown: the inherited options that are named in its help.
    """

    recipe: str
    text: str
    options: tuple[str, ...]
    inherited: tuple[str, ...]
    shown: str = "output_dir seed num_train_epochs learning_rate per_device_train_batch_size use_cpu report_to"


GUARD = "guard"  # the one sub-command that is no recipe
GUARD_TEXT = "looks for leaks, shortcuts and too few votes in rows before anything is trained on them"
COMMANDS = {
    "reward": Command(
        "pal_reward", "a reward model that knows who it scores for (PAL)",
        ("pipelines/arguments/reward_options.py:RewardArguments", *ROWS, "trainers/reward/options.py:HeadOptions",
         "trainers/pal_reward_config.py:PALRewardConfig"),
        (TRAINING, MODEL), "model_name_or_path use_peft lora_r output_dir seed use_cpu report_to",
    ),
    "ppo": Command(
        "ppo_pal", "PPO with the reward of the person each prompt belongs to",
        (*POLICY, "trainers/pal_grpo_config.py:GroupPolicyConfig", "trainers/pal_ppo_config.py:PALPPOConfig",
         "trainers/ppo/former_names.py:FormerNames"),
        ("trl.GRPOConfig", MODEL),
        "model_name_or_path use_peft lora_r max_steps num_iterations steps_per_generation max_completion_length "
        "learning_rate per_device_train_batch_size use_vllm output_dir seed use_cpu resume_from_checkpoint report_to",
    ),
    "grpo": Command(
        "grpo_pal", "GRPO or RLOO with the same reward, on any TRL from 1.12 on",
        (*POLICY, "pipelines/grpo.py:GRPOArguments", "trainers/pal_grpo_config.py:GroupPolicyConfig",
         "trainers/pal_grpo_config.py:PALGRPOConfig", "trainers/pal_grpo_config.py:PALRLOOConfig"),
        ("trl.GRPOConfig", "trl.RLOOConfig", MODEL),
        "model_name_or_path use_peft lora_r max_steps num_generations steps_per_generation max_completion_length "
        "learning_rate per_device_train_batch_size use_vllm output_dir seed use_cpu resume_from_checkpoint report_to",
    ),
    "em-dpo": Command(
        "em_dpo", "latent types of annotators, and one LoRA adapter for each (EM mixture-DPO)",
        ("pipelines/arguments/mixture.py:MixtureArguments", *ROWS,
         "trainers/mixture_dpo_config.py:MixtureDPOConfig"),
        (TRAINING, MODEL),
        "model_name_or_path lora_r lora_alpha num_train_epochs per_device_train_batch_size output_dir seed use_cpu "
        "resume_from_checkpoint report_to",
    ),
    "fair": Command(
        "fair_policy", "K type policies in, one fair LoRA policy out (min-max regret)",
        ("pipelines/arguments/fair.py:FairPolicyArguments", *ROWS,
         "trainers/fair_policy_config.py:FairPolicyConfig"),
        (TRAINING,),
    ),
    "metric": Command(
        "metric", "one metric of distance for all, an ideal point each, on items that are vectors",
        ("pipelines/arguments/metric.py:MetricArguments", *ROWS), (),
    ),
    "population": Command(
        "population", "how many people stand where on a line, from one answer each",
        ("pipelines/arguments/population.py:PopulationArguments", *ROWS), (),
    ),
    "evaluate": Command(
        "evaluate_fairness", "for whom a model works how well: a report by group, type and person",
        ("pipelines/arguments/evaluation.py:EvaluationArguments", *ROWS), (),
    ),
    "ask": Command(
        "ask", "which comparison tells most about a newcomer, or a whole panel, next",
        ("pipelines/arguments/ask.py:AskArguments", *ROWS), (),
    ),
    "export": Command(
        "export", "a person's reward as a stock classifier, or a mixture's adapters for vLLM",
        ("pipelines/arguments/export.py:ExportArguments",), (),
    ),
    "serve": Command(
        "serve", "rewards, or the policies of a mixture, behind HTTP",
        ("pipelines/arguments/serving.py:ServingArguments",), (),
    ),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns the exit status (2: no such sub-command or configuration; else as `errors.run`)."""
    is_own_process = argv is None  # and no program that goes on after this
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        return run("palign", lambda: print(overview()))
    if argv[0] == "--version":
        print(f"palign {__version__}")
        return 0
    name, flags = argv[0], argv[1:]
    if name == GUARD:
        from palign.data.guard import main as look

        return look(flags)
    if name not in COMMANDS:
        allowed = ", ".join([*COMMANDS, GUARD])
        print(f"palign: there is no sub-command {name!r}; choose from {allowed}.", file=sys.stderr)
        return 2
    if "-h" in flags or "--help" in flags:
        return run(f"palign {name}", lambda: print(command_help(name)))
    return run(f"palign {name}", lambda: start(name, flags, is_own_process=is_own_process))


def start(name: str, flags: Sequence[str], *, is_own_process: bool = False) -> None:
    """Run a sub-command's recipe; a configuration that cannot be read is found before its imports."""
    path = config_path(flags)
    options = {} if path is None else read_options(path)  # the parser reads it again, after seconds of imports
    known = known_options(COMMANDS[name])
    if known is not None and "--help-all" not in flags:
        refuse_unknown(flags, path, options, known)
        refuse_without_others(name, flags, options)
        refuse_missing_trackers(values_of("report_to", flags, options))
    sys.argv[0] = f"palign {name}"  # what a parser calls itself
    if os.environ.get("RANK", "0") == "0":
        print(announcement(name), flush=True)
    recipe = (load_for_good if is_own_process else load_recipe)(COMMANDS[name].recipe)
    recipe.main(["--help" if flag == "--help-all" else flag for flag in flags])


def known_options(command: Command) -> set[str] | None:
    """The names of all options of a sub-command, read from sources; None where a package's cannot be."""
    names: set[str] = set()
    for source in command.options:
        file, kind = source.split(":")
        names |= {option.name for option in options_of(HERE / file, kind)}
    for kind in command.inherited:
        inherited = inherited_names(kind)
        if inherited is None:
            return None
        names |= inherited
    return names


def recipe_folder() -> Path:
    """Where the recipes lie: inside an installed package, or beside the package in a checkout."""
    for folder in (HERE / "recipes", HERE.parent / "recipes"):
        if (folder / "pal_reward.py").is_file():
            return folder
    raise RuntimeError(
        f"No recipes lie in or beside {HERE}: this installation of palign is not whole. Install it again."
    )


def load_recipe(name: str) -> ModuleType:
    """`recipes/<name>.py` as a module; its `main(argv)` runs it."""
    spec = importlib.util.spec_from_file_location(f"palign_recipe_{name}", recipe_folder() / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_for_good(name: str) -> ModuleType:
    """The same, in a process that has no other work: what the imports make lives as long as it does.

    The garbage collector looks through all of it again and again, while modules are imported, while the recipe runs
    and as Python ends. That is about a second of processor time, and finds nothing.
    """
    gc.disable()
    try:
        return load_recipe(name)
    finally:
        gc.freeze()
        gc.enable()


def overview() -> str:
    """What `palign --help` prints."""
    texts = {name: command.text for name, command in COMMANDS.items()} | {GUARD: GUARD_TEXT}
    width = max(map(len, texts))
    lines = [f"  {name:<{width}}  {text}" for name, text in texts.items()]
    return "\n".join(
        [
            f"palign {__version__}: rewards and policies that know who they serve",
            "",
            "usage: palign SUB-COMMAND [--config FILE.yaml] [--OPTION VALUE ...]",
            "",
            *lines,
            "",
            "Every recipe that trains or evaluates runs its embedded default when nothing is given; guard takes the",
            "files to look at; ask, export and serve a trained model.",
            "palign SUB-COMMAND --help lists its options. Several processes: accelerate launch -m palign SUB-COMMAND "
            "...",
        ]
    )


def command_help(name: str) -> str:
    """What `palign SUB-COMMAND --help` prints."""
    command = COMMANDS[name]
    lines = [f"palign {name}: {command.text}", "", f"usage: palign {name} [--config FILE.yaml] [--OPTION VALUE ...]"]
    lines += ["", "  --config FILE.yaml  options by name; flags win over the file, an unknown name is an error"]
    for source in command.options:
        file, kind = source.split(":")
        lines += ["", f"{kind}:", *describe(HERE / file, kind)]
    if command.inherited:
        shown = " ".join(f"--{option}" for option in command.shown.split())
        text = f"And those of {' and '.join(command.inherited)}, {shown} among them; palign {name} --help-all lists "
        lines += ["", *textwrap.wrap(text + "every one (it takes some seconds to ask those packages).", WIDTH)]
    return "\n".join(lines)
