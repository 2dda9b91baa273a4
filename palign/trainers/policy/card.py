"""What lies beside the weights of a trained policy: README.md for people, and who it was told is asking."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from palign.conditioning import CONDITIONING, TEMPLATE, PolicyConditioning, WhoIsAsking, conditioning_record
from palign.models.files.card import POLICY, base_note, named, render, shown, table
from palign.trainers.policy.config import PersonalPolicyConfig
from palign.trainers.policy.rows import PolicyRows
from palign.writing import write_whole

__all__ = ["policy_card", "write_conditioning", "write_policy_card"]

TYPES = {
    PolicyConditioning.PROMPT: "The prompt says who is asking, by the number of the prototype that weighs most for "
    f"that person\nin {{reward}}:\n`{TEMPLATE.format(who='type 2', prompt='…')}`, or a system message "
    "(`palign.conditioning.condition_prompt`).\n"
    f"`{CONDITIONING}` says who is of which type, by the annotators' ids as they were given: replace ids that name a\n"
    "person before sharing.",
    PolicyConditioning.ADAPTER: "One adapter for each prototype of {reward}; a person is served by that of\n"
    f"their largest weight: `{CONDITIONING}` in the folder of all adapters says which.",
    PolicyConditioning.NONE: "None: every prompt is answered alike, whoever asks, and the reward is that of whoever "
    "it belonged to in training,\nby {reward}.",
}
LOAD_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
{imports}
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "PATH")"""
LOAD_WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer
{imports}
model = AutoModelForCausalLM.from_pretrained("PATH")"""
WHO_IMPORTS = "\nfrom palign.conditioning import WhoIsAsking"
RENDER_IMPORTS = "\nfrom palign.data.rendering import render_prompt\n"
TURN_IMPORTS = RENDER_IMPORTS + "from palign.data.turns import as_turn\n"
ASK = """
tokenizer = AutoTokenizer.from_pretrained("PATH")
prompt = "How is it?"  # or a list of messages
{turn}{who}text = render_prompt(prompt, tokenizer)
inputs = tokenizer(text, add_special_tokens={special}, return_tensors="pt")
answer = model.generate(input_ids=inputs["input_ids"], max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))"""
TURN = "prompt = as_turn(prompt)  # as in training\n"
WHO = """(prompt,) = WhoIsAsking.load("PATH").condition([prompt], ["ANNOTATOR_ID"])
"""


def policy_card(
    policy: nn.Module,
    conditioning: PolicyConditioning,
    rows: PolicyRows,
    history: Sequence[Mapping[str, Any]],
    *,
    algorithm: str,
    reward_model: str | None = None,
    plain_prompts: bool = True,
) -> str:
    """A card of `policy`, trained on `rows` by `algorithm` ('PPO', 'GRPO', 'RLOO') with `reward_model` (its folder or
    hub name); `history` has the metrics of every update and may be empty. `plain_prompts`: it reads them bare, or as
    turns.
    """
    is_adapter = isinstance(policy, PeftModel)
    base = policy.get_base_model() if is_adapter else policy
    groups = []
    for name in rows.group_names:
        rewards = [update[f"groups/{name}/reward"] for update in history if f"groups/{name}/reward" in update]
        if rewards:
            groups.append((shown(name), f"{rewards[0]:.2f}", f"{rewards[-1]:.2f}"))
    every = [update["objective/reward"] for update in history]
    if every:
        groups.append(("everybody", f"{every[0]:.2f}", f"{every[-1]:.2f}"))
    kl = history[-1].get("objective/kl") if history else None
    reward = f"the reward model `{named(reward_model)}`" if reward_model else "the reward model of its training"
    return render(
        POLICY, algorithm=algorithm, tag=algorithm.lower(),
        library="peft" if is_adapter else "transformers", what="A LoRA adapter" if is_adapter else "A copy",
        base_note=base_note(getattr(base, "name_or_path", None)) if is_adapter else "",
        base=named(getattr(base, "name_or_path", None)), conditioning=conditioning.value,
        types=TYPES[conditioning].replace("{reward}", reward), use=_use(is_adapter, conditioning, plain_prompts),
        n_rows=f"{len(rows.prompts):,}",
        n_annotators=f"{len(set(rows.annotator_ids)):,}", groups=table(groups or [("not trained yet", "–", "–")]),
        kl="–" if kl is None else f"{kl:.2f}",
    )  # fmt: skip


def write_policy_card(
    folder: Path,
    policy: nn.Module,
    args: PersonalPolicyConfig,
    rows: PolicyRows,
    history: Sequence[Mapping[str, Any]],
    *,
    algorithm: str,
    who: WhoIsAsking | None,
) -> None:
    """README.md and conditioning.json of a policy in `folder`; other arguments as of `policy_card`."""
    card = policy_card(
        policy, args.policy_conditioning, rows, history, algorithm=algorithm, reward_model=args.reward_model_path,
        plain_prompts=args.plain_prompts,
    )  # fmt: skip
    write_whole(folder / "README.md", card)
    write_conditioning(folder, args, who)


def write_conditioning(folder: Path, args: PersonalPolicyConfig, who: WhoIsAsking | None) -> None:
    """conditioning.json, which `WhoIsAsking.load` reads; of the reward model's path only the last part is kept."""
    reward_model = named(args.reward_model_path) if args.reward_model_path else None
    record = conditioning_record(args.policy_conditioning, who, reward_model, plain_prompts=args.plain_prompts)
    write_whole(folder / CONDITIONING, json.dumps(record, indent=1) + "\n")


def _use(is_adapter: bool, conditioning: PolicyConditioning, plain_prompts: bool) -> str:
    """Code that asks the policy as it was asked in training."""
    is_told = conditioning is PolicyConditioning.PROMPT
    imports = (WHO_IMPORTS if is_told else "") + (RENDER_IMPORTS if plain_prompts else TURN_IMPORTS)
    special = "isinstance(prompt, str)"  # TRL begins plain texts with bos
    ask = ASK.format(turn="" if plain_prompts else TURN, who=WHO if is_told else "", special=special)
    return (LOAD_ADAPTER if is_adapter else LOAD_WHOLE).format(imports=imports) + ask
