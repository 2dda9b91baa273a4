"""Policies, from what they are trained from (made in the process, or the user's) to one saved after another."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig, get_peft_config, get_quantization_config

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.data.guard import act_on, guard_prompts
from palign.data.rendering import require_template
from palign.data.rows.options import ReadingOptions
from palign.data.rows.reading import print_note
from palign.data.turns import as_turns, reads_plain, turns_sentence
from palign.models.architectures import agree_on_marks
from palign.models.model_folders import read_tokenizer, require_model_folder
from palign.models.pal import PALRewardModel
from palign.parallel.divided_loading import from_pretrained
from palign.parallel.one_disk import require_one_disk
from palign.parallel.sharded import copied, divided_parameters, divides_by_fsdp
from palign.pipelines.arguments.policy import PolicyArguments
from palign.pipelines.builtin_world import make_embedded_default, train_embedded_reward
from palign.pipelines.in_context import choices_before, told_prompts
from palign.pipelines.lengths import fit_completion_length
from palign.pipelines.memory.room import refuse_without_room
from palign.pipelines.prototype_adapters import adapter_name
from palign.pipelines.run_names import run_name
from palign.rewards import PersonalizedReward
from palign.trainers.policy.card import write_conditioning
from palign.trainers.policy.config import PersonalPolicyConfig
from palign.trainers.policy.rows import prompt_rows_and_reading, query_ids, require_one_batch
from palign.writing import write_whole


@dataclass
class PolicyRun:
    """A trained policy.

    Attributes:
        conditioning: how it learns who is asking.
        policy: the language model with its adapter(s).
        history: metrics by update, column `adapter` with several adapters; also saved as `history.csv`.
    """

    conditioning: PolicyConditioning
    policy: PreTrainedModel
    history: pd.DataFrame


@dataclass
class PolicyRuns(ABC):
    """What every run shares; `PPORuns` and `GRPORuns` know how to train.

    Args:
        model: the language model to start from, which is also the reference.
        tokenizer: of `model`.
        reward: of the person each row belongs to.
        who: names for the people.
        train_rows, eval_rows: `prompt`, `annotator_id` and perhaps groups.
        args: of every run.
        peft_config: of every adapter; None trains the whole policy.
        judge: an independent judge, (completion, annotator_id) → utility; it trains nothing.
        reading: how the rows were read, a line each, for the report.
        in_context_prompts: token ids of `eval_rows`' prompts behind what each person chose before; None: not asked.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reward: PersonalizedReward
    who: WhoIsAsking
    train_rows: Sequence[dict[str, Any]]
    eval_rows: Sequence[dict[str, Any]]
    args: PersonalPolicyConfig
    peft_config: PeftConfig | None = None
    judge: Callable[[str, str], float] | None = None
    reading: Sequence[str] = ()
    in_context_prompts: list[list[int]] | None = None
    _latest: PreTrainedModel | None = None

    def train(self, conditioning: PolicyConditioning | str) -> PolicyRun:
        """Train one policy, save it under `output_dir/<conditioning>`; the policy of the run before is gone then.

        Raises:
            ValueError: `conditioning="adapter"` without `peft_config`.
        """
        conditioning = PolicyConditioning(conditioning)
        args = copy.copy(self.args)
        args.policy_conditioning, args.output_dir = conditioning, str(Path(self.args.output_dir) / conditioning.value)
        args.run_name = run_name(self.args.run_name, self.recipe, conditioning.value, seed=args.seed)
        model = self._clean_model()
        if conditioning is PolicyConditioning.ADAPTER:
            run = self._train_adapters(model, args)
        else:
            run = self._train_one(model, args)
        if PartialState().is_main_process:
            if conditioning is PolicyConditioning.ADAPTER:  # an adapter's folder knows nobody
                write_conditioning(Path(args.output_dir), args, self.who)
            write_whole(Path(args.output_dir) / "history.csv", run.history.to_csv(index=False))
        self._latest = run.policy
        return run

    def _clean_model(self) -> PreTrainedModel:
        """The language model as it was given: adapters are taken off again, a fully trained policy is a copy."""
        if self.peft_config is None:
            # while the copy is trained, a reference that is whole takes no room on its device
            source = self.model if divided_parameters(self.model) else self.model.cpu()
            return copied(source, dtype=torch.float32 if self.args.bf16 else None)
        if isinstance(self._latest, PeftModel):
            self.model, self._latest = self._latest.unload(), None
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config
        return self.model

    @property
    @abstractmethod
    def recipe(self) -> str:
        """What a tracker calls its runs."""

    @abstractmethod
    def _train_one(self, model: PreTrainedModel, args: PersonalPolicyConfig) -> PolicyRun:
        """Train one policy for everybody, and save it in `args.output_dir`."""

    @abstractmethod
    def _train_adapters(self, model: PreTrainedModel, args: PersonalPolicyConfig) -> PolicyRun:
        """Train one adapter per prototype, and save each in its folder in `args.output_dir`."""

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """Length at which completions are cut."""

    def sampling(self, run: PolicyRun | None) -> dict[str, Any]:
        """What `sample_rows` takes to draw one completion for each of `eval_rows`, of a policy or, without one, of the
        reference.
        """
        told = None if run is None else run.conditioning
        options = {"policy": self._placed_model() if run is None else run.policy, "tokenizer": self.tokenizer}
        options |= {"prompts": self.eval_prompts(told), "max_new_tokens": self.max_new_tokens}
        options |= {"temperature": self.args.temperature, "seed": self.args.seed, "together": True}
        options |= {"show_progress": not self.args.disable_tqdm and PartialState().is_main_process}
        if run is not None and self.peft_config is None:
            options["reference"] = self._placed_model()
        if told is PolicyConditioning.ADAPTER:
            options["adapters"] = self.eval_adapters()
        return options

    def sampling_in_context(self) -> dict[str, Any]:
        """As `sampling(None)`, of the reference that is shown what each person chose before."""
        return self.sampling(None) | {
            "prompts": self.in_context_prompts, "reference_prompts": self.eval_prompts(None),
        }  # fmt: skip

    def show_choices(self, choices: Mapping[str, list[str]]) -> str:
        """Put what people chose before in `in_context_prompts`, as far as the model has room; says what was put."""
        n_positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        room = None if n_positions is None else n_positions - self.max_new_tokens
        people = [str(row["annotator_id"]) for row in self.eval_rows]
        self.in_context_prompts, note = told_prompts(self._read_prompts(), people, choices, self.tokenizer, room)
        return note

    def _placed_model(self) -> PreTrainedModel:
        """The language model on the device policies are trained on; a quantized one was loaded there."""
        return self.model if getattr(self.model, "is_quantized", False) else self.model.to(self.args.device)

    def eval_prompts(self, conditioning: PolicyConditioning | str | None) -> list[list[int]]:
        """Token ids of `eval_rows`' prompts as a policy meets them; None for the reference, which is told nothing."""
        prompts = self._read_prompts()
        if conditioning is not None and PolicyConditioning(conditioning) is PolicyConditioning.PROMPT:
            prompts = self.who.condition(prompts, [str(row["annotator_id"]) for row in self.eval_rows])
        return query_ids(prompts, self.tokenizer)

    def _read_prompts(self) -> list[Any]:
        """Of `eval_rows`: plain ones as turns where the tokenizer has them."""
        prompts = [row["prompt"] for row in self.eval_rows]
        return prompts if reads_plain(self.tokenizer, self.args.plain_prompts) else as_turns(prompts)

    def eval_adapters(self) -> list[str]:
        """The adapter that serves each of `eval_rows`: that of the person's dominant prototype."""
        return [adapter_name(self.who.types[str(row["annotator_id"])]) for row in self.eval_rows]


Runs = TypeVar("Runs", bound=PolicyRuns)
N_TRAIN_PROMPTS_EACH = 20


def set_up_policies(
    script: PolicyArguments,
    args: Any,
    model_args: ModelConfig,
    runs: type[Runs],
    *,
    trust_remote_code: bool = False,
    **further: Any,
) -> Runs:
    """Everything that policies are trained from.

    Args:
        script, args, model_args: what the recipe was given; `args` is the trainer's configuration, a
            `PersonalPolicyConfig` and a `TrainingArguments`.
        runs: what to make of it.
        trust_remote_code: whether a model of the hub may bring code.
        further: fields of `runs`.

    Raises:
        ValueError: rows or folders that cannot work; raised before any model is loaded.
    """
    require_one_disk(args.output_dir)
    if model_args.model_name_or_path is None:
        start = _embedded(script, args)
    else:
        start = _own(script, args, model_args, trust_remote_code)
    reward_model, choices = start.pop("reward_model"), start.pop("choices", {})
    people = list(dict.fromkeys(row["annotator_id"] for row in [*start["train_rows"], *start["eval_rows"]]))
    weights = reward_model.weights_for(people).detach().cpu().numpy()
    made = runs(
        reward=PersonalizedReward(reward_model, standardize=args.standardize_rewards),
        who=WhoIsAsking.from_weights(people, weights, show_annotator_id=args.show_annotator_id),
        args=args,
        peft_config=get_peft_config(model_args),
        **start,
        **further,
    )
    if script.ending_share:
        made.reading = [*made.reading, *print_note(fit_completion_length(made, script.ending_share))]
    if choices:
        made.reading = [*made.reading, *print_note(made.show_choices(choices))]
    return made


def _embedded(script: PolicyArguments, args: Any) -> dict[str, Any]:
    show = not args.disable_tqdm
    default = make_embedded_default(
        n_annotators=script.n_annotators, n_steps=script.lm_steps, seed=args.seed, show_progress=show
    )
    reward_model = train_embedded_reward(
        default,
        str(Path(args.output_dir) / "reward_model"),
        seed=args.seed,
        use_cpu=args.use_cpu,
        disable_tqdm=args.disable_tqdm,
    )
    if PartialState().is_main_process:
        reward_model.save_pretrained(Path(args.output_dir) / "reward_model")
    n_eval_each = max(1, script.n_eval_rows // script.n_annotators)
    return {
        "model": default.language_model,
        "tokenizer": default.tokenizer,
        "reward_model": reward_model,
        "train_rows": default.prompt_rows(default.train_prompts, N_TRAIN_PROMPTS_EACH, seed=args.seed),
        "eval_rows": default.prompt_rows(default.eval_prompts, n_eval_each, seed=args.seed + 1),
        "judge": default.population.gold,
    }


def _reward_groups(script: PolicyArguments, args: Any) -> list[str]:
    """The column that rewards are logged by, where the user named one: it must be there."""
    known = (None, PersonalPolicyConfig.log_rewards_by, *script.group_columns)
    return [] if args.log_rewards_by in known else [args.log_rewards_by]


def _stays_divided(args: Any, *, use_peft: bool, is_quantized: bool) -> bool:
    """Whether a policy may be in parts from loading on. FSDP2's parts are neither quantized, nor copied into a critic,
    nor trained beside one, nor given to vLLM.
    """
    critic = getattr(args, "critic", None)  # GRPO and RLOO have none
    beside_critic = critic not in (None, "lora", "head") or (critic is not None and not use_peft)
    needs_whole = is_quantized or beside_critic or getattr(args, "use_vllm", False)
    return not (divides_by_fsdp() and needs_whole)


def _own(script: PolicyArguments, args: Any, model_args: ModelConfig, trust_remote_code: bool) -> dict[str, Any]:
    require_model_folder(model_args.model_name_or_path)
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        refuse_without_room("grpo_pal", model_args.model_name_or_path, model_args.dtype, use_peft=model_args.use_peft)
    rows, reading = prompt_rows_and_reading(
        script.dataset_name,
        split=script.dataset_split,
        group_columns=[*script.group_columns, *_reward_groups(script, args)],
        **vars(ReadingOptions.reading(script)),
    )
    if len(rows) < 2:
        raise ValueError(
            f"{script.dataset_name} has {len(rows)} row; at least two are needed, one of them to judge by."
        )
    if script.guard != "off":
        act_on(guard_prompts(rows, seed=args.seed), script.guard)
    order = np.random.default_rng(args.seed).permutation(len(rows))
    n_eval = min(script.n_eval_rows, max(1, len(rows) // 10))
    choices, left_out = choices_before(script, [rows[i] for i in order[:n_eval]])
    require_one_batch(len(rows) - n_eval, args, f"{script.dataset_name} without {n_eval} held-out rows")
    load = {"revision": model_args.model_revision, "trust_remote_code": trust_remote_code}
    tokenizer = read_tokenizer(model_args.model_name_or_path, padding_side="left", **load)
    prompts = [row["prompt"] for row in rows]
    require_template(prompts, tokenizer)
    try:
        reward_model = PALRewardModel.from_pretrained(args.reward_model_path, divided=True)
    except ValueError as error:
        raise ValueError(f"--reward_model_path: {error}") from error
    require_template(prompts, reward_model.tokenizer or tokenizer)
    load_model = load | {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    if hasattr(args, "model_init_kwargs") and not model_args.use_peft:
        # TRL's GRPO and RLOO load the reference of a policy trained whole by themselves
        args.model_init_kwargs = load_model | (args.model_init_kwargs or {})
    quantized = get_quantization_config(model_args)
    if quantized is not None:  # quantized where it is loaded, so each process on its device
        load_model |= {"quantization_config": quantized, "device_map": {"": PartialState().local_process_index}}
    model = from_pretrained(
        AutoModelForCausalLM, model_args.model_name_or_path, use_safetensors=True,
        divided=_stays_divided(args, use_peft=model_args.use_peft, is_quantized=quantized is not None), **load_model,
    )  # fmt: skip
    agree_on_marks(tokenizer, model)
    return {
        "tokenizer": tokenizer,
        "model": model,
        "reward_model": reward_model,
        "train_rows": [rows[i] for i in order[n_eval:]],
        "eval_rows": [rows[i] for i in order[:n_eval]],
        "choices": choices,
        "reading": [*reading.lines(), *left_out, *print_note(turns_sentence(prompts, tokenizer, args.plain_prompts))],
    }
