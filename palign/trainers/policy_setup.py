"""What policies are trained from: everything made in the process, or the user's model, reward model and rows."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from accelerate import PartialState
from transformers import AutoModelForCausalLM
from trl import ModelConfig, get_peft_config, get_quantization_config

from palign.conditioning import WhoIsAsking
from palign.data.guard import act_on, guard_prompts
from palign.data.rendering import require_template
from palign.data.rows.options import ReadingOptions
from palign.data.rows.reading import print_note
from palign.data.turns import turns_sentence
from palign.models.model_folders import read_tokenizer, require_model_folder
from palign.models.pal import PALRewardModel
from palign.parallel.sharded import loading_whole
from palign.rewards import PersonalizedReward
from palign.trainers.embedded import make_embedded_default, train_embedded_reward
from palign.trainers.policy.config import PersonalPolicyConfig
from palign.trainers.policy.rows import prompt_rows_and_reading, require_one_batch
from palign.trainers.policy_arguments import PolicyArguments
from palign.trainers.policy_runs import PolicyRuns

Runs = TypeVar("Runs", bound=PolicyRuns)
N_TRAIN_PROMPTS_EACH = 20


def set_up_policies(
    script: PolicyArguments,
    args: Any,
    model_args: ModelConfig,
    runs: type[Runs],
    *,
    trust_remote_code: bool = False,
    **own: Any,
) -> Runs:
    """Everything that policies are trained from.

    Args:
        script, args, model_args: what the recipe was given; `args` is the trainer's configuration, a
            `PersonalPolicyConfig` and a `TrainingArguments`.
        runs: what to make of it.
        trust_remote_code: whether a model of the hub may bring code.
        own: further fields of `runs`.

    Raises:
        ValueError: rows or folders that cannot work; said before any model is loaded.
    """
    if model_args.model_name_or_path is None:
        start = _embedded(script, args)
    else:
        start = _own(script, args, model_args, trust_remote_code)
    reward_model = start.pop("reward_model")
    people = list(dict.fromkeys(row["annotator_id"] for row in [*start["train_rows"], *start["eval_rows"]]))
    weights = reward_model.weights_for(people).detach().cpu().numpy()
    return runs(
        reward=PersonalizedReward(reward_model, standardize=args.standardize_rewards),
        who=WhoIsAsking.from_weights(people, weights, show_annotator_id=args.show_annotator_id),
        args=args,
        peft_config=get_peft_config(model_args),
        **start,
        **own,
    )


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
    known = (None, PersonalPolicyConfig.group_column, *script.group_columns)
    return [] if args.group_column in known else [args.group_column]


def _own(script: PolicyArguments, args: Any, model_args: ModelConfig, trust_remote_code: bool) -> dict[str, Any]:
    require_model_folder(model_args.model_name_or_path)
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
    require_one_batch(len(rows) - n_eval, args, f"{script.dataset_name} without {n_eval} held-out rows")
    load = {"revision": model_args.model_revision, "trust_remote_code": trust_remote_code}
    tokenizer = read_tokenizer(model_args.model_name_or_path, padding_side="left", **load)
    prompts = [row["prompt"] for row in rows]
    require_template(prompts, tokenizer)
    try:
        reward_model = PALRewardModel.from_pretrained(args.reward_model_path)
    except ValueError as error:
        raise ValueError(f"--reward_model_path: {error}") from error
    require_template(prompts, reward_model.tokenizer or tokenizer)
    load_model = load | {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    if hasattr(args, "model_init_kwargs") and not model_args.use_peft:
        # TRL's GRPO and RLOO load the reference of a policy trained whole by themselves
        args.model_init_kwargs = load_model | (args.model_init_kwargs or {})
    quantized = get_quantization_config(model_args)
    if quantized is not None:  # quantized where it is loaded, so each process on its own device
        load_model |= {"quantization_config": quantized, "device_map": {"": PartialState().local_process_index}}
    with loading_whole():  # the reference answers before there is an engine; training divides it under ZeRO-3
        model = AutoModelForCausalLM.from_pretrained(model_args.model_name_or_path, use_safetensors=True, **load_model)
    return {
        "tokenizer": tokenizer,
        "model": model,
        "reward_model": reward_model,
        "train_rows": [rows[i] for i in order[n_eval:]],
        "eval_rows": [rows[i] for i in order[:n_eval]],
        "reading": [*reading.lines(), *print_note(turns_sentence(prompts, tokenizer, args.plain_prompts))],
    }
