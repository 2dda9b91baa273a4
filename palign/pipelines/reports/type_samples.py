"""What the types of a mixture write, side by side, and how it reads: cut, repeating, likely to the reference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from palign.data.preferences import Preferences
from palign.data.turns import question_of
from palign.evaluation.pages.markdown import escape_long
from palign.models.completions import TokenizedItems, prompt_ids
from palign.models.reference_logps import reference_pass

if TYPE_CHECKING:
    from palign.models.mixture_policy import Answer, MixturePolicy

__all__ = ["how_they_read", "reference_likelihood", "repetition", "side_by_side"]

CUT = "[cut]"


def side_by_side(
    policy: "MixturePolicy",
    rows: Preferences,
    *,
    n_prompts: int = 6,
    max_new_tokens: int = 48,
    seed: int = 0,
    show_progress: bool = False,
) -> str:
    """A Markdown table: what each type answers to the same held-out prompts, these as they were typed, and below it
    how the answers read. Texts are escaped, and answers that did not end within the limit end in CUT.
    """
    numbers = np.unique(rows.prompt_indices[rows.prompt_indices >= 0])
    numbers = numbers[:: max(1, len(numbers) // n_prompts)][:n_prompts]
    prompts = [rows.prompts[number] for number in numbers]
    options = {"max_new_tokens": max_new_tokens, "show_progress": show_progress}
    answers = [policy.answers(prompts, type=k, seed=seed + k, **options) for k in range(policy.n_types)]
    shares = [f"type_{k} ({weight:.0%})" for k, weight in enumerate(policy.mixing_weights.tolist())]
    lines = [f"| prompt | {' | '.join(shares)} |", "|" + "---|" * (policy.n_types + 1)]
    for place, prompt in enumerate(prompts):
        said = [f"{drawn[place].text} {CUT}" if drawn[place].is_cut else drawn[place].text for drawn in answers]
        lines.append("| " + " | ".join(_cell(text) for text in (question_of(prompt), *said)) + " |")
    n_cut, n = sum(answer.is_cut for drawn in answers for answer in drawn), len(prompts) * policy.n_types
    if n_cut:
        lines += ["", f"{CUT}: {n_cut} of {n} answers were cut at {max_new_tokens} tokens (`--max_new_tokens`)."]
    return "\n".join([*lines, "", *how_they_read(policy, prompts, answers)]) + "\n"


def how_they_read(policy: "MixturePolicy", prompts: Sequence[Any], answers: Sequence[Sequence["Answer"]]) -> list[str]:
    """A line for each type: how much its answers repeat themselves, and how likely they are to the reference.

    Args:
        prompts: (n_prompts,) texts or messages.
        answers: of each type, (n_types, n_prompts).
    """
    lines = []
    for k, drawn in enumerate(answers):
        texts = [answer.text for answer in drawn]
        repeated = float(np.mean([repetition(text) for text in texts])) if texts else 0.0
        likely = reference_likelihood(policy, prompts, texts)
        shown = "" if likely is None else f"; the reference gives its answers {likely:.2f} nats a token"
        lines.append(f"- `type_{k}`: {repeated:.0%} of the threes of words in an answer stood in it before{shown}.")
    return lines


def repetition(text: str) -> float:
    """Share of the threes of consecutive words that stood in the text before, 0 for none: what loops is near 1."""
    words = text.lower().split()
    threes = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(threes)) / len(threes) if threes else 0.0


def reference_likelihood(policy: "MixturePolicy", prompts: Sequence[Any], texts: Sequence[str]) -> float | None:
    """Nats a token of answers under the reference, end marks left out; None where no answer has a token."""
    heads = prompt_ids(prompts, policy.tokenizer, plain_prompts=policy.record.plain_prompts)
    tails = [policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    pairs = [(head, tail) for head, tail in zip(heads, tails, strict=True) if head and tail]
    if not pairs:
        return None
    items = TokenizedItems.from_pairs(pairs, policy.tokenizer.pad_token_id or 0)
    logps = reference_pass(policy.policies.policy, items, show_progress=False).logps
    return float(logps.sum() / sum(len(tail) for _, tail in pairs))


def _cell(text: str) -> str:
    """One line that no markup in it can leave; quotes stay as they are, for the table is printed, too."""
    return escape_long(text).replace("&#39;", "'").replace("&#34;", '"')
