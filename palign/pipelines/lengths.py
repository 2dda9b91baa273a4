"""How long answers are, and where they are to be cut: from the data, or from what the reference writes."""

import math
from typing import TYPE_CHECKING

import numpy as np

from palign.evaluation.judging.samples import sample_rows
from palign.models.completions import TokenizedItems

if TYPE_CHECKING:
    from palign.pipelines.policies import PolicyRuns

__all__ = ["data_length", "ending_length", "fit_completion_length", "lengths_sentence"]

N_ANSWERS, MOST = 32, 256  # answers that are drawn, and their length at most
STEP, LEAST = 8, 16  # tokens


def lengths_sentence(items: TokenizedItems) -> str:
    """Percentiles of prompts' and completions' tokens, for whoever chooses lengths."""
    answers, prompts = items.lengths - items.prompt_lengths, items.prompt_lengths
    shown = [f"{np.percentile(answers, share):.0f} ({name})" for share, name in ((50, "median"), (95, "95%"))]
    return (
        f"Completions have {' and '.join(shown)} tokens, {answers.max()} at most, end marks included; prompts "
        f"{np.percentile(prompts, 50):.0f} (median), {prompts.max()} at most."
    )


def data_length(items: TokenizedItems, *, share: float = 0.95, limit: int = 256) -> int:
    """Tokens within which that share of the data's completions end."""
    return ending_length(items.lengths - items.prompt_lengths, share=share, limit=limit)[0]


def ending_length(lengths: np.ndarray, *, share: float, limit: int) -> tuple[int, float]:
    """The least length, in steps of eight from sixteen on, within which that share of answers end; `limit` where none
    does.

    Args:
        lengths: (n,) tokens with the end mark, infinite where an answer did not end.
        share: of the answers, above 0.
        limit: the most.

    Returns:
        The length, and the share of answers that end within it.
    """
    last = np.sort(lengths.astype(float))[math.ceil(share * len(lengths)) - 1]
    length = limit if not math.isfinite(last) else min(limit, max(LEAST, STEP * math.ceil(last / STEP)))
    return int(length), float((lengths <= length).mean())


def fit_completion_length(runs: "PolicyRuns", share: float) -> str:
    """Set `max_completion_length` so that so many of the reference's answers end within it; what was done, as a
    sentence. All processes call it.

    Args:
        runs: with a model that answers, and rows to ask it.
        share: of the answers to held-out prompts, 32 of them drawn.
    """
    options = runs.sampling(None)
    room = getattr(runs.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(ids) for ids in options["prompts"])
    limit = MOST if room is None else max(1, min(MOST, room - longest))
    options["max_new_tokens"] = limit
    numbers = np.resize(np.arange(len(options["prompts"])), N_ANSWERS)
    options["prompts"] = [options["prompts"][number] for number in numbers]
    samples = sample_rows(**options)
    texts = runs.tokenizer(samples.completions, add_special_tokens=False)["input_ids"]
    lengths = np.where(samples.is_cut, np.inf, np.array([len(ids) + 1 for ids in texts], dtype=float))
    length, reached = ending_length(lengths, share=share, limit=limit)
    runs.args.max_completion_length = length
    sentence = (
        f"max_completion_length is {length}: {reached:.0%} of {N_ANSWERS} answers of the reference end within so many "
        "tokens."
    )
    if reached >= share:
        return sentence
    return (
        f"{sentence} The others would be cut, paid for as they stand less missing_eos_penalty. Ask for short answers "
        "in the prompts, take a reference that gives them (the base_model of palign em-dpo with --sft_epochs), or "
        "give a larger --max_completion_length."
    )
