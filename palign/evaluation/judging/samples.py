"""What a policy writes, and how far it is from its reference: completions and their KL, to judge policies by.

`sample_policy` draws them; `policy_table` scores those of one policy into the tidy table that a report is made of, one
row per completion.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from palign.data.rendering import render_prompt
from palign.functional.logprobs import token_logps
from palign.models.architectures import stop_ids
from palign.parallel.sharded import forwards, is_sharded, turns
from palign.parallel.shared_work import PLAIN_SAMPLING, drawn
from palign.rewards import PersonalizedReward

Prompt = str | list[int]  # a rendered prompt, or its token ids
LOGITS_AT_ONCE = 2**27  # elements of a model's logits in memory


@dataclass(frozen=True)
class PolicySamples:
    """One completion for each prompt.

    Attributes:
        completions: list of `n_prompts` texts, without special tokens and outer spaces.
        kl: `(n_prompts,)`, nats: log-probability of the completion under the policy less that under the reference,
            summed over its tokens. Its mean estimates the KL from the reference; one row may be negative.
        is_cut: `(n_prompts,)` bool, where the completion did not end by itself within the limit; None: not known.
    """

    completions: list[str]
    kl: np.ndarray
    is_cut: np.ndarray | None = None


@torch.no_grad()
def sample_policy(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    reference: Any = None,
    reference_prompts: Sequence[Prompt] | None = None,
    max_new_tokens: int,
    temperature: float = 1.0,
    batch_size: int = 128,
    seed: int = 0,
    show_progress: bool = False,
    together: bool = False,
) -> PolicySamples:
    """Draw one completion for each prompt.

    Args:
        policy: a causal language model, with or without a PEFT adapter.
        tokenizer: of `policy`, padding on the left.
        prompts: list of `n_prompts` rendered prompts, or of their token ids.
        reference: to measure the KL from; default: `policy` with its adapter switched off, or `policy` itself.
        reference_prompts: what the reference reads, where it is told less; default `prompts`.
        max_new_tokens: length at which completions are cut.
        temperature: of the draw, and of both sides of the KL.
        batch_size: prompts at a time, for the draw; logits stand in memory for fewer of them.
        seed: of the draw.
        show_progress: whether to draw a progress bar.
        together: every process of a launch calls this and draws its share; all get all. What is drawn is the same on
            any number of processes above one.
    """
    reference_prompts = prompts if reference_prompts is None else reference_prompts
    is_reference = reference is None and not hasattr(policy, "disable_adapter") and reference_prompts is prompts
    stops = stop_ids(tokenizer, policy)

    def draw(start: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        part = slice(start, start + batch_size)
        answers = _draw(policy, tokenizer, prompts[part], stops, max_new_tokens, temperature)
        ends = torch.isin(answers, torch.tensor(stops, device=answers.device))
        texts = [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]
        kl = np.zeros(len(texts))
        if not is_reference:  # whose KL to itself is 0
            own = _log_probability(policy, tokenizer, prompts[part], answers, ends, temperature)
            other, switch = (policy, _adapter_off(policy)) if reference is None else (reference, nullcontext())
            with switch:
                theirs = _log_probability(other, tokenizer, reference_prompts[part], answers, ends, temperature)
            kl = (own - theirs).double().cpu().numpy()
        bar.update(len(texts))
        return texts, kl, (~ends.any(1)).cpu().numpy()

    policy.eval()
    starts = range(0, len(prompts), batch_size)
    bar = tqdm(total=len(prompts), desc="samples", unit="text", disable=not show_progress)
    with bar, forwards(policy), nullcontext() if reference is None else forwards(reference):
        parts = drawn(starts, draw, seed=seed, model=policy, together=together)
    completions = [text for texts, _, _ in parts for text in texts]
    if not parts:
        return PolicySamples(completions, np.zeros(0), np.zeros(0, dtype=bool))
    return PolicySamples(completions, *(np.concatenate([part[i] for part in parts]) for i in (1, 2)))


def sample_rows(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    adapters: Sequence[str] | None = None,
    **settings: Any,
) -> PolicySamples:
    """`sample_adapters` where `adapters` are given, else `sample_policy`: what `PolicyRuns.sampling` is for."""
    if adapters is None:
        return sample_policy(policy, tokenizer, prompts, **settings)
    return sample_adapters(policy, tokenizer, prompts, adapters, **settings)


def sample_adapters(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    adapters: Sequence[str],
    **settings: Any,
) -> PolicySamples:
    """`sample_policy` where every prompt is served by an adapter that is named for it.

    Args:
        policy: a PEFT model with several adapters.
        tokenizer: of `policy`.
        prompts: list of `n_prompts` rendered prompts, or of their token ids.
        adapters: the name of the adapter that serves each prompt.
        settings: of `sample_policy`.
    """
    completions, kl = [""] * len(prompts), np.zeros(len(prompts))
    is_cut = np.zeros(len(prompts), dtype=bool)
    for name in dict.fromkeys(adapters):
        rows = [i for i, adapter in enumerate(adapters) if adapter == name]
        policy.set_adapter(name)
        part = sample_policy(policy, tokenizer, [prompts[i] for i in rows], **settings)
        kl[rows], is_cut[rows] = part.kl, part.is_cut
        for i, text in zip(rows, part.completions, strict=True):
            completions[i] = text
    return PolicySamples(completions, kl, is_cut)


def _adapter_off(policy: Any) -> AbstractContextManager[Any]:
    return policy.disable_adapter() if hasattr(policy, "disable_adapter") else nullcontext()


def _encode(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], device: torch.device
) -> dict[str, torch.Tensor]:
    options = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
    if isinstance(prompts[0], str):
        encoded = tokenizer(list(prompts), add_special_tokens=False, **options)
    else:
        encoded = tokenizer.pad({"input_ids": list(prompts)}, **options)
    return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}


def _draw(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    stops: list[int],
    max_new_tokens: int,
    temperature: float,
) -> torch.Tensor:
    encoded = _encode(tokenizer, prompts, policy.device)
    sequences = policy.generate(
        **encoded,
        synced_gpus=is_sharded(policy),
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=temperature,
        **PLAIN_SAMPLING,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
    )
    return sequences[:, encoded["input_ids"].shape[1] :]


def _log_probability(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    answers: torch.Tensor,
    ends: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """`(rows,)`: log-probability of `answers` `(rows, response)` in nats, the mark that ends one (`ends`, bool)
    included, what follows it left out. Logits stand in memory for some rows at a time.
    """
    encoded = _encode(tokenizer, prompts, answers.device)
    is_answer = (ends.cumsum(1) - ends.long()) == 0
    mask = torch.cat((encoded["attention_mask"], is_answer.long()), 1)
    ids = torch.cat((encoded["input_ids"], answers), 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    n = answers.shape[1]
    transformer = model.get_base_model() if hasattr(model, "get_base_model") else model
    keeps = "logits_to_keep" in inspect.signature(transformer.forward).parameters
    options = {"logits_to_keep": n + 1} if keeps else {}
    n_logits = (n + 1 if keeps else ids.shape[1]) * model.config.get_text_config().vocab_size
    n_rows = max(1, LOGITS_AT_ONCE // n_logits)
    parts = []
    rows = torch.arange(len(ids), device=ids.device)
    for some, is_own in turns(rows.split(n_rows), rows[:1], model):  # answers of other processes may be longer
        inputs = {"input_ids": ids[some], "attention_mask": mask[some], "position_ids": positions[some]}
        logits = model(**inputs, **options).logits[:, -n - 1 : -1]
        if is_own:
            parts.append((token_logps(logits / temperature, answers[some]) * is_answer[some]).sum(1))
    return torch.cat(parts)


def policy_table(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    samples: PolicySamples,
    reward: PersonalizedReward,
    gold: Callable[[str, str], float] | None = None,
    group_columns: Sequence[str] = ("type",),
) -> pd.DataFrame:
    """What one policy wrote for `rows`, judged.

    Args:
        name: of the policy, the table's column `model`.
        rows: `n_rows` with `prompt` (as the reward model knows it, a text or messages) and `annotator_id`.
        samples: one completion for each row.
        reward: of the person of the row.
        gold: an independent judge: (completion, annotator_id) → utility.
        group_columns: columns of `rows` to keep, where the rows have them.

    Returns:
        Columns `model`, `annotator_id`, `row`, the groups, `prompt`, `completion`, `reward` (standardized as in
        training), `raw_reward`, `kl`, `is_cut` (the completion was cut at the limit) and, with a judge, `gold`.
    """
    people = [str(row["annotator_id"]) for row in rows]
    prompts = [row["prompt"] for row in rows]
    scored = reward.batch(reward_prompts(prompts, reward), samples.completions, people)
    table = {"model": name, "annotator_id": people, "row": range(len(rows))}
    table |= {column: [row[column] for row in rows] for column in group_columns if column in rows[0]}
    table |= {"prompt": prompts, "completion": samples.completions, "kl": samples.kl}
    table |= {"reward": scored.standardized.numpy(), "raw_reward": scored.raw.numpy()}
    if samples.is_cut is not None:
        table["is_cut"] = samples.is_cut
    if gold is not None:
        table["gold"] = [gold(text, person) for text, person in zip(samples.completions, people, strict=True)]
    return pd.DataFrame(table)


def reward_prompts(prompts: Sequence[Any], reward: PersonalizedReward) -> list[str]:
    """Prompts as the texts that a reward model reads before a completion, which is how trainers score, too."""
    tokenizer = getattr(reward.model, "tokenizer", None)
    return [render_prompt(prompt, tokenizer) for prompt in prompts]


def means_by_type(table: pd.DataFrame, metric: str) -> dict[str, float]:
    """`<model>/<metric>` and, where there are types, `<model>/<type>/<metric>` → mean, for `summary.json`."""
    means = {f"{model}/{metric}": float(value) for model, value in table.groupby("model")[metric].mean().items()}
    if "type" in table:
        by_type = table.groupby(["model", "type"])[metric].mean()
        means |= {f"{model}/{name}/{metric}": float(value) for (model, name), value in by_type.items()}
    return means
