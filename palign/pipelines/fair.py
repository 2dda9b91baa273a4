"""From arguments to a mixture and rows to judge it by: what `recipes/fair_policy.py` starts from."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from transformers import AutoConfig, AutoTokenizer, TrainingArguments
from trl import ModelConfig

from palign.data.arguments import DataArguments
from palign.data.guard import GuardOptions
from palign.data.loading import read_rows
from palign.data.preferences import Preferences
from palign.data.rows.reading import print_note
from palign.data.splits import split_by_prompt
from palign.data.synthetic_optimum import best_single_policy
from palign.data.synthetic_text import POPULATIONS, gold_utility, make_prompts
from palign.data.turns import as_turns, turns_sentence
from palign.models.adapters import CONFIG
from palign.models.files.adapter_files import base_of
from palign.models.files.mixture import BASE, MixtureRecord, load_mixture
from palign.models.mixture_policy import MixturePolicy
from palign.models.model_folders import looks_like_path, require_model_folder
from palign.models.pal import PALRewardModel
from palign.models.policy_draws import readable_prompts
from palign.models.single_adapter import require_adapter_folder
from palign.parallel.one_disk import require_one_disk
from palign.parallel.sharded import divides_by_fsdp
from palign.pipelines.arguments.fair import OF_THE_MIXTURE, FairPolicyArguments
from palign.pipelines.arguments.mixture import MixtureArguments, mixture_defaults
from palign.pipelines.builtin_world import N_EVAL_PROMPTS, embedded_people, embedded_rankings
from palign.pipelines.mixture import MixtureSetup, declared_types, set_up_mixture
from palign.pipelines.run_names import run_name
from palign.trainers.fair_policy_config import MIN_PROMPTS, FairPolicyConfig
from palign.trainers.fair_policy_trainer import (
    FairPolicyTrainer,
    prompts_of,
    require_several_types,
    used_prompts,
)
from palign.trainers.mixture_dpo_config import MixtureDPOConfig, TypesFrom
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from palign.writing import write_whole

__all__ = ["FairSetup", "embedded_rows", "set_up_fair_policy", "type_labels"]

# Of `TrainingArguments`, what is of one run alone: where it writes, how long a route is, what is saved and evaluated
# on the way (nothing in a mixture), and what the launcher says of FSDP.
OF_EACH_RUN = {
    "output_dir", "max_steps", "run_name", "resume_from_checkpoint", "fsdp", "fsdp_config", "eval_strategy",
    "eval_steps", "eval_on_start", "save_strategy", "save_steps", "save_total_limit", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better", "push_to_hub", "hub_model_id", "hub_revision",
    "remove_unused_columns", "label_names", "ddp_find_unused_parameters",
}  # fmt: skip
POOLED = "baselines/pooled/type_0"
DEFAULT_POPULATION = "shared"
MADE = ".made"  # a mixture without it was interrupted; in the embedded default it holds the population's name


@dataclass
class FairSetup:
    """What a fair policy is made of.

    Attributes:
        trainer: ready to train.
        gold: (completion, type) → utility by an independent judge, where the population gives one.
        optimum: the most that one policy can give the type it serves worst, by that judge.
        group_columns: declared groups to report by; group_sizes: how large they must be.
        guard_notes: what the guard reports of the rows.
    """

    trainer: FairPolicyTrainer
    gold: Callable[[str, int], float] | None
    optimum: float | None
    group_columns: list[str]
    group_sizes: dict[str, int]
    guard_notes: list[str] = field(default_factory=list)


def set_up_fair_policy(script: FairPolicyArguments, data_args: DataArguments, args: FairPolicyConfig) -> FairSetup:
    """Check and read everything, cheapest first; where there is no mixture yet, one is trained.

    Raises:
        ValueError: rows, folders or options that cannot work; raised before any model is loaded where it can be known.
    """
    require_one_disk(args.output_dir)
    parts, notes = None, []
    if data_args.dataset_name is not None:
        parts, notes = _own_rows(script, data_args, args, _made_before(script, args))
        notes += _look_at(parts, script, data_args, args)
    folder = _mixture_folder(script, replace(data_args, guard="off") if parts else data_args, args)
    record, is_embedded = load_mixture(folder), parts is None
    require_several_types(record.n_types, args)
    population = _population(folder, script) if is_embedded else ""
    train, evaluation = embedded_rows(record, script, population) if parts is None else parts
    prompts, fresh = _prompts(script, train, evaluation, args)
    _check(folder, record, args, prompts, fresh)
    pooled = Path(script.pooled_path) if script.pooled_path else folder / POOLED
    if script.pooled_path or pooled.is_dir():
        require_adapter_folder(pooled)
    mixture = MixturePolicy.from_pretrained(
        folder, dtype=script.dtype, trust_remote_code=script.trust_remote_code,
        divided=not (args.use_vllm and divides_by_fsdp()),  # FSDP2's parts are not given to vLLM
    )  # fmt: skip
    if parts is not None:
        notes += print_note(turns_sentence(train.prompts, mixture.tokenizer, record.plain_prompts))
    names = type_labels(record, train, script.type_column)
    args.run_name = run_name(args.run_name, "fair", "policy", seed=args.seed)
    reads_pal = "pal" in args.judges or args.rl_reward == "pal"
    trainer = FairPolicyTrainer(
        mixture, args, train, evaluation, prompts=prompts, eval_prompts=fresh,
        pooled_path=pooled if pooled.is_dir() else None, type_names=names,
        pal=PALRewardModel.from_pretrained(script.pal_path, divided=True) if reads_pal else None,
    )  # fmt: skip
    groups = data_args.group_columns, data_args.group_sizes()
    if not is_embedded or names is None:
        return FairSetup(trainer, None, None, *groups, notes)
    optimum = best_single_policy(POPULATIONS[population].types).value
    return FairSetup(trainer, lambda text, k: gold_utility(text, names[k]), optimum, *groups, notes)


def _look_at(
    rows: tuple[Preferences, Preferences],
    script: FairPolicyArguments,
    data_args: DataArguments,
    args: FairPolicyConfig,
) -> list[str]:
    options = GuardOptions(
        type_column=script.type_column, prompts_are_new=data_args.eval_dataset_name is not None, seed=args.seed
    )
    return data_args.look_at(*rows, options=options)


def _mixture_folder(script: FairPolicyArguments, data_args: DataArguments, args: FairPolicyConfig) -> Path:
    """Where the mixture lies; for what is not there yet one is trained into the output folder, once."""
    if script.mixture_path is not None:
        return Path(script.mixture_path).expanduser()
    default = Path(script.default_mixture_path).expanduser()
    is_asked = script.types_from != "mixture" or any(getattr(script, name) is not None for name in OF_THE_MIXTURE)
    is_of_em_dpo = data_args.dataset_name is None and not is_asked and script.population == "opposed"
    if is_of_em_dpo and (default / "mixture.json").is_file():
        return default
    folder = Path(args.output_dir) / "mixture"
    if (folder / MADE).is_file():
        _require_as_asked(folder, script)
    else:
        _make_mixture(script, data_args, args, folder)
        write_whole(folder / MADE, "" if data_args.dataset_name else script.population or DEFAULT_POPULATION)
    return folder


def _population(folder: Path, script: FairPolicyArguments) -> str:
    """Who the embedded mixture of a folder was trained on: what stands in its marker, else those of em_dpo.py."""
    marker = folder / MADE
    held = (marker.read_text(encoding="utf-8").strip() if marker.is_file() else "") or "opposed"
    if held not in POPULATIONS or script.population not in (None, held):
        raise ValueError(
            f"{folder} holds a mixture of the population {held!r}, and --population is {script.population!r}. Leave "
            "the option out, remove that folder, or name another --output_dir."
        )
    return held


def _require_as_asked(folder: Path, script: FairPolicyArguments) -> None:
    """ValueError where the mixture that was trained first is not the one that is asked for now."""
    lora = require_adapter_folder(folder / "type_0")
    record = load_mixture(folder)
    held = {"n_types": record.n_types, "beta": record.beta, "lora_r": lora.r, "lora_alpha": lora.lora_alpha}
    for name, value in held.items():
        asked = getattr(script, name)
        if asked is not None and str(asked) not in (str(value), "auto"):
            raise ValueError(
                f"{folder} holds a mixture of {name} {value}, which this run trained first, and --{name} is {asked}. "
                "Leave the option out, remove that folder, or name another --output_dir."
            )


def embedded_rows(
    record: MixtureRecord, script: FairPolicyArguments, population: str = "opposed"
) -> tuple[Preferences, Preferences]:
    """The rows that the embedded mixture was trained on, and fresh ones of the same people, from its seed.

    Raises:
        ValueError: the mixture is of other people.
    """
    seed = record.details.get("seed", 0)
    people = embedded_people(population, len(record.annotators), seed=seed)
    if set(people.annotator_ids) != set(record.annotators.ids):
        raise ValueError(
            "The mixture was trained on people of your own, and no rows are named: give --dataset_name, the rows it "
            "was trained on (their prompts and votes are what the fair policy is made from)."
        )
    prompts = [str(prompt) for prompt in np.random.default_rng(seed).permutation(make_prompts())]
    n_each = int(np.median(record.n_rows))
    return embedded_rankings(
        people,
        prompts[N_EVAL_PROMPTS:],
        prompts[:N_EVAL_PROMPTS],
        n_each=n_each,
        n_items=script.n_items,
        seed=seed,
    )


def type_labels(record: MixtureRecord, rows: Preferences, column: str) -> list[str] | None:
    """The declared group that most people of each type belong to; None where none is declared, or two types share."""
    if column not in rows.columns:
        return None
    declared = dict(zip(rows.annotators().ids, declared_types(rows, column), strict=True))
    types = record.responsibilities.argmax(1)
    names = []
    for k in range(record.n_types):
        groups = [declared[p] for p, t in zip(record.annotators.ids, types, strict=True) if t == k and p in declared]
        names.append(max(set(groups), key=groups.count) if groups else "")
    return names if len(set(names)) == len(names) and all(names) else None


def _made_before(script: FairPolicyArguments, args: FairPolicyConfig) -> MixtureRecord | None:
    """The mixture, where there is one already."""
    folder = Path(args.output_dir) / "mixture"
    if script.mixture_path is None and not (folder / MADE).is_file():
        return None
    return load_mixture(script.mixture_path or folder)


def _own_rows(
    script: FairPolicyArguments, data_args: DataArguments, args: FairPolicyConfig, made: MixtureRecord | None
) -> tuple[tuple[Preferences, Preferences], list[str]]:
    """Rows to train on and to judge by, and what is to say of them."""
    rows, evaluation = data_args.train_rows(), data_args.eval_rows()
    if evaluation is not None:
        return (rows, evaluation), []
    if script.prompts_name is None:
        prompts_of(used_prompts(rows), args.n_prompts, seed=args.seed)
    parts = split_by_prompt(rows, fraction=script.eval_fraction, seed=args.seed)
    return (parts, []) if made is None else _held_out(rows, parts, made)


def _held_out(
    rows: Preferences, parts: tuple[Preferences, Preferences], made: MixtureRecord
) -> tuple[tuple[Preferences, Preferences], list[str]]:
    """Parts of `rows` whose second has no prompt that the types of `made` were trained on, if that can be had."""
    was_seen = made.was_trained_on(rows.prompts)
    if was_seen is None:
        return parts, [
            "mixture.json does not say which prompts the types were trained on, so that nobody can tell whether the "
            "votes that policies are judged by are held out. Give rows on other prompts (--eval_dataset_name)."
        ]
    n_seen = int(was_seen[parts[1].prompt_indices].sum())
    is_fresh = ~was_seen[rows.prompt_indices]
    n_fresh = len(np.unique(rows.prompt_indices[is_fresh]))
    if n_seen == 0 or n_fresh < MIN_PROMPTS:
        return parts, []
    return (rows.select(~is_fresh), rows.select(is_fresh)), [
        f"Judged by the votes on the {n_fresh} prompts that the mixture was not trained on; of the {len(parts[1])} "
        f"votes that --eval_fraction and --seed would have held out, {n_seen} are on prompts that it was."
    ]


def _prompts(
    script: FairPolicyArguments, train: Preferences, evaluation: Preferences, args: FairPolicyConfig
) -> tuple[list[Any], list[Any]]:
    """What the game is solved on, and what it is measured on: of the rows, or of `--prompts_name`."""
    if script.prompts_name is None:
        return used_prompts(train), used_prompts(evaluation)
    rows, name = read_rows(script.prompts_name)
    missing = next((number for number, row in enumerate(rows) if not row.get("prompt")), None)
    if missing is not None:
        raise ValueError(
            f"{name}, row {missing} (counting from 0), column 'prompt': nothing there; it has the columns "
            f"{', '.join(rows[missing])}. --prompts_name needs a prompt in every row."
        )
    prompts = prompts_of([row["prompt"] for row in rows], len(rows), seed=args.seed)
    n_fresh = max(1, round(script.eval_fraction * len(prompts)))
    return prompts[n_fresh:], prompts[:n_fresh]


def _check(folder: Path, record: MixtureRecord, args: FairPolicyConfig, train: list[Any], fresh: list[Any]) -> None:
    """What could not work, known from files alone: adapters, base, prompts."""
    base = record.base_model or str(folder / BASE)
    require_model_folder(base)
    for k in range(record.n_types):
        config = require_adapter_folder(folder / f"type_{k}")
        trained_on = base_of(config.base_model_name_or_path, folder / f"type_{k}")
        if record.base_model and trained_on and trained_on != record.base_model:
            raise ValueError(
                f"{folder / f'type_{k}' / CONFIG} says the adapter was trained on {trained_on!r}, and mixture.json "
                f"names {record.base_model!r}: types must share one base. Put the adapter of this mixture back."
            )
    prompts = prompts_of(train, args.n_prompts, seed=args.seed)
    prompts += prompts_of(fresh, args.n_eval_prompts, seed=args.seed, without=train, what="fresh")
    if not record.plain_prompts:
        prompts = as_turns(prompts)
    if looks_like_path(base):
        tokenizer_folder = folder if (folder / "tokenizer_config.json").is_file() else base
        readable_prompts(
            prompts,
            AutoTokenizer.from_pretrained(str(tokenizer_folder)),
            AutoConfig.from_pretrained(base),
            args.max_new_tokens,
        )


def _make_mixture(script: FairPolicyArguments, data_args: DataArguments, args: FairPolicyConfig, folder: Path) -> None:
    """Train a mixture first: of latent types, of declared groups, or of a PAL reward model's prototypes."""
    arguments = _mixture_arguments(script, data_args, args, folder)
    setup = set_up_mixture(*arguments, population=script.population or DEFAULT_POPULATION)
    names = [] if (Path(folder) / POOLED).is_dir() else ["pooled"]
    for name in [*names, "em"]:
        trainer = setup.trainer(name) if name == "pooled" or script.types_from == "mixture" else _given(setup, script)
        trainer.train()
        trainer.save_model()
        setup.release(trainer)
    PartialState().wait_for_everyone()


def _mixture_arguments(
    script: FairPolicyArguments, data_args: DataArguments, args: FairPolicyConfig, folder: Path
) -> tuple[MixtureArguments, DataArguments, MixtureDPOConfig, ModelConfig]:
    """What `set_up_mixture` takes: what was asked of this run, over the defaults of `recipes/em_dpo.py`.

    Raises:
        ValueError: rows of the user's, and no model; or an option that no mixture can have.
    """
    is_embedded = data_args.dataset_name is None
    if not is_embedded and script.model_name_or_path is None:
        raise ValueError(
            "There is no mixture yet: give --mixture_path, a folder that recipes/em_dpo.py wrote, or "
            "--model_name_or_path with --types_from to train one first."
        )
    shared = ("type_column", "eval_fraction", "n_items", "trust_remote_code", "lm_steps", "n_annotators")
    named = {name: getattr(script, name) for name in (*shared, "n_per_annotator")}
    asked = {name: getattr(script, name) for name in OF_THE_MIXTURE if getattr(script, name) is not None}
    of_lora = {name: asked.pop(name) for name in ("lora_r", "lora_alpha") if name in asked}
    training = {option.name: getattr(args, option.name) for option in fields(TrainingArguments)}
    training = {name: value for name, value in training.items() if name not in OF_EACH_RUN}
    training |= {"output_dir": str(folder), "plain_prompts": script.plain_prompts}
    if is_embedded:
        training |= {"num_train_epochs": script.mixture_epochs, "n_types": 3}
    of_base = {} if is_embedded else {"model_name_or_path": script.model_name_or_path, "use_peft": True}
    if script.dtype != "auto":
        of_base["dtype"] = script.dtype
    return (
        MixtureArguments(**mixture_defaults(MixtureArguments, is_embedded=is_embedded) | named),
        data_args,
        MixtureDPOConfig(**mixture_defaults(MixtureDPOConfig, is_embedded=is_embedded) | training | asked),
        ModelConfig(**mixture_defaults(ModelConfig, is_embedded=is_embedded) | of_base | of_lora),
    )


def _given(setup: MixtureSetup, script: FairPolicyArguments) -> MixtureDPOTrainer:
    """A trainer whose types are known: declared groups, or PAL's weights of each annotator."""
    if script.types_from == "declared":
        if setup.truth is None:
            raise ValueError(
                f"--types_from declared needs the group of every annotator, and the rows have no column "
                f"{script.type_column!r}. Name it with --type_column."
            )
        responsibilities = setup.declared_responsibilities()
    else:
        pal = PALRewardModel.from_pretrained(script.pal_path)
        responsibilities = pal.weights_for(setup.train_rows.annotators().ids).detach().cpu().numpy()
    setup.args.types_from = TypesFrom.GIVEN.value
    setup.args.n_types = responsibilities.shape[1]
    return MixtureDPOTrainer(
        setup.model, setup.args, setup.train_rows, setup.eval_rows, processing_class=setup.tokenizer,
        peft_config=setup.peft_config, responsibilities=responsibilities,
    )  # fmt: skip
