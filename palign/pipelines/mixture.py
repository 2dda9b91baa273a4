"""From arguments to rows, a language model and one trainer after another: what `recipes/em_dpo.py` starts from."""

import copy
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import PeftConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import ModelConfig, get_peft_config, get_quantization_config

from palign.data.arguments import DataArguments
from palign.data.guard import GuardOptions
from palign.data.preferences import Preferences
from palign.data.rendering import require_template
from palign.data.rows.reading import print_note
from palign.data.splits import hold_out, split_by_prompt
from palign.data.turns import reads_plain, turns_sentence
from palign.data.vote_counts import count_votes
from palign.models.completions import TokenizedItems
from palign.models.files.mixture import named_base
from palign.models.model_folders import read_tokenizer, require_model_folder
from palign.models.reference_logps import base_fingerprint
from palign.parallel.divided_loading import from_pretrained
from palign.parallel.one_disk import require_one_disk
from palign.parallel.sharded import divides_by_fsdp, leave_engine
from palign.parallel.shared_work import computed_once
from palign.pipelines.arguments.mixture import DEFAULT_SPREAD, MixtureArguments
from palign.pipelines.builtin_world import embedded_rankings, make_embedded_default
from palign.pipelines.lengths import data_length, lengths_sentence
from palign.pipelines.memory.room import refuse_without_room
from palign.pipelines.run_names import run_name
from palign.trainers.checkpointing.finished import keep_finished, options_key, read_finished
from palign.trainers.checkpointing.same_run import TRAINING_OPTIONS
from palign.trainers.mixture.row_betas import drawn_betas
from palign.trainers.mixture.warm_start import warm_start
from palign.trainers.mixture_dpo_config import MixtureDPOConfig, TypesFrom
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer

__all__ = ["MixtureSetup", "declared_types", "set_up_mixture"]


@dataclass
class MixtureSetup:
    """What the mixture and its baselines share.

    Attributes:
        model: the language model to start from, and the reference; without adapters between two trainings.
        tokenizer: of `model`.
        train_rows, eval_rows: judgements.
        args: of the mixture.
        peft_config: of every adapter.
        truth: (n_annotators,) the declared type of each annotator of `train_rows`; None where there is none.
        group_columns: declared groups to report by; group_sizes: how large they must be.
        guard_notes: how rows were held out, and what the guard reports of them.
        base_name: the language model by a name.
        beta_spread: of ln β over rows, in the baseline 'drawn_beta'.
        dealt: rows that `train_rows` and `eval_rows` were dealt from; None where rows to evaluate on were named.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train_rows: Preferences
    eval_rows: Preferences
    args: MixtureDPOConfig
    peft_config: PeftConfig
    truth: np.ndarray | None
    group_columns: list[str]
    group_sizes: dict[str, int] = field(default_factory=dict)
    guard_notes: list[str] = field(default_factory=list)
    dealt: Preferences | None = None
    base_name: str = "the embedded language model"
    beta_spread: float = DEFAULT_SPREAD

    def trainer(self, name: str) -> MixtureDPOTrainer:
        """A trainer of the mixture ('em') or of a baseline (one of `BASELINES`); the model must be free."""
        args, given, betas = copy.copy(self.args), None, None
        _ = self.base  # read before anything is done to the model
        args.reference_cache_dir = self.args.reference_cache_dir or str(Path(self.args.output_dir) / "reference_logps")
        if name != "em":
            args.output_dir = str(self._baseline(name))
            args.n_permutations = 0  # one test of these rows is enough
        if name in ("pooled", "drawn_beta"):
            args.n_types, args.types_from = 1, TypesFrom.EM.value
            betas = self.row_betas() if name == "drawn_beta" else None
        elif name == "cluster":
            args.types_from = TypesFrom.CLUSTER.value
        elif name == "oracle":
            args.types_from, given = TypesFrom.GIVEN.value, self.declared_responsibilities()
        set_seed(args.seed)
        args.run_name = run_name(self.args.run_name, "em-dpo", name, seed=args.seed)
        return MixtureDPOTrainer(
            self.model, args, self.train_rows, self.eval_rows, processing_class=self.tokenizer,
            peft_config=copy.deepcopy(self.peft_config), responsibilities=given, row_betas=betas,
        )  # fmt: skip

    def finished(self, name: str) -> tuple[np.ndarray, float] | None:
        """Scores of `eval_rows` and training seconds of a baseline that an interrupted run has finished, if any."""
        key = self._key(name)
        return computed_once(lambda: read_finished(self._baseline(name), key))

    def finish(self, name: str, scores: np.ndarray, seconds: float) -> None:
        """Keep what `finished` reads; all processes call both."""
        key = self._key(name)
        if PartialState().is_main_process:
            keep_finished(self._baseline(name), key, scores, seconds)

    def _baseline(self, name: str) -> Path:
        return Path(self.args.output_dir) / "baselines" / name

    def _key(self, name: str) -> str:
        training = {option: getattr(self.args, option) for option in TRAINING_OPTIONS}
        options = [name, self.args.recorded_options(), training, self.peft_config.to_dict()]
        options += [self.beta_spread] if name == "drawn_beta" else []
        return options_key([*options, self.base], self.train_rows, self.eval_rows)

    @cached_property
    def base(self) -> str:
        """Fingerprint of the model as it was loaded; an engine may change its type later."""
        return base_fingerprint(self.model)

    def row_betas(self) -> Tensor:
        """(n_rows,) the β of each row of `train_rows` in the baseline 'drawn_beta'."""
        return drawn_betas(len(self.train_rows), beta=self.args.beta, spread=self.beta_spread, seed=self.args.seed)

    def declared_responsibilities(self) -> Tensor:
        """(n_annotators, n_groups) float64, one-hot: everybody's declared type."""
        _, types = np.unique(self.truth, return_inverse=True)
        return torch.eye(int(types.max()) + 1, dtype=torch.float64)[types]

    def release(self, trainer: MixtureDPOTrainer) -> None:
        """Take a trainer's engine and adapters off the model, for the next one."""
        leave_engine(trainer.model_wrapped)
        self.model = trainer.policies.policy.unload()
        if hasattr(self.model, "peft_config"):
            del self.model.peft_config


def set_up_mixture(
    script: MixtureArguments,
    data_args: DataArguments,
    args: MixtureDPOConfig,
    model_args: ModelConfig,
    *,
    population: str = "opposed",
) -> MixtureSetup:
    """Check and read everything, cheapest first; `population` is who is asked in the embedded default.

    Raises:
        ValueError: rows, folders or options that cannot work; raised before any model is loaded.
    """
    model_args.use_peft = True
    require_one_disk(args.output_dir)
    options = GuardOptions(
        type_column=script.type_column, prompts_are_new=data_args.eval_dataset_name is not None, seed=args.seed
    )
    dealt, split_note = None, []
    if model_args.model_name_or_path is None:
        model, tokenizer, train, evaluation = _embedded(script, args, population)
        notes = data_args.look_at(train, evaluation, options=options)
    else:
        model_args.model_name_or_path = os.path.expanduser(model_args.model_name_or_path)
        require_model_folder(model_args.model_name_or_path)
        if not (model_args.load_in_4bit or model_args.load_in_8bit):
            refuse_without_room("em_dpo", model_args.model_name_or_path, model_args.dtype)
        train, evaluation = data_args.train_rows(), data_args.eval_rows()
        _check_types(script, train)  # before the split, for rows are named by their number
        if evaluation is None:
            dealt = train
            train, evaluation, sentence = _held_out(train, script.eval_fraction, args.seed)
            split_note = [sentence]
        count_votes(train, args.n_types)
        notes = split_note + data_args.look_at(train, evaluation, options=options)
        model, tokenizer = _load(model_args, script.trust_remote_code, train)
        notes += print_note(turns_sentence(train.prompts, tokenizer, args.plain_prompts))
    peft_config = get_peft_config(model_args)
    plain = reads_plain(tokenizer, args.plain_prompts)
    items = TokenizedItems.of(train, tokenizer, max_length=args.max_length, plain_prompts=plain)
    notes += print_note(lengths_sentence(items))
    if script.max_new_tokens is None:
        script.max_new_tokens = data_length(items)
    if args.sft_epochs:  # once, for the mixture and its baselines
        model = warm_start(model.to(args.device), tokenizer, train, items, args, peft_config).model
    return MixtureSetup(
        model, tokenizer, train, evaluation, args, peft_config,
        declared_types(train, script.type_column), data_args.group_columns, data_args.group_sizes(), notes,
        dealt,
        model_args.model_name_or_path or "the embedded language model", script.beta_spread or DEFAULT_SPREAD,
    )  # fmt: skip


def declared_types(rows: Preferences, column: str) -> np.ndarray | None:
    """(n_annotators,) object: the value of `column` of each annotator, None where the rows have no such column.

    Raises:
        ValueError: an annotator with two values, or with none.
    """
    if column not in rows.columns:
        return None
    people, values = rows.annotators(), rows.columns[column]
    type_of: dict[str, Any] = {}
    for row, (person, value) in enumerate(zip(rows.annotator_ids, values, strict=True)):
        is_missing = value is None or value != value  # NaN
        if is_missing or type_of.setdefault(person, value) != value:
            fault = "has none" if is_missing else f"had {type_of[person]!r} before and has {value!r}"
            raise ValueError(
                f"Row {row} (counting from 0), column {column!r}: annotator {person!r} {fault}; an annotator has one "
                "type. Mend the column, or name another with --type_column."
            )
    return np.array([str(type_of[person]) for person in people.ids], dtype=object)


def _check_types(script: MixtureArguments, rows: Preferences) -> None:
    """What is asked about declared types must be there."""
    asks_oracle = "oracle" in script.baselines
    asked = asks_oracle or script.type_column != MixtureArguments.type_column
    if declared_types(rows, script.type_column) is None and asked:
        raise ValueError(
            f"The rows have no column {script.type_column!r} with the type of every annotator; they have "
            f"{', '.join(rows.columns) or 'no further column'}. Name it with --type_column"
            + (", or leave out the oracle, which cannot do without it: --baselines pooled." if asks_oracle else ".")
        )


def _held_out(rows: Preferences, fraction: float, seed: int) -> tuple[Preferences, Preferences, str]:
    """By prompt; where few prompts are asked of everybody, by row, or by item where one person's rows share items."""
    if len(np.unique(rows.prompt_indices)) >= 5:
        train, evaluation = split_by_prompt(rows, fraction=fraction, seed=seed)
        return (
            train,
            evaluation,
            f"{len(evaluation):,} of {len(rows):,} rows were held out, with all of their prompts.",
        )
    held = hold_out(rows, fraction=fraction, seed=seed)
    return held.train, held.evaluation, held.sentence


def _load(
    model_args: ModelConfig, trust_remote_code: bool, rows: Preferences
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    load = {"revision": model_args.model_revision, "trust_remote_code": trust_remote_code}
    name = model_args.model_name_or_path
    tokenizer = read_tokenizer(name, padding_side="left", **load)
    require_template(rows.texts(), tokenizer)
    load |= {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    quantized = get_quantization_config(model_args)
    if quantized is not None:  # quantized where it is loaded, so each process on its device
        load |= {"quantization_config": quantized, "device_map": {"": PartialState().local_process_index}}
    is_divided = not (quantized is not None and divides_by_fsdp())  # FSDP2 does not divide four bits
    return from_pretrained(AutoModelForCausalLM, name, divided=is_divided, use_safetensors=True, **load), tokenizer


def _embedded(
    script: MixtureArguments, args: MixtureDPOConfig, population: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Preferences, Preferences]:
    """Three types of people who rank sentences; evaluation is on prompts that training never saw."""
    default = make_embedded_default(
        n_annotators=script.n_annotators, n_steps=script.lm_steps, seed=args.seed, show_progress=not args.disable_tqdm,
        population=population,
    )  # fmt: skip
    rows = embedded_rankings(
        default.population, default.train_prompts, default.eval_prompts, n_each=script.n_per_annotator,
        n_items=script.n_items, seed=args.seed,
    )  # fmt: skip
    named_base(default.language_model, default.tokenizer, Path(args.output_dir))  # for all trainings of the model
    return default.language_model, default.tokenizer, *rows
