"""The README.md of a trained policy, for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftModel
from torch import nn

from palign.conditioning import TEMPLATE, PolicyConditioning
from palign.models.model_card import POLICY, named, render, shown, table
from palign.trainers.policy_rows import PolicyRows

__all__ = ["policy_card"]

TYPES = {
    PolicyConditioning.PROMPT: "The prompt says who is asking, by the number of the prototype that weighs most for "
    f"that person in the reward model:\n`{TEMPLATE.format(who='type 2', prompt='…')}`, or a system message "
    "(`palign.conditioning.condition_prompt`).",
    PolicyConditioning.ADAPTER: "One adapter for each prototype of the reward model; a person is served by that of "
    "their largest weight.",
    PolicyConditioning.NONE: "None: every prompt is answered alike, whoever asks, and the reward is that of whoever "
    "it belonged to in training.",
}
USE_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "PATH")"""
USE_WHOLE = """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("PATH")"""


def policy_card(
    policy: nn.Module,
    conditioning: PolicyConditioning,
    rows: PolicyRows,
    history: Sequence[Mapping[str, Any]],
    *,
    algorithm: str,
) -> str:
    """A card of `policy`, trained on `rows` by `algorithm` ('PPO', 'GRPO', 'RLOO'); `history` has the metrics of every
    update and may be empty.
    """
    is_adapter = isinstance(policy, PeftModel)
    base = policy.get_base_model() if is_adapter else policy
    groups = []
    for name in rows.group_names:
        found = [update[f"groups/{name}/reward"] for update in history if f"groups/{name}/reward" in update]
        if found:
            groups.append((shown(name), f"{found[0]:.2f}", f"{found[-1]:.2f}"))
    every = [update["objective/reward"] for update in history]
    if every:
        groups.append(("everybody", f"{every[0]:.2f}", f"{every[-1]:.2f}"))
    kl = history[-1].get("objective/kl") if history else None
    return render(
        POLICY, algorithm=algorithm, tag=algorithm.lower(),
        library="peft" if is_adapter else "transformers", what="A LoRA adapter" if is_adapter else "A copy",
        base=named(getattr(base, "name_or_path", None)), conditioning=conditioning.value, types=TYPES[conditioning],
        use=USE_ADAPTER if is_adapter else USE_WHOLE, n_rows=f"{len(rows.prompts):,}",
        n_annotators=f"{len(set(rows.annotator_ids)):,}", groups=table(groups or [("not trained yet", "–", "–")]),
        kl="–" if kl is None else f"{kl:.2f}",
    )  # fmt: skip
