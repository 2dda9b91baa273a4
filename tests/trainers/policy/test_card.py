"""The code on a policy's card runs as it stands, and asks the policy as it was asked in training."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from peft import get_peft_model

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.trainers.policy.card import write_policy_card
from tests.worlds.lora import lora
from tests.worlds.tiny_policy import tiny_policy

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
ROWS = SimpleNamespace(prompts=["p"] * 3, annotator_ids=["a", "a", "b"], group_names=[])
EVIL = '../b"]) or {x} `</p>\n'


def save(folder: Path, conditioning: str, *, algorithm: str = "PPO", adapter: bool = False, chat: bool = False) -> str:
    """A policy with card, tokenizer and conditioning.json, as a trainer leaves it → the code on the card."""
    model, tokenizer = tiny_policy()
    model.save_pretrained(folder / "base")
    tokenizer.chat_template = CHAT if chat else None
    policy = get_peft_model(model, lora(4)) if adapter else model
    policy.save_pretrained(folder / "p")
    tokenizer.save_pretrained(folder / "p")
    args: Any = SimpleNamespace(
        policy_conditioning=PolicyConditioning(conditioning),
        reward_model_path="/home/jane/pal",
        show_annotator_id=False,
        plain_prompts=not chat,
    )
    who = WhoIsAsking({"a": 0, EVIL: 2}, 3) if conditioning == "prompt" else None
    write_policy_card(folder / "p", policy, args, ROWS, [], algorithm=algorithm, who=who)
    card = (folder / "p" / "README.md").read_text(encoding="utf-8")
    assert "jane" not in card and (conditioning == "none" or "the reward model `pal`" in " ".join(card.split()))
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    return code.replace('"PATH"', repr(str(folder / "p"))).replace('"BASE"', repr(str(folder / "base")))


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("algorithm", ["PPO", "GRPO"])
@pytest.mark.parametrize("conditioning", ["prompt", "adapter", "none"])
def test_the_code_on_the_card_runs(
    conditioning: str, algorithm: str, adapter: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = save(tmp_path, conditioning, algorithm=algorithm, adapter=adapter)
    names: dict[str, Any] = {}
    exec(code.replace('"ANNOTATOR_ID"', repr(EVIL)), names)
    assert names["text"] == ("[reader: type 2] How is it?" if conditioning == "prompt" else "How is it?")
    assert capsys.readouterr().out.endswith("\n") and 1 <= len(names["answer"]) <= 64
    if conditioning == "prompt":
        with pytest.raises(ValueError, match="'ANNOTATOR_ID' has no fitted type"):
            exec(code, {})


def test_messages_are_told_by_a_system_message(tmp_path: Path) -> None:
    code = save(tmp_path, "prompt", algorithm="RLOO", chat=True).replace('"ANNOTATOR_ID"', '"a"')
    names: dict[str, Any] = {}
    exec(code.replace('"How is it?"', '[{"role": "user", "content": "How is it?"}]'), names)
    assert names["text"] == "<system>The reader is type 0.<user>How is it?<assistant>"
    exec(code, names := {})  # a plain prompt is a user's turn, as it was in training
    assert names["text"] == "<system>The reader is type 0.<user>How is it?<assistant>"


def test_ids_are_data_and_of_the_reward_model_only_the_last_part_is_kept(tmp_path: Path) -> None:
    save(tmp_path, "prompt")
    record = json.loads((tmp_path / "p" / "conditioning.json").read_text(encoding="utf-8"))
    assert record == {
        "policy_conditioning": "prompt", "reward_model": "pal", "plain_prompts": True, "show_annotator_id": False,
        "n_types": 3,
        "types": {"a": 0, EVIL: 2},
    }  # fmt: skip
    assert WhoIsAsking.load(tmp_path / "p") == WhoIsAsking({"a": 0, EVIL: 2}, 3)
    save(tmp_path / "n", "none")
    record = json.loads((tmp_path / "n" / "p" / "conditioning.json").read_text(encoding="utf-8"))
    assert record == {"policy_conditioning": "none", "reward_model": "pal", "plain_prompts": True}
