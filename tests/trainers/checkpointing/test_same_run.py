"""Which run a checkpoint is of: rows by content, options that decide, processes; and what does not count."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import TrainingArguments

from palign.data.preferences import Preferences
from palign.rewards import PersonalizedReward
from palign.trainers.checkpointing.same_run import (
    RUN,
    adapter_options,
    deciding_options,
    refuse_another_run,
    rows_key,
    run_record,
)
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.pal_grpo_config import PALGRPOConfig
from palign.trainers.pal_reward_config import PALRewardConfig
from palign.trainers.policy.resume import reward_record
from palign.trainers.policy.rows import PolicyRows
from tests.worlds.tiny_policy import IdReward

ROWS = [
    {"annotator_id": f"p{i % 3}", "prompt": f"drink {i // 2}?", "chosen": f"tea {i}", "rejected": "milk"}
    for i in range(6)
]
QUIET = {"use_cpu": True, "report_to": "none"}


def key(rows: list[dict[str, Any]]) -> str:
    return rows_key(Preferences.from_rows([dict(row) for row in rows]))


def test_equal_rows_have_one_key_however_they_came() -> None:
    """Texts that are held and not read, and further columns, do not count."""
    more = [{**row, "annotator_id": "x", "chosen": f"held out {i}"} for i, row in enumerate(ROWS)]
    mixed = [row for pair in zip(more, ROWS, strict=True) for row in pair]
    part = Preferences.from_rows(mixed).select(np.arange(1, 12, 2))
    assert rows_key(part) == key(ROWS) and len(part.items) > 7
    assert key([{**row, "country": "IE"} for row in ROWS]) == key(ROWS)
    talks = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    assert key(talks) == key(talks) != key(ROWS)


@pytest.mark.parametrize(
    "other",
    [
        [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS],
        [*ROWS[1:], ROWS[0]],
        ROWS[:-1],
        [*ROWS[:-1], {**ROWS[-1], "annotator_id": "p9"}],
        [*ROWS[:-1], {**ROWS[-1], "rejected": "water"}],
        [*ROWS[:-1], {**ROWS[-1], "prompt": "food?"}],
        [*ROWS[:-1], {**ROWS[-1], "prompt": "drink 0?"}],
        [{"annotator_id": row["annotator_id"], "prompt": row["prompt"], "completions": [row["chosen"], "milk"],
          "ratings": [1, 1 if i == 3 else 0]} for i, row in enumerate(ROWS)],
    ],
)  # fmt: skip
def test_other_rows_have_another(other: list[dict[str, Any]]) -> None:
    assert key(other) != key(ROWS)


def test_rows_of_vectors() -> None:
    first = Preferences.from_arrays(["a", "b"], np.array([0, 1]), np.array([2, 3]))
    assert rows_key(first) == rows_key(Preferences.from_arrays(["a", "b"], np.array([0, 1]), np.array([2, 3])))
    assert rows_key(first) != rows_key(Preferences.from_arrays(["a", "b"], np.array([0, 1]), np.array([3, 2])))


def test_rows_of_a_policy() -> None:
    """As the policy meets them: token ids (PPO), texts or messages (GRPO). Where a row ends counts."""

    def ppo(ids: list[list[int]], people: list[str]) -> str:
        return rows_key(PolicyRows(Dataset.from_dict({"input_ids": ids, "row": [0, 1]}), ["p", "q"], people, [], []))

    def grpo(*prompts: Any) -> str:
        return rows_key(PolicyRows(Dataset.from_dict({"prompt": prompts}), ["p", "q"], ["1", "2"], [], []))

    assert ppo([[1, 2], [3]], ["1", "2"]) == ppo([[1, 2], [3]], ["1", "2"])
    assert len({ppo([[1, 2], [3]], ["1", "2"]), ppo([[1], [2, 3]], ["1", "2"]), ppo([[1, 2], [3]], ["1", "3"])}) == 3
    whole = Dataset.from_dict({"input_ids": [[9], [1, 2], [3]]}).select(range(1, 3))
    assert rows_key(PolicyRows(whole, ["p", "q"], ["1", "2"], [], [])) == ppo([[1, 2], [3]], ["1", "2"])
    message = [{"role": "user", "content": "p"}]
    assert grpo("p", "q") == grpo("p", "q") != grpo("p", "r") and grpo(message, message) == grpo(message, message)


@pytest.mark.parametrize("kind", [TrainingArguments, PALRewardConfig, MixtureDPOConfig, PALGRPOConfig])
def test_what_cannot_change_the_result_is_no_option_of_a_run(kind: type, tmp_path: Path) -> None:
    one = kind(output_dir=str(tmp_path / "a"), **QUIET)
    idle = {
        "output_dir": str(tmp_path / "b"), "logging_steps": 7, "save_steps": 3, "save_strategy": "steps",
        "save_total_limit": 5, "disable_tqdm": True, "dataloader_num_workers": 2, "eval_strategy": "steps",
        "eval_steps": 2, "per_device_eval_batch_size": 16, "max_steps": 99, "num_train_epochs": 9, "run_name": "x",
        "gradient_checkpointing": True, "dataloader_pin_memory": False, "resume_from_checkpoint": "true",
    }  # fmt: skip
    assert deciding_options(one) == deciding_options(kind(**QUIET | idle))
    for name, value in {"learning_rate": 0.5, "seed": 3, "weight_decay": 0.3, "max_grad_norm": 9.0}.items():
        other = deciding_options(kind(output_dir=str(tmp_path), **QUIET, **{name: value}))
        assert [key for key, held in deciding_options(one).items() if held != other[key]] == [name]


def words(folder: Path, **changes: Any) -> dict[str, Any]:
    args = TrainingArguments(output_dir=str(folder), **QUIET, **changes)
    return run_record(args, Preferences.from_rows(ROWS), names={"b", "a"}, thing=object())


def test_what_differs_is_said_then_and_now(tmp_path: Path) -> None:
    then = words(tmp_path)
    (tmp_path / RUN).write_text(json.dumps(then), encoding="utf-8")
    refuse_another_run(tmp_path, words(tmp_path / "other"))  # by content: another object, another folder
    now = words(tmp_path, learning_rate=0.25) | {"n_processes": 2, "rows": "7 rows, key 12"}
    with pytest.raises(ValueError) as raised:
        refuse_another_run(tmp_path, now)
    said = str(raised.value)
    assert "rows 6 rows, key " in said and "(now 7 rows, key 12)" in said
    assert "n_processes 1 (now 2), learning_rate 5e-05 (now 0.25). Go on with the rows" in said
    assert "another output_dir" in said and "resume_from_checkpoint to false" in said


def test_options_of_other_versions_are_not_compared(tmp_path: Path) -> None:
    then = words(tmp_path)
    then["options"] |= {"gone": 1}
    then["options"].pop("weight_decay")
    (tmp_path / RUN).write_text(json.dumps(then), encoding="utf-8")
    refuse_another_run(tmp_path, words(tmp_path, weight_decay=0.5))


def test_runs_of_before_read_plain_prompts_bare(tmp_path: Path) -> None:
    """Their checkpoints say nothing of it, and a run that would read turns is another one."""
    then = words(tmp_path)
    assert "plain_prompts" not in then["options"]
    (tmp_path / RUN).write_text(json.dumps(then), encoding="utf-8")
    bare = words(tmp_path)
    bare["options"]["plain_prompts"] = True
    refuse_another_run(tmp_path, bare)
    bare["options"]["plain_prompts"] = False
    with pytest.raises(ValueError, match="plain_prompts True .now False."):
        refuse_another_run(tmp_path, bare)


def test_a_checkpoint_of_an_earlier_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Taken with a warning; its random states say how many processes wrote it."""
    now = words(tmp_path)
    with caplog.at_level(logging.WARNING):
        refuse_another_run(tmp_path, now)
        (tmp_path / "rng_state.pth").touch()
        refuse_another_run(tmp_path, now)
    assert caplog.text.count(f"has no {RUN}") == 2
    with pytest.raises(ValueError, match=r"n_processes 1 \(now 2\)"):
        refuse_another_run(tmp_path, now | {"n_processes": 2})
    for rank in range(2):
        (tmp_path / f"rng_state_{rank}.pth").touch()
    refuse_another_run(tmp_path, now | {"n_processes": 2})


def test_an_adapter_enters_by_what_its_weights_do_not_show() -> None:
    def of(**options: Any) -> dict[str, Any]:
        layers = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "b": torch.nn.Linear(4, 4)})
        return adapter_options(torch.nn.ModuleList([get_peft_model(layers, LoraConfig(**{"r": 2} | options))]))

    both = {"target_modules": ["b", "a"], "lora_alpha": 8}
    assert of(**both) == of(**both | {"target_modules": ["a", "b"]})
    assert of(**both)["peft lora_alpha"] == 8 and of(**both) != of(**both | {"lora_alpha": 16})
    assert adapter_options(torch.nn.Linear(1, 1)) == {}


def test_a_reward_enters_by_content() -> None:
    def of(value: float, **options: Any) -> dict[str, Any]:
        model = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(model.weight, value)
        torch.nn.init.zeros_(model.bias)
        return reward_record(PersonalizedReward(model, **options))

    assert of(1.0) == of(1.0) != of(2.0) and of(1.0)["reward"].startswith("Linear, key ")
    assert of(1.0, weights=[1.0, 0.0]) != of(1.0, weights=[0.0, 1.0])
    assert reward_record(PersonalizedReward(IdReward())) == {"reward": "IdReward", "prototype_weights": None}


def test_the_key_does_not_depend_on_how_indices_are_stored() -> None:
    rows = Preferences.from_rows(ROWS)
    same = replace(rows, item_indices=np.asfortranarray(rows.item_indices), ranks=np.asfortranarray(rows.ranks))
    assert rows_key(same) == rows_key(rows)
