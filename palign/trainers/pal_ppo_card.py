"""The README.md of a policy that PPO trained, for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftModel
from torch import nn

from palign.conditioning import TEMPLATE, PolicyConditioning
from palign.models.model_card import PPO, named, render, shown, table
from palign.trainers.pal_ppo_data import PolicyRows

__all__ = ["ppo_card"]

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


def ppo_card(
    policy: nn.Module, conditioning: PolicyConditioning, rows: PolicyRows, history: Sequence[Mapping[str, Any]]
) -> str:
    """A card of `policy`, trained on `rows`; `history` has the metrics of every update and may be empty."""
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
    return render(
        PPO, library="peft" if is_adapter else "transformers", what="A LoRA adapter" if is_adapter else "A copy",
        base=named(getattr(base, "name_or_path", None)), conditioning=conditioning.value, types=TYPES[conditioning],
        use=USE_ADAPTER if is_adapter else USE_WHOLE, n_rows=f"{len(rows.prompts):,}",
        n_annotators=f"{len(set(rows.annotator_ids)):,}", groups=table(groups or [("not trained yet", "–", "–")]),
        kl=f"{history[-1]['objective/kl']:.2f}" if history else "–",
    )  # fmt: skip
