"""Cards of everything that is saved: the same sections, nothing of a user's breaks out, no path of a machine."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from palign.conditioning import PolicyConditioning
from palign.data.annotators import AnnotatorIndex
from palign.models.files.card import SECTIONS, add_measured, named, render, shown
from palign.models.files.game import fair_card
from palign.models.files.mixture import MixtureRecord, mixture_card
from palign.models.files.pal import pal_card
from palign.models.pal import PALRewardModel
from palign.trainers.policy.card import policy_card

HOSTILE = "<script>alert(1)</script>|**x**\n## Fairness\n[a](http://b) `c` _d_"


def ends(value: list[float]) -> dict[str, list[float]]:
    return {"value": value, "low": value, "high": value}


def pal(**options: object) -> str:
    model = PALRewardModel.from_embeddings(
        hidden_size=3, annotators=AnnotatorIndex([HOSTILE, "b"]), n_prototypes=2, **options
    )
    model.people.store(torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    model.people.freeze_population(torch.tensor([1, 1]), seed=0)
    return pal_card(model, n_rows=1234)


def mixture(base: str | None = "owner/name") -> str:
    checks = [{"name": HOSTILE, "verdict": "look", "message": HOSTILE}]
    return mixture_card(MixtureRecord(
        AnnotatorIndex([HOSTILE, "b"]), np.eye(2), np.array([3, 4]), np.array([0.5, 0.5]), 0.1, 64, base,
        details={"checks": checks},
    ))  # fmt: skip


def fair(base: str = "owner/name") -> str:
    row = {
        "name": "distill", "is_within_budget": True, "worst_type": 0, "regrets": [0.1, 0.2], "votes": None,
        "max_regret": ends(0.2), "mean_regret": ends(0.1), "max_relative_regret": 0.5, "kl": {"value": 1.0},
    }  # fmt: skip
    game = {"policy_weights": ends([0.5, 0.5]), "type_weights": [0.4, 0.6], "value": ends(0.1), "gap": 0.0}
    return fair_card({
        "types": [HOSTILE, "b"], "mixing_weights": [0.5, 0.5], "table": [row], "chosen": "distill", "game": game,
        "base_model": base, "kl_budget": 2.0, "n_eval_prompts": 9, "n_prompts": 8, "notes": [HOSTILE],
    })  # fmt: skip


def ppo(base: str = "owner/name") -> str:
    rows = SimpleNamespace(prompts=["p"] * 3, annotator_ids=["a", "a", "b"], group_names=[HOSTILE, "g"])
    history = [
        {"objective/kl": 0.0, "objective/reward": -0.1, "groups/g/reward": 0.25},
        {"objective/kl": 1.5, "objective/reward": 0.7, "groups/g/reward": 1.0, f"groups/{HOSTILE}/reward": 2.0},
    ]
    base_model = SimpleNamespace(name_or_path=base)
    return policy_card(base_model, PolicyConditioning.PROMPT, rows, history, algorithm="PPO")


@pytest.mark.parametrize("card", [pal, mixture, fair, ppo])
def test_every_card_has_every_section_and_nothing_breaks_out(card) -> None:
    text = card()
    assert text.startswith("---\nlibrary_name: ") and "license" not in text
    found = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert [heading for heading in found if heading in SECTIONS] == list(SECTIONS)
    assert "<script" not in text and not re.search(r"(?<!\\)\]\(http", text) and "**x**" not in text
    assert not re.search(r"\{\w*\}", text)
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE):  # a cell more or less would shift a table
        rows = [line.replace("\\|", "") for line in block.splitlines()]
        assert len({row.count("|") for row in rows}) == 1, block


def test_cards_say_what_is_known() -> None:
    text = pal()
    assert "1,234 judgements of 2 annotators" in text and "ready vectors" in text
    assert "| `prototype_0` | 0.55 | 1 |" in text and "| `prototype_1` | 0.45 | 1 |" in text  # (.9 + .2) / 2
    text = ppo()
    assert "3 prompts of 2 people" in text and "| g | 0.25 | 1.00 |" in text and "| everybody | -0.10 | 0.70 |" in text
    assert "last update: 1.50 nats" in text and "`[reader: type 2] …`" in text


@pytest.mark.parametrize("path", ["/home/jane/models/llama-3", "~/llama-3", "./llama-3", "a/b/c/llama-3", "llama-3"])
def test_of_a_folder_only_the_last_part_is_shown(path: str) -> None:
    assert named(path) == "llama-3"
    for card in (mixture, fair, ppo):
        assert "llama-3" in card(path) and "jane" not in card(path) and "/llama-3" not in card(path)


def test_names_of_the_hub_and_none() -> None:
    assert named("owner/name-1.5_b") == "owner/name-1.5_b"
    assert named(None) == named("") == "its base model"
    assert named("a`b|c\n<d>") == "a_b_c__d_"


def test_what_is_shown() -> None:
    assert shown("type_0 is a_b") == "type_0 is a_b"
    assert shown("a|b\n# <i> _x_") == r"a\|b \# &lt;i&gt; \_x\_"


def test_measured_sentences_come_first_and_replace_those_before(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(pal(), encoding="utf-8")
    add_measured(tmp_path, ["pal: worst is <b>", "gap 0.1"])
    add_measured(tmp_path, ["gap 0.2"])
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    before = pal()
    assert "gap 0.1" not in text and "<b>" not in text
    assert re.search(r"## Fairness\n\n<!-- measured -->\n.*\n\n- gap 0.2\n<!-- end -->\n\nOne prototype would", text)
    assert re.sub(r"<!-- measured -->.*<!-- end -->\n\n", "", text, flags=re.DOTALL) == before
    (tmp_path / "README.md").write_text("# mine\n", encoding="utf-8")
    add_measured(tmp_path, ["gap 0.3"])
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# mine\n"


def test_a_template_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="base"):
        render("on {base}")
