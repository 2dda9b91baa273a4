"""Recipes are files, not modules of a package: load one by its name."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np

from palign.data.annotators import AnnotatorIndex
from palign.models.pal import PALRewardModel
from tests.worlds.scripts import ROOT, load_file
from tests.worlds.tiny_policy import named_rows, tiny_policy

RECIPES = ROOT / "recipes"


def load_recipe(name: str) -> ModuleType:
    """`recipes/<name>.py` as a module."""
    return load_file(RECIPES / f"{name}.py", f"{name}_recipe")


def finite(summary: dict[str, float]) -> bool:
    """Whether a summary holds numbers, all of them finite."""
    return all(isinstance(value, float) and np.isfinite(value) for value in summary.values())


CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def save_own(folder: Path, recipe_folder: Path, *, messages: bool = False) -> list[str]:
    """A policy, a PAL reward model that saw the people, and rows, as a user has them; the flags that name them.

    `messages`: prompts are lists of messages, and the tokenizers have a chat template.
    """
    policy, tokenizer = tiny_policy()
    tokenizer.chat_template = CHAT_TEMPLATE if messages else None
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    people = AnnotatorIndex([str(i) for i in range(40)])
    backbone, _ = tiny_policy(seed=1)
    reward_model = PALRewardModel.from_backbone(backbone, tokenizer=tokenizer, n_prototypes=2, annotators=people)
    reward_model.save_pretrained(folder / "reward")
    rows = [{"question": row["prompt"], "worker": int(row["annotator_id"]), "country": "IE"} for row in named_rows()]
    if messages:
        rows = [row | {"question": [{"role": "user", "content": row["question"]}]} for row in rows]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [
        "--model_name_or_path", str(folder / "policy"), "--reward_model_path", str(folder / "reward"),
        "--dataset_name", str(folder / "rows.jsonl"), "--output_dir", str(recipe_folder),
        "--prompt_column", "question",
        "--annotator_column", "worker", "--group_columns", "country",
    ]  # fmt: skip
