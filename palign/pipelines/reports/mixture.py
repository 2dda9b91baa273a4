"""What there is to say about a mixture: did it find the types there are, how was K chosen, what do its types write."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from palign.data.preferences import Preferences
from palign.data.rendering import render_prompt
from palign.evaluation.pages.markdown import escape_long
from palign.functional.partitions import adjusted_rand_index, type_accuracy
from palign.models.files.mixture import MixtureRecord

if TYPE_CHECKING:
    from palign.models.mixture_policy import MixturePolicy

__all__ = ["check_notes", "choice_note", "compare_types", "reference_note", "side_by_side"]


def compare_types(record: MixtureRecord, truth: np.ndarray | None) -> dict[str, float]:
    """`types/ari` and `types/accuracy` (after the best matching) of the likeliest types with the declared ones.

    Args:
        record: of the mixture.
        truth: (n_annotators,) declared types in the order of `record.annotators`; None gives an empty dict.
    """
    if truth is None:
        return {}
    declared = torch.from_numpy(np.unique(truth, return_inverse=True)[1])
    types = torch.from_numpy(record.responsibilities.argmax(1))
    return {
        "types/ari": float(adjusted_rand_index(types, declared)),
        "types/accuracy": float(type_accuracy(types, declared)),
    }


def choice_note(record: MixtureRecord) -> list[str]:
    """How K was chosen, as a sentence for the report; none where it was given."""
    rows = record.details.get("choice_of_k") or []
    if not rows:
        return []
    parts = [f"K = {int(row['n_types'])}: {row['log_likelihood']:.3f}" for row in rows]
    return [
        f"K = {record.n_types} was chosen on annotators held out of training, by the log-likelihood of a row (nats) "
        f"under the linear head: {'; '.join(parts)}. The smallest K that is not clearly worse than the best is taken."
    ]


def reference_note(record: MixtureRecord) -> list[str]:
    """What the types and baselines began from: a warm start, and how likely the answers are to it."""
    of_reference = record.details.get("reference") or {}
    warm, per_token = of_reference.get("warm_start"), of_reference.get("nats_per_token") or {}
    notes = []
    if warm:
        what = "answers that were judged" if warm["answers"] == "all" else "answers that were put first"
        notes.append(
            f"The reference is the base after a warm start: {warm['epochs']:g} epochs of supervised LoRA over the "
            f"{warm['n_answers']:,} different {what}, merged into its weights. Types and baselines begin from it."
        )
    if "best" in per_token:
        notes.append(f"The reference gives the answers that people put first {per_token['best']:.2f} nats a token.")
    return notes


def check_notes(record: MixtureRecord) -> list[str]:
    """The checks of the mixture, those that ask for a look first."""
    order = {"stop": 0, "look": 1, "ok": 2}
    checks: list[dict[str, Any]] = sorted(
        record.details.get("checks", []), key=lambda check: order.get(check["verdict"], 3)
    )
    return [f"{check['name'].replace('_', ' ')} ({check['verdict']}): {check['message']}" for check in checks]


def side_by_side(
    policy: "MixturePolicy", rows: Preferences, *, n_prompts: int = 6, max_new_tokens: int = 48, seed: int = 0
) -> str:
    """A Markdown table: what each type answers to the same held-out prompts. Texts are escaped."""
    numbers = np.unique(rows.prompt_indices[rows.prompt_indices >= 0])
    numbers = numbers[:: max(1, len(numbers) // n_prompts)][:n_prompts]
    prompts = [rows.prompts[number] for number in numbers]
    answers = [
        policy.generate(prompts, type=k, max_new_tokens=max_new_tokens, seed=seed + k) for k in range(policy.n_types)
    ]
    shares = [f"type_{k} ({weight:.0%})" for k, weight in enumerate(policy.mixing_weights.tolist())]
    lines = [f"| prompt | {' | '.join(shares)} |", "|" + "---|" * (policy.n_types + 1)]
    for place, prompt in enumerate(prompts):
        cells = [render_prompt(prompt, policy.tokenizer), *(texts[place] for texts in answers)]
        lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """One line that no markup in it can leave; quotes stay as they are, for the table is printed, too."""
    return escape_long(text).replace("&#39;", "'").replace("&#34;", '"')
